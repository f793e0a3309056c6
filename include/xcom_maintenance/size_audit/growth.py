"""How fast the table grows, when it reaches a size, and which DAGs grow differently. Pure: audits in, figures out.

Rules, as ``docs/reports.md`` gives them to users:

* The *trend* is the slope of a straight line through the sizes of the table at this and the past audits (least
  squares), in bytes a day. Audits less than ``SHORTEST_SPAN`` apart make none.
* The *forecast* goes on from today's size along that line, if it rises.
* The *growth of a DAG* is what it pushed on the last complete day (UTC), as far as it is still in the table, and the
  growth before is the same figure of the newest past audit that looked at an earlier day. It is an anomaly if it at
  least doubled or halved and changed by at least ``least_bytes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

#: Audits closer together than this show what happened to be pushed in between, not a trend.
SHORTEST_SPAN = timedelta(hours=1)
#: Nothing is forecast beyond this.
FARTHEST = timedelta(days=3_650)
#: By how much a DAG's growth has to change to be an anomaly.
FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class DagGrowth:
    """What a DAG has in the table, and what it pushed on the last complete day before an audit."""

    bytes: int
    pushes_a_day: int
    bytes_a_day: int


@dataclass(frozen=True, slots=True)
class PastAudit:
    """The headline of an audit, as far as growth needs it."""

    moment: datetime
    #: Heap, TOAST and indexes together.
    table_bytes: int
    #: The last complete day (UTC) that the figures by DAG are about; None if it said nothing of DAGs.
    day: date | None = None
    dags: Mapping[str, DagGrowth] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Forecast:
    """When the table reaches a size."""

    limit_bytes: int
    #: None: not while it grows as it does, or not for ten years.
    day: date | None
    #: Whether it is that large already.
    reached: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """How the growth of a DAG changed since an earlier audit; bytes that it pushed in a day."""

    dag_id: str
    bytes_a_day: int
    bytes_a_day_before: int
    pushes_a_day: int
    pushes_a_day_before: int
    is_anomaly: bool


def day_number(moment: datetime) -> int:
    """Days since 1970-01-01, in UTC."""
    return int(moment.timestamp() // 86_400)


def day_of(number: int) -> date:
    """The day of a ``day_number``."""
    return date(1970, 1, 1) + timedelta(days=number)


def trend(audits: Sequence[PastAudit]) -> float | None:
    """Bytes per day by which the table grows; negative if it shrinks; None if there is too little data.

    :param audits: in any order, this one among them.
    """
    if len(audits) < 2:
        return None
    first = min(audit.moment for audit in audits)
    days = [(audit.moment - first) / timedelta(days=1) for audit in audits]
    if max(days) < SHORTEST_SPAN / timedelta(days=1):
        return None
    mean_day, mean_size = sum(days) / len(days), sum(audit.table_bytes for audit in audits) / len(audits)
    spread = sum((day - mean_day) ** 2 for day in days)
    together = sum((day - mean_day) * (audit.table_bytes - mean_size) for day, audit in zip(days, audits, strict=True))
    return together / spread


def forecasts(now: PastAudit, bytes_a_day: float | None, limits: Sequence[int]) -> list[Forecast]:
    """When the table reaches each of some sizes.

    :param bytes_a_day: the trend; None if there is none.
    """
    found = []
    for limit in limits:
        missing = limit - now.table_bytes
        if missing <= 0:
            found.append(Forecast(limit, now.moment.date(), reached=True))
        elif bytes_a_day is None or bytes_a_day <= 0 or missing / bytes_a_day > FARTHEST / timedelta(days=1):
            found.append(Forecast(limit, None))
        else:
            found.append(Forecast(limit, (now.moment + timedelta(days=missing / bytes_a_day)).date()))
    return found


def earlier_day(now: PastAudit, past: Sequence[PastAudit]) -> PastAudit | None:
    """The newest past audit that can be compared by DAG: one that looked at an earlier day."""
    comparable = [audit for audit in past if audit.day is not None and now.day is not None and audit.day < now.day]
    return max(comparable, key=lambda audit: audit.moment, default=None)


def changes(now: PastAudit, past: Sequence[PastAudit], *, least_bytes: int) -> list[Change]:
    """The DAGs whose growth changed since the last audit of an earlier day, the largest change first.

    :param least_bytes: a change of fewer bytes a day is no anomaly.
    """
    before = earlier_day(now, past)
    if before is None:
        return []
    nothing = DagGrowth(0, 0, 0)
    found = []
    for dag_id in now.dags.keys() | before.dags.keys():
        new, old = now.dags.get(dag_id, nothing), before.dags.get(dag_id, nothing)
        if new.bytes_a_day == old.bytes_a_day and new.pushes_a_day == old.pushes_a_day:
            continue
        low, high = sorted((new.bytes_a_day, old.bytes_a_day))
        anomaly = high - low >= least_bytes and high >= FACTOR * low
        found.append(
            Change(dag_id, new.bytes_a_day, old.bytes_a_day, new.pushes_a_day, old.pushes_a_day, is_anomaly=anomaly)
        )
    return sorted(found, key=lambda c: (-abs(c.bytes_a_day - c.bytes_a_day_before), c.dag_id))
