"""The scorecard of an audit: figures against thresholds, and what to do if one is crossed. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

#: Bytes of memory that a task needs for each byte of a value as JSON: the text itself, and the Python objects made from
#: it. Measured with ``json.loads`` on CPython 3.11: 2 for one long text, 5 for records, 7 for lists of small things.
MEMORY_FACTOR = 6


class Verdict(StrEnum):
    """How a metric stands."""

    WARN = "WARN"
    PASS = "pass"  # noqa: S105 - no password
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Figures:
    """What an audit has measured; None if unknown. Bytes, seconds, days, and shares from 0 to 1."""

    #: Of the largest value in the database, as JSON.
    largest_bytes: int | None = None
    push_seconds: float | None = None
    pull_seconds: float | None = None
    encryption_seconds: float | None = None
    #: Whether a probe was made that could see an encryption.
    was_probed: bool = False
    #: Whether every canary came back unchanged and was removed.
    probe_intact: bool | None = None
    #: What compression saves: 0.6 leaves 40%.
    compression_reduction: float | None = None
    #: Connections in use, as a share of max_connections.
    connections_share: float | None = None
    #: The table's share of the database.
    database_share: float | None = None
    #: Of the pages that were read, the share found in memory.
    cache_hit_share: float | None = None
    #: The share of rows that are dead.
    dead_share: float | None = None
    days_since_enforced: int | None = None
    #: Rows that a cleanup should have deleted days ago.
    overdue_rows: int | None = None
    #: Of the busiest task on its busiest day.
    pushes_a_day: int | None = None
    #: Of the mapped task with the most instances.
    fan_out: int | None = None
    #: How long a push of the largest value would take.
    largest_push_seconds: float | None = None
    days_to_limit: int | None = None
    #: Whether there is a trend that a forecast could follow.
    has_trend: bool = False
    secrets: int | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where a metric starts to warn; the ``warn_*`` settings."""

    value_bytes: int
    latency_seconds: float
    encryption_seconds: float
    memory_bytes: int
    compression_share: float
    connections_share: float
    database_share: float
    cache_hit_share: float
    dead_share: float
    pushes_per_day: int
    fan_out: int
    forecast_days: int
    #: None: cleanups need not enforce.
    not_enforced_days: float | None
    heartbeat_seconds: float


@dataclass(frozen=True, slots=True)
class Line:
    """One metric."""

    #: For programs and alerts: lower case.
    name: str
    title: str
    value: float | None
    threshold: float | None
    #: bytes, seconds, share, days, or "" for a number of things: says how value and threshold are written.
    unit: str
    verdict: Verdict
    #: What to do, or why the verdict is unknown; empty if it passes.
    advice: str = ""


_NOT_PROBED = "The live probe did not run or failed; see the warnings"


def judge(found: Figures, limits: Thresholds) -> list[Line]:
    """Every metric, those that warn first and those that are unknown last."""
    order = list(Verdict)
    return sorted(_lines(found, limits), key=lambda line: order.index(line.verdict))


