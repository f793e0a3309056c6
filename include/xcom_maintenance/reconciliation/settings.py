"""The settings of ``xcom_orphan_reconciliation``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from include.xcom_maintenance.settings.common import CommonSettings
from include.xcom_maintenance.settings.fields import Days, Positive, Share, no_bool


class ReconciliationSettings(CommonSettings):
    """What counts as an orphan, what is done with it, and the limits above which a plan needs approval."""

    HINTS: ClassVar[dict[str, str]] = {
        "grace_period_days": "Use a number of days, at least 1",
    }

    #: A blob younger than this (days) is never an orphan: its row may be still to come.
    grace_period_days: Annotated[float, BeforeValidator(no_bool), Field(ge=1, le=36_500)] = 7
    #: A plan above one of these needs approval. None: no limit. The share is of all blobs.
    max_orphan_share: Share = 0.5
    max_orphan_blobs: Positive | None = None
    max_orphan_bytes: Positive | None = None
    #: A plan is refused if more than this share of the last references disappeared, leaving orphans.
    max_reference_shrink: Share = 0.5
    #: An older manifest is not carried out, for example after a long wait for approval.
    max_manifest_age_days: Days = 7
    #: quarantine moves an orphan next to the base path, where it stays for ``quarantine_days``; delete deletes it.
    disposal: Literal["quarantine", "delete"] = "quarantine"
    quarantine_days: Days = 30
    #: Whether to delete the rows of dangling references, so that a task that pulls one gets None, as if nothing had
    #: been pushed, instead of a path. Rows of which a pull fails are kept.
    delete_dangling_rows: bool = False
    #: Each task gets at least about this many blobs to compare or orphans to sweep.
    shard_blobs: Positive = 250_000
    #: Whether unowned blobs can be orphans: only for a base path that no other Airflow uses.
    claim_unowned_blobs: bool = False

    @property
    def grace_period(self) -> timedelta:
        return timedelta(days=self.grace_period_days)
