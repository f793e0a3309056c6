"""How old a blob is, as far as its time of modification can be believed: the one place that decides it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

#: Airflow appeared in 2015, so nothing that it wrote is older. Times before that come from copies that kept none (0,
#: 1970, 1980) and from clocks without a battery.
FLOOR = datetime(2015, 1, 1, tzinfo=UTC)
#: The clocks of the store and of the database may differ: S3 refuses requests whose clock is further off than this.
TOLERANCE = timedelta(minutes=15)
#: Stores tell times in whole seconds, cut off: a blob may have been written this much later than they say.
_WHOLE_SECONDS = timedelta(seconds=1)


class Age(StrEnum):
    """What a time of modification says about a blob, seen from a moment."""

    OLD = "written before"
    YOUNG = "written later"
    #: There is no time, or none that can be right. That counts as written now.
    UNKNOWN = "unknown"


def believed(modified: datetime | None, *, now: datetime | None = None) -> datetime | None:
    """A time of modification, or None if it cannot be right.

    :param now: times that are later by more than ``TOLERANCE`` cannot be right (UTC); None: those are not looked for.
    """
    if modified is None or modified < FLOOR or (now is not None and modified > now + TOLERANCE):
        return None
    return modified


def age_of(modified: datetime | None, *, before: datetime, now: datetime) -> Age:
    """Whether a blob was surely written before a moment.

    :param modified: its time of modification as the store tells it.
    :param before: the moment (UTC).
    :param now: by the clock that ``before`` was taken from (UTC).
    """
    if (known := believed(modified, now=now)) is None:
        return Age.UNKNOWN
    return Age.OLD if known + _WHOLE_SECONDS <= before else Age.YOUNG