def _lines(found: Figures, limits: Thresholds) -> Iterator[Line]:
    yield _above(
        "value_size",
        "Largest value in the database",
        found.largest_bytes,
        limits.value_bytes,
        "bytes",
        "Use an object-storage XCom backend (the threshold table helps to choose a threshold), or push a path instead",
    )
    for name, title, value in (
        ("push_latency", "Slowest push", found.push_seconds),
        ("pull_latency", "Slowest pull", found.pull_seconds),
    ):
        yield _above(
            name,
            title,
            value,
            limits.latency_seconds,
            "seconds",
            "Check the path from the workers to the API server, the database and the object store",
            _NOT_PROBED,
        )
    yield _above(
        "database_load",
        "Database load: connections in use",
        found.connections_share,
        limits.connections_share,
        "share",
        "Put a connection pooler such as PgBouncer in front of the database, or raise max_connections",
    )
    yield _above(
        "database_share",
        "The table's share of the database",
        found.database_share,
        limits.database_share,
        "share",
        "Run xcom_cleanup in enforce mode, and move large values to object storage",
    )
    yield _below(
        "cache_hits",
        "Buffer cache hit ratio of the table",
        found.cache_hit_share,
        limits.cache_hit_share,
        "share",
        "The table no longer fits into database memory: shrink it, or raise shared_buffers",
    )
    yield _above(
        "dead_rows",
        "Dead rows",
        found.dead_share,
        limits.dead_share,
        "share",
        "Autovacuum cannot keep up: set vacuum to true for xcom_cleanup, or lower autovacuum_vacuum_scale_factor",
    )
    yield _above(
        "memory",
        "Memory a task needs for the largest value",
        None if found.largest_bytes is None else found.largest_bytes * MEMORY_FACTOR,
        limits.memory_bytes,
        "bytes",
        "Push a path instead and read the data in chunks; a worker runs several tasks at once",
    )
    yield _cleanup(found, limits)
    yield _above(
        "overdue_rows",
        "Rows a cleanup should have deleted",
        found.overdue_rows,
        0,
        "",
        "Check the xcom_cleanup reports: it may be in report mode, run out of time, or lack an approval",
    )
    yield _encryption(found, limits)
    yield _below(
        "compression",
        "Reduction by compression",
        found.compression_reduction,
        limits.compression_share,
        "share",
        "Set [common.io] xcom_objectstorage_compression; values that are already compressed or encrypted do not shrink",
        "There are no values above 10 KB to measure",
    )
    yield _above(
        "pushes_a_day",
        "Most pushes by one task in a day",
        found.pushes_a_day,
        limits.pushes_per_day,
        "",
        "Combine many small values into one push, or keep state in a table of your own",
    )
    yield _above(
        "fan_out",
        "Largest fan-out of a mapped task",
        found.fan_out,
        limits.fan_out,
        "",
        "Every mapped task instance pushes its own rows: map over batches, or set do_xcom_push=False",
    )
    yield _above(
        "push_time",
        "Time to push the largest value",
        found.largest_push_seconds,
        limits.heartbeat_seconds / 2,
        "seconds",
        "A push longer than [scheduler] task_instance_heartbeat_timeout fails the task: push a path instead",
    )
    yield _forecast(found, limits)
    if found.probe_intact is not None:
        verdict = Verdict.PASS if found.probe_intact else Verdict.WARN
        advice = "" if found.probe_intact else "A canary came back changed or was not removed: see the live probe"
        yield Line("probe_intact", "Canaries came back intact", float(found.probe_intact), None, "", verdict, advice)
    if found.secrets is not None:
        yield _above(
            "secrets",
            "Possible secrets in values",
            found.secrets,
            0,
            "",
            "Rotate them, and store them in a Connection or a secrets backend instead of XCom",
        )


def _above(
    name: str, title: str, value: float | None, threshold: float, unit: str, advice: str, unknown: str = ""
) -> Line:
    """A metric that warns above its threshold."""
    if value is None:
        return Line(name, title, None, threshold, unit, Verdict.UNKNOWN, unknown)
    warn = value > threshold
    return Line(name, title, value, threshold, unit, Verdict.WARN if warn else Verdict.PASS, advice if warn else "")


def _below(
    name: str, title: str, value: float | None, threshold: float, unit: str, advice: str, unknown: str = ""
) -> Line:
    """A metric that warns below its threshold."""
    if value is None:
        return Line(name, title, None, threshold, unit, Verdict.UNKNOWN, unknown)
    warn = value < threshold
    return Line(name, title, value, threshold, unit, Verdict.WARN if warn else Verdict.PASS, advice if warn else "")


def _cleanup(found: Figures, limits: Thresholds) -> Line:
    name, title = "cleanup", "Days since the last enforced cleanup"
    if limits.not_enforced_days is None:
        return Line(name, title, found.days_since_enforced, None, "days", Verdict.PASS)
    return _above(
        name,
        title,
        found.days_since_enforced,
        limits.not_enforced_days,
        "days",
        "Review an xcom_cleanup report, then set its mode to enforce",
        "xcom_cleanup has never run with this report path: unpause it",
    )


def _encryption(found: Figures, limits: Thresholds) -> Line:
    name, title = "encryption", "Encryption time per push"
    if found.was_probed and found.encryption_seconds is None:
        advice = "The backend does not encrypt"
        return Line(name, title, None, limits.encryption_seconds, "seconds", Verdict.PASS, advice)
    return _above(
        name,
        title,
        found.encryption_seconds,
        limits.encryption_seconds,
        "seconds",
        "Encrypt in the object store instead of in the task, or cache the key",
        _NOT_PROBED,
    )


def _forecast(found: Figures, limits: Thresholds) -> Line:
    name, title = "forecast", "Days until the table reaches a limit"
    if found.days_to_limit is None:
        if found.has_trend:
            return Line(
                name,
                title,
                None,
                limits.forecast_days,
                "days",
                Verdict.PASS,
                "Not at the current growth",
            )
        return Line(
            name,
            title,
            None,
            limits.forecast_days,
            "days",
            Verdict.UNKNOWN,
            "A trend needs two audits",
        )
    return _below(
        name,
        title,
        found.days_to_limit,
        limits.forecast_days,
        "days",
        "Run xcom_cleanup in enforce mode, lower max_age_days, or move large values to object storage",
    )
