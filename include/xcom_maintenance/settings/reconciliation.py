"""The settings of ``xcom_orphan_reconciliation``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from include.xcom_maintenance.core.reference_formats import KNOWN, Formats, Layout, layout
from include.xcom_maintenance.settings.fields import Days, Place, Positive, Share, no_bool


class BlobFormat(BaseModel):
    """How a backend of one's own names its blobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    #: A Python regular expression for a whole key below the base path, with the named groups ``unique`` (a UUID or 32
    #: hexadecimal digits), ``dag_id``, ``run_id`` and ``task_id``; and ``file`` where several blobs share ``unique``.
    key: Annotated[str, Field(min_length=1, max_length=1_000)]

    @model_validator(mode="after")
    def _usable(self) -> BlobFormat:
        self.layout()
        return self

    def layout(self) -> Layout:
        return layout(self.name, self.key)


class ReconciliationSettings(BaseModel):
    """A part of ``Settings``. Times are days or seconds, sizes bytes, as the names say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    #: Layouts beside the known ones.
    blob_formats: tuple[BlobFormat, ...] = ()
    #: Whether blobs whose names do not say whose they are can be orphans: for a base path of one Airflow alone.
    claim_unowned_blobs: bool = False
    #: A manifest.json of an S3 Inventory, or the folder of the dated folders: the listing, instead of LIST calls.
    inventory_manifest: Place | None = None

    @property
    def formats(self) -> Formats:
        """In which blobs are named."""
        return KNOWN.and_also(declared.layout() for declared in self.blob_formats)

    @property
    def grace_period(self) -> timedelta:
        return timedelta(days=self.grace_period_days)
