"""Is this plan plausible? Pure: figures in, objections out.

An objection means: stop and let a person look. Wrong databases and wrong prefixes look exactly like many orphans.
"""

from __future__ import annotations

from dataclasses import dataclass

from include.xcom_maintenance.core.sizes import human_bytes
from include.xcom_maintenance.flow.guard import SHARE_MATTERS_FROM, Objection, above_limit

#: Fewer references that have gone are not worth a person's time.
SHRINKING_MATTERS_FROM = 100


@dataclass(frozen=True, slots=True)
class ReconciliationFigures:
    """What a reconciliation found."""

    #: Blobs of a known layout, orphans included.
    recognised_blobs: int
    orphan_blobs: int
    #: Blobs that a row refers to.
    referenced_blobs: int
    #: Where a row was found whose reference cannot be read; None if there is none.
    unparsable: str | None
    orphan_bytes: int = 0
    references: int = 0
    #: When the last reconciliation of this base path looked; None if it is not known.
    references_before: int | None = None
    #: Rows that would be deleted since their blobs are gone.
    dangling_rows: int = 0


@dataclass(frozen=True, slots=True)
class ReconciliationLimits:
    """Above the first three a reconciliation is large; above the last it is implausible."""

    share: float = 1
    blobs: int | None = None
    bytes: int | None = None
    #: Of the references that there were before, as far as orphans may be the blobs that they led to.
    shrink: float = 1


def judge_reconciliation(figures: ReconciliationFigures, limits: ReconciliationLimits) -> list[Objection]:
    """Objections to disposing of the orphans of a reconciliation."""
    objections = []
    if figures.unparsable is not None:
        objections.append(
            Objection(
                f"A row holds a reference that cannot be read: {figures.unparsable}",
                "blob_base_path",
                "Correct or delete that row, then run again",
            )
        )
    if figures.orphan_blobs and not figures.referenced_blobs:
        objections.append(
            Objection(
                f"No row refers to any of the {figures.recognised_blobs:,} blobs, which is what a wrong database or a "
                "wrong base path looks like",
                "blob_base_path",
                "Check that the connection and the base path belong to the same Airflow",
            )
        )
    if figures.dangling_rows >= SHRINKING_MATTERS_FROM and figures.dangling_rows > limits.shrink * figures.references:
        objections.append(
            Objection(
                f"The blobs of {figures.dangling_rows:,} of {figures.references:,} references are gone, which is what "
                "a wrong endpoint or an emptied bucket looks like",
                "delete_dangling_rows",
                "Check the blob connection; if the blobs are really gone, set max_reference_shrink to 1 for one run in "
                "the trigger form",
            )
        )
    return objections + _judge_shrinking(figures, limits) + _judge_size(figures, limits)


def _judge_shrinking(figures: ReconciliationFigures, limits: ReconciliationLimits) -> list[Objection]:
    """Have many references gone, and left their blobs behind?

    A cleanup deletes rows and their blobs, so what it took are no orphans: only as many of the references that have
    gone can have left a blob behind as there are orphans. So a cleanup never makes a reconciliation stop, however
    much it took. What does is rows that went without their blobs: by ``airflow db clean``, or since this is another
    database.
    """
    before = figures.references_before
    if not before:
        return []
    lost = min(before - figures.references, figures.orphan_blobs)
    if lost < SHRINKING_MATTERS_FROM or lost / before <= limits.shrink:
        return []
    return [
        Objection(
            f"Of {before:,} references that there were in the last reconciliation {before - figures.references:,} have "
            f"gone, and there are {figures.orphan_blobs:,} orphans, as if this were another database or an old copy",
            "max_reference_shrink",
            "If rows were deleted on purpose without their blobs, as airflow db clean does, set max_reference_shrink "
            "to 1 for one run in the trigger form; later runs compare with what is there then",
        )
    ]


def _judge_size(figures: ReconciliationFigures, limits: ReconciliationLimits) -> list[Objection]:
    objections = []
    share = figures.orphan_blobs / figures.recognised_blobs if figures.recognised_blobs else 0.0
    if figures.orphan_blobs >= SHARE_MATTERS_FROM and share > limits.share:
        objections.append(
            above_limit(
                f"{share:.0%} of the blobs are orphans, more than the limit of {limits.share:.0%}", "max_orphan_share"
            )
        )
    if limits.blobs is not None and figures.orphan_blobs > limits.blobs:
        objections.append(
            above_limit(
                f"{figures.orphan_blobs:,} blobs are orphans, more than the limit of {limits.blobs:,}",
                "max_orphan_blobs",
            )
        )
    if limits.bytes is not None and figures.orphan_bytes > limits.bytes:
        found, limit = human_bytes(figures.orphan_bytes), human_bytes(limits.bytes)
        objections.append(above_limit(f"Orphans hold {found}, more than the limit of {limit}", "max_orphan_bytes"))
    return objections
