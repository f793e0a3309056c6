"""Everything an audit found, in one record, and the figures for the scorecard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from include.xcom_maintenance.core.sizes import JSONB_STRING_LIMIT, KB, MB
from include.xcom_maintenance.core.table_figures import Entry, TableHealth
from include.xcom_maintenance.metadata.ports.size_audit import LongRun
from include.xcom_maintenance.size_audit.blobs import BlobSizes
from include.xcom_maintenance.size_audit.growth import (
    Change,
    DagGrowth,
    Forecast,
    PastAudit,
    changes,
    day_number,
    forecasts,
    trend,
)
from include.xcom_maintenance.size_audit.overdue import Overdue
from include.xcom_maintenance.size_audit.results import ProbeResult, SecretScan
from include.xcom_maintenance.size_audit.scorecard import Figures, Line, Thresholds, judge
from include.xcom_maintenance.size_audit.settings import AuditSettings
from include.xcom_maintenance.size_audit.sizes import Sizes

#: Days with figures of their own, not counting today.
WINDOW_DAYS = 14
#: The assumed speed of a push if there was no probe.
ASSUMED_BYTES_PER_SECOND = 10 * MB
#: Below this many rows the share of dead ones means nothing.
_FEW_ROWS = 10_000


@dataclass(slots=True)
class Findings:
    """Everything an audit has measured; None for what could not be determined."""

    moment: datetime
    sizes: Sizes
    #: Each with the size of its value as JSON, if known.
    entries: list[tuple[Entry, int | None]]
    health: TableHealth
    blobs: BlobSizes | None = None
    #: DAG -> whether it is stale; None if not known.
    dags: dict[str, bool] | None = None
    overdue: Overdue | None = None
    long_runs: list[LongRun] | None = None
    probes: list[ProbeResult] | None = None
    secrets: SecretScan | None = None
    days_since_enforced: int | None = None
    past: Sequence[PastAudit] = ()
    #: What follows from these, filled by ``conclude``.
    bytes_a_day: float | None = None
    forecasts: list[Forecast] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    scorecard: list[Line] = field(default_factory=list)

    @property
    def _places_with_secrets(self) -> int | None:
        """None if nothing was scanned, as opposed to nothing found."""
        scan = self.secrets
        if scan is None or (scan.problem and not scan.values and not scan.findings):
            return None
        return len(scan.findings)

    @property
    def last_day(self) -> date:
        """The last complete day, in UTC."""
        return self.moment.date() - timedelta(days=1)

    @property
    def now(self) -> PastAudit:
        """This audit, as a later one will see it."""
        day = day_number(self.moment) - 1
        growth = {}
        for dag_id, size in self.sizes.dags.items():
            pushed = self.sizes.dag_days[dag_id].get(day) if dag_id in self.sizes.dag_days else None
            growth[dag_id] = DagGrowth(size.stored, pushed.rows if pushed else 0, pushed.stored if pushed else 0)
        return PastAudit(self.moment, self.health.total_bytes, self.last_day, growth)

    @property
    def largest_bytes(self) -> int:
        """Of the largest value in the database, as JSON, as far as values were read."""
        known = [logical if logical is not None else entry.stored_bytes for entry, logical in self.entries]
        return max([*known, self.sizes.largest_logical])

    @property
    def missing_dags(self) -> dict[str, str]:
        """DAGs that have rows but no longer exist: DAG -> why."""
        if self.dags is None:
            return {}
        return {
            dag_id: "the DAG is no longer defined in any file" if dag_id in self.dags else "the DAG was deleted"
            for dag_id in self.sizes.dags
            if self.dags.get(dag_id, True)
        }

    @property
    def bytes_per_second(self) -> tuple[float, str]:
        """The bytes per second of a push, and where that figure comes from."""
        timed = [(p.value_bytes, p.push_seconds) for p in self.probes or () if p.push_seconds and p.intact]
        if not timed:
            return ASSUMED_BYTES_PER_SECOND, "assumed"
        size, seconds = max(timed)
        return size / seconds, "measured by the probe"

    @property
    def near_limit(self) -> list[tuple[Entry, int]]:
        """Values above half of the JSONB string limit, and their size."""
        sized = [(entry, entry.stored_bytes if logical is None else logical) for entry, logical in self.entries]
        return [(entry, size) for entry, size in sized if size > JSONB_STRING_LIMIT / 2]

    def conclude(self, settings: AuditSettings) -> None:
        """Work out growth and scorecard."""
        now = self.now
        self.bytes_a_day = trend([now, *self.past])
        self.forecasts = forecasts(now, self.bytes_a_day, settings.growth_limits_bytes)
        self.changes = changes(now, self.past, least_bytes=settings.anomaly_bytes)
        self.scorecard = judge(self._figures(), thresholds_of(settings))

    def _figures(self) -> Figures:
        health, sizes, probes = self.health, self.sizes, self.probes or []
        rows = (health.live_rows_estimate or 0) + (health.dead_rows_estimate or 0)
        days = [(f.day - self.moment.date()).days for f in self.forecasts if f.day is not None]
        largest = self.largest_bytes
        return Figures(
            largest_bytes=largest,
            push_seconds=max((p.push_seconds for p in probes if p.push_seconds is not None), default=None),
            pull_seconds=max((p.pull_seconds for p in probes if p.pull_seconds is not None), default=None),
            encryption_seconds=max(
                (p.encryption_seconds for p in probes if p.encryption_seconds is not None), default=None
            ),
            was_probed=any(p.push_seconds is not None for p in probes),
            probe_intact=all(p.intact and p.removed for p in probes) if probes else None,
            compression_reduction=self.compression_reduction,
            connections_share=_share(health.connections, health.max_connections),
            database_share=_share(health.total_bytes, health.database_bytes),
            cache_hit_share=health.cache_hit_share,
            dead_share=_share(health.dead_rows_estimate, max(rows, _FEW_ROWS)),
            days_since_enforced=self.days_since_enforced,
            overdue_rows=self.overdue.rows if self.overdue else None,
            pushes_a_day=sizes.busy_days[0][3] if sizes.busy_days else 0,
            fan_out=sizes.mapped[0][2] if sizes.mapped else 0,
            largest_push_seconds=largest / self.bytes_per_second[0],
            days_to_limit=min(days, default=None),
            has_trend=self.bytes_a_day is not None,
            secrets=self._places_with_secrets,
        )

    @property
    def compression_reduction(self) -> float | None:
        """As tasks see it, from the largest canary; otherwise what the database saves on values above 10 KB."""
        kept = [p for p in self.probes or () if p.stored_bytes is not None and p.value_bytes >= 10 * KB]
        if kept:
            largest = max(kept, key=lambda p: p.value_bytes)
            return max(0.0, 1 - (largest.stored_bytes or 0) / largest.value_bytes)
        return self.sizes.reduction(10 * KB)


def thresholds_of(settings: AuditSettings) -> Thresholds:
    """The thresholds as they are configured."""
    return Thresholds(
        value_bytes=settings.warn_value_bytes,
        latency_seconds=settings.warn_latency_seconds,
        encryption_seconds=settings.warn_encryption_seconds,
        memory_bytes=settings.warn_memory_bytes,
        compression_share=settings.warn_compression_share,
        connections_share=settings.warn_connections_share,
        database_share=settings.warn_database_share,
        cache_hit_share=settings.warn_cache_hit_share,
        dead_share=settings.warn_dead_share,
        pushes_per_day=settings.warn_pushes_per_day,
        fan_out=settings.warn_fan_out,
        forecast_days=settings.warn_forecast_days,
        not_enforced_days=settings.warn_not_enforced_days,
        heartbeat_seconds=settings.heartbeat_timeout_seconds or 300,
    )


def _share(part: int | None, whole: int | None) -> float | None:
    """Between 0 and 1, to four digits; None if unknown."""
    return None if part is None or not whole else round(part / whole, 4)
