"""The settings of ``xcom_size_audit``, and of how much every report shows."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from include.xcom_maintenance.settings.fields import no_bool


class AuditSettings(BaseModel):
    """A part of ``Settings``. Times are days or seconds, sizes bytes, as the names say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: How many lines the longest tables of a report have.
    top_entries: Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=1_000)] = 20
