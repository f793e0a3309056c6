"""Checks that a cleanup plan is plausible. Pure: figures in, objections out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from include.xcom_maintenance.core.sizes import human_bytes
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.guard import SHARE_MATTERS_FROM, Objection, above_limit

#: More than any clock synchronized over the network drifts.
CLOCKS_MAY_DIFFER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class CleanupFigures:
    """What a cleanup plans."""

    rows: int
    bytes: int
    rows_in_table: int
    #: How far the database's clock is ahead of the worker's.
    clock_ahead: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class CleanupLimits:
    """A plan above one of these needs approval. None: no limit."""

    rows: int | None = None
    bytes: int | None = None
    share: float | None = None


def judge_cleanup(figures: CleanupFigures, limits: CleanupLimits) -> list[Objection]:
    """Objections to a cleanup plan."""
    share = figures.rows / figures.rows_in_table if figures.rows_in_table else 0.0
    objections = []
    if abs(figures.clock_ahead) > CLOCKS_MAY_DIFFER:
        objections.append(
            Objection(
                f"The clocks of the metadata database and this worker differ by {abs(figures.clock_ahead)}, so "
                "row ages cannot be trusted",
                "metadata_conn_id",
                "Fix the wrong clock, then run the DAG again",
            )
        )
    for what, found, limit, setting in (
        (counted(figures.rows, "row"), figures.rows, limits.rows, "max_delete_rows"),
        (f"{human_bytes(figures.bytes)} of values", figures.bytes, limits.bytes, "max_delete_bytes"),
    ):
        if limit is not None and found > limit:
            of = human_bytes(limit) if setting == "max_delete_bytes" else f"{limit:,}"
            objections.append(above_limit(f"{what} would be deleted, more than the limit of {of}", setting))
    if limits.share is not None and figures.rows >= SHARE_MATTERS_FROM and share > limits.share:
        objections.append(
            above_limit(
                f"{share:.0%} of the XCom rows would be deleted, more than the limit of {limits.share:.0%}",
                "max_delete_share",
            )
        )
    return objections
