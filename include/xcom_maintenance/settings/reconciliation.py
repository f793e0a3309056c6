"""The settings of ``xcom_orphan_reconciliation``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from include.xcom_maintenance.settings.fields import Place, Share, no_bool


class ReconciliationSettings(BaseModel):
    """A part of ``Settings``. Times are days or seconds, sizes bytes, as the names say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: A blob younger than this is never an orphan: its row may still be on its way.
    grace_period_days: Annotated[float, BeforeValidator(no_bool), Field(ge=1, le=36_500)] = 7
    #: Of the blobs; above this a reconciliation stops and changes nothing.
    max_orphan_share: Share = 0.5

    #: A manifest.json of an S3 Inventory, or the folder of the dated folders: the listing, instead of LIST calls.
    inventory_manifest: Place | None = None

    @property
    def grace_period(self) -> timedelta:
        return timedelta(days=self.grace_period_days)
