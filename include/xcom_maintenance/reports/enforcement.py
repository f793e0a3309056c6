"""When a DAG first ran, and when it last enforced: a DAG can be green for months without deleting anything.

Kept beside the reports of the DAG, as ``.enforcement``. No run id leads to a file that begins with a dot, and whoever
collects the reports as ``*.json`` does not find it among them.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from include.xcom_maintenance.reports.place import ReportPlace

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger("xcom_maintenance")

#: How a warning about it begins.
WARNING = "No run has enforced for "


@dataclass(frozen=True, slots=True)
class Enforcement:
    """What is known of one DAG."""

    first_run: datetime
    last_enforced: datetime | None = None

    def days_without(self, now: datetime) -> int:
        """Whole days since a run enforced; since the first run if none ever did."""
        return (now - (self.last_enforced or self.first_run)).days

    def warning(self, *, now: datetime, limit_days: float | None, mode: str) -> str | None:
        """The warning if it has been too long.

        :param limit_days: None for never.
        :param mode: of the run that asks.
        """
        days = self.days_without(now)
        if limit_days is None or days < limit_days:
            return None
        since = (
            f"the last one finished on {self.last_enforced:%Y-%m-%d}"
            if self.last_enforced
            else f"none has since the first run on {self.first_run:%Y-%m-%d}"
        )
        remedy = (
            "This run is in enforce mode; if it does not finish either, the reports of earlier runs say why"
            if mode == "enforce"
            else "Review a report and set mode to enforce, or set warn_not_enforced_days to null to only report"
        )
        return f"{WARNING}{days} days: {since}, so the table keeps growing. {remedy}."


def enforcement_of(place: ReportPlace, *, now: datetime, enforced: bool = False) -> Enforcement:
    """What is known of the DAG of this place; the first run is remembered, and so is a run that enforced.

    Never raises: it is not worth a run. What cannot be read counts as a first run.
    """
    path = place.beside(".enforcement")
    known = _read(path)
    if known is not None and not enforced:
        return known
    known = Enforcement(known.first_run if known else now, now if enforced else None)
    try:
        last = known.last_enforced.isoformat() if known.last_enforced else None
        path.write_text(json.dumps({"first_run": known.first_run.isoformat(), "last_enforced": last}) + "\n")
    except Exception as error:  # noqa: BLE001 - every file system that fsspec knows raises its own errors
        log.warning(
            "The date of the last enforced run could not be saved: %s (setting: report_path)", type(error).__name__
        )
    return known


def known_enforcement(place: ReportPlace) -> Enforcement | None:
    """What is known of the DAG of this place, for others to read; None if it has never run."""
    return _read(place.beside(".enforcement"))


def _read(path: ObjectStoragePath) -> Enforcement | None:
    with suppress(Exception):
        found = json.loads(path.read_text(encoding="utf-8"))
        moments = [
            datetime.fromisoformat(found[name]) if found[name] else None for name in ("first_run", "last_enforced")
        ]
        first, last = (moment.astimezone(UTC) if moment else None for moment in moments)
        return Enforcement(first, last) if first else None
    return None
