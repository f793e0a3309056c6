"""The settings of ``xcom_size_audit``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from include.xcom_maintenance.core.sizes import GB, KB, MB
from include.xcom_maintenance.retention.settings import RetentionSettings
from include.xcom_maintenance.settings.fields import Count, Days, Positive, Seconds, Share, no_bool

#: Seconds as a threshold: any that is not negative.
_AnySeconds = Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=86_400, allow_inf_nan=False)]


class AuditSettings(RetentionSettings):
    """Budgets, thresholds and options of an audit. The names say whether times are days or seconds; sizes are bytes."""

    DERIVED: ClassVar[frozenset[str]] = frozenset({"heartbeat_timeout_seconds"})

    #: How much of the values an audit reads to measure them as JSON; beyond that it samples.
    audit_budget_rows: Positive = 200_000
    audit_budget_bytes: Positive = 128 * MB
    audit_budget_seconds: Seconds = 60
    #: The most blobs it lists; beyond that it samples.
    audit_budget_blobs: Count = 200_000

    #: Table sizes to forecast a date for.
    growth_limits_bytes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (20 * GB, 50 * GB)
    #: How many past audits the trend uses.
    trend_audits: Annotated[int, BeforeValidator(no_bool), Field(ge=2, le=1_000)] = 30
    #: A smaller change of a DAG's growth (bytes per day) is no anomaly.
    anomaly_bytes: Positive = MB

    #: Thresholds of the scorecard.
    warn_value_bytes: Positive = 48 * KB
    warn_latency_seconds: _AnySeconds = 1
    warn_encryption_seconds: _AnySeconds = 0.1
    warn_memory_bytes: Positive = 100 * MB
    warn_compression_share: Share = 0.5
    warn_connections_share: Share = 0.8
    warn_database_share: Share = 0.5
    warn_cache_hit_share: Share = 0.9
    warn_dead_share: Share = 0.2
    warn_pushes_per_day: Positive = 1_000
    warn_fan_out: Positive = 1_000
    warn_forecast_days: Positive = 30
    #: Rows are overdue if the retention rules should have deleted them this long ago.
    warn_overdue_days: Days = 2
    #: A push may take half of this; None: as Airflow is configured.
    heartbeat_timeout_seconds: Seconds | None = None
    #: Whether a crossed threshold fails the run, after its report is written.
    fail_on_breach: bool = False

    #: Push and pull canary values through the configured XCom backend.
    probe: bool = True
    #: For all canaries together; whatever takes longer has failed.
    probe_timeout_seconds: Annotated[float, BeforeValidator(no_bool), Field(ge=1, le=3_600, allow_inf_nan=False)] = 60

    #: Look for secrets in values, newest first, within the limits that follow.
    secrets_scan: bool = True
    secrets_max_values: Positive = 20_000
    #: Of values as JSON: all together, and the largest one.
    secrets_max_bytes: Positive = 64 * MB
    secrets_max_value_bytes: Annotated[Positive, Field(le=64 * MB)] = 256 * KB
    secrets_max_seconds: Seconds = 60

    #: Reports are pruned when they are older; None: never.
    keep_reports_days: Days | None = 180
