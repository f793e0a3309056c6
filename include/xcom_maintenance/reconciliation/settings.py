"""The settings of ``xcom_orphan_reconciliation``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from include.xcom_maintenance.settings.common import CommonSettings
from include.xcom_maintenance.settings.fields import Days, Positive, Share, no_bool


class ReconciliationSettings(CommonSettings):
    """What counts as an orphan, what becomes of it, and above which limits a run asks first."""

    HINTS: ClassVar[dict[str, str]] = {
        "grace_period_days": "Use a number of days, at least 1",
    }

    #: A blob younger than this is never an orphan: its row may still be on its way.
    grace_period_days: Annotated[float, BeforeValidator(no_bool), Field(ge=1, le=36_500)] = 7
    #: Above these a reconciliation asks first; None: no limit. The share is one of the blobs.
    max_orphan_share: Share = 0.5
    max_orphan_blobs: Positive | None = None
    max_orphan_bytes: Positive | None = None
    #: Of the references of the last reconciliation; if more have gone and left orphans, it is refused.
    max_reference_shrink: Share = 0.5
    #: A manifest that is older is not carried out any more, as after a long wait for approval.
    max_manifest_age_days: Days = 7
    #: What becomes of an orphan: quarantine moves it beside the base path, where it stays for so many days; or delete.
    disposal: Literal["quarantine", "delete"] = "quarantine"
    quarantine_days: Days = 30
    #: Whether the rows of dangling references go, so that a task that pulls one fails aloud instead of getting a path.
    delete_dangling_rows: bool = False
    #: A task gets at least about so many blobs to compare or orphans to sweep.
    shard_blobs: Positive = 250_000
    #: Whether blobs whose names do not say whose they are can be orphans: for a base path of one Airflow alone.
    claim_unowned_blobs: bool = False

    @property
    def grace_period(self) -> timedelta:
        return timedelta(days=self.grace_period_days)
