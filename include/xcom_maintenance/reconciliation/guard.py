"""Checks that a reconciliation is plausible. Pure: figures in, objections out.

An objection means: stop and let a person look. A wrong database or a wrong prefix looks exactly like many orphans.
"""

from __future__ import annotations

from dataclasses import dataclass

from include.xcom_maintenance.core.sizes import human_bytes
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.guard import SHARE_MATTERS_FROM, Objection, above_limit

#: Fewer lost references than this are not worth a person's time.
SHRINKING_MATTERS_FROM = 100


@dataclass(frozen=True, slots=True)
class ReconciliationFigures:
    """What a reconciliation found."""

    #: Blobs of a known layout, orphans included.
    recognised_blobs: int
    orphan_blobs: int
    #: Blobs that a row refers to.
    referenced_blobs: int
    #: Where there is a row with an unreadable reference; None if there is none.
    unparsable: str | None
    orphan_bytes: int = 0
    references: int = 0
    #: In the last reconciliation of this base path; None if unknown.
    references_before: int | None = None
    #: Rows to delete because their blobs are missing.
    dangling_rows: int = 0


@dataclass(frozen=True, slots=True)
class ReconciliationLimits:
    """Above one of the first three a plan needs approval; above the last it is implausible."""

    share: float = 1
    blobs: int | None = None
    bytes: int | None = None
    #: Of the previous references: those that are lost and may have left an orphan.
    shrink: float = 1


def judge_reconciliation(figures: ReconciliationFigures, limits: ReconciliationLimits) -> list[Objection]:
    """Objections to disposing of the orphans of a reconciliation."""
    objections = []
    if figures.unparsable is not None:
        objections.append(
            Objection(
                f"A row holds an unreadable reference: {figures.unparsable}",
                "blob_base_path",
                "Fix or delete that row, then run the DAG again",
            )
        )
    if figures.orphan_blobs and not figures.referenced_blobs:
        objections.append(
            Objection(
                f"None of the blobs found ({figures.recognised_blobs:,}) is referenced by a row, which usually means a "
                "wrong database or base path",
                "blob_base_path",
                "Check that the connection and the base path belong to the same Airflow",
            )
        )
    if figures.dangling_rows >= SHRINKING_MATTERS_FROM and figures.dangling_rows > limits.shrink * figures.references:
        objections.append(
            Objection(
                f"The blobs of {figures.dangling_rows:,} of {figures.references:,} references are missing, which "
                "usually means a wrong endpoint or an emptied bucket",
                "delete_dangling_rows",
                "Check the blob connection. If the blobs really are missing, set max_reference_shrink to 1 for one run "
                "in the trigger form",
            )
        )
    return objections + _judge_shrinking(figures, limits) + _judge_size(figures, limits)


def _judge_shrinking(figures: ReconciliationFigures, limits: ReconciliationLimits) -> list[Objection]:
    """Have many references disappeared and left their blobs behind?

    A cleanup deletes blobs with their rows, so it leaves no orphans: at most as many lost references can have left a
    blob behind as there are orphans. So a cleanup never stops a reconciliation, however much it deleted. Rows deleted
    without their blobs do: by ``airflow db clean``, or because this is another database.
    """
    before = figures.references_before
    if not before:
        return []
    lost = min(before - figures.references, figures.orphan_blobs)
    if lost < SHRINKING_MATTERS_FROM or lost / before <= limits.shrink:
        return []
    return [
        Objection(
            f"{before - figures.references:,} of {before:,} references of the last reconciliation have disappeared, "
            f"and there are {figures.orphan_blobs:,} orphan blobs: is this another database, or an old copy?",
            "max_reference_shrink",
            "If rows were deleted on purpose without their blobs, as airflow db clean does, set max_reference_shrink "
            "to 1 for one run in the trigger form; later runs compare with the references of that run",
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
                f"{counted(figures.orphan_blobs, 'orphan blob')} found, more than the limit of {limits.blobs:,}",
                "max_orphan_blobs",
            )
        )
    if limits.bytes is not None and figures.orphan_bytes > limits.bytes:
        found, limit = human_bytes(figures.orphan_bytes), human_bytes(limits.bytes)
        objections.append(above_limit(f"Orphan blobs hold {found}, more than the limit of {limit}", "max_orphan_bytes"))
    return objections
