"""The settings of ``xcom_size_audit``, and of how much every report shows."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from include.xcom_maintenance.settings.fields import Days, Positive, Seconds, no_bool


class AuditSettings(BaseModel):
    """A part of ``Settings``. Times are days or seconds, sizes bytes, as the names say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: How many lines the longest tables of a report have.
    top_entries: Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=1_000)] = 20

    #: Push and pull canary values through the XCom backend that this Airflow uses.
    probe: bool = True
    #: For all of them; what has not come back by then counts as failed.
    probe_timeout_seconds: Annotated[float, BeforeValidator(no_bool), Field(ge=1, le=3_600, allow_inf_nan=False)] = 60

    #: Look for secrets in values, newest first, within the limits that follow.
    secrets_scan: bool = True
    secrets_max_values: Positive = 20_000
    #: Of values as JSON text, in all and of one.
    secrets_max_bytes: Positive = 64 * 1024 * 1024
    secrets_max_value_bytes: Annotated[Positive, Field(le=64 * 1024 * 1024)] = 256 * 1024
    secrets_max_seconds: Seconds = 60

    #: Reports are pruned when they are older; None: never.
    keep_reports_days: Days | None = 180
