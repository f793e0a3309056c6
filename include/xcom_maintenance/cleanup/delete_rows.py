"""Delete the rows that a manifest names. The work is split between tasks that may run on different workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from itertools import count, islice
from typing import Any

from include.xcom_maintenance.cleanup import batches
from include.xcom_maintenance.cleanup.batches import Batch
from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.cleanup.recheck import CurrentPolicy
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.courtesy import Courtesy
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.flow.shards import Shard
from include.xcom_maintenance.metadata.ports.shared import OpenArchive

#: Seconds between two saves of a shard's figures. A kill loses this much of the count, but no row.
KEPT_EVERY = 10.0


def delete_rows(job: CleanupJob, shard: Shard) -> dict[str, Any]:
    """Delete the rows of one shard. Returns its figures, and saves them for ``finish``."""
    name = f"shard-{shard['shard']}"
    # A second attempt adds to what the first one did.
    figures: dict[str, Any] = {
        "rows_deleted": 0,
        "bytes_deleted": 0,
        "transactions": 0,
        "longest_transaction_seconds": 0.0,
        "seconds": 0.0,
        "seconds_waited": 0.0,
    } | (job.place.read_part(name) or {})
    figures |= {"done": False, "rows_left": 0, "stopped": "", "error": ""}
    # A killed attempt writes nothing, so the figures of an earlier one must not say that the shard is done.
    job.place.write_part(name, figures)
    started = time.monotonic()
    deadline = datetime.fromisoformat(shard["deadline"]) if shard["deadline"] else None
    courtesy = Courtesy(job.settings, job.metadata, job.log, deadline)
    kept = started

    def keep() -> None:
        nonlocal kept
        if time.monotonic() - kept >= KEPT_EVERY:
            job.place.write_part(name, figures)
            kept = time.monotonic()

    try:
        _delete(job, shard, figures, courtesy, keep)
        figures["done"] = True
    except Exception as error:
        # The message of an unexpected error might quote a value.
        figures["error"] = error.problem if isinstance(error, MaintenanceError) else type(error).__name__
        raise
    finally:
        figures["seconds"] = round(figures["seconds"] + time.monotonic() - started, 3)
        figures["seconds_waited"] = round(figures["seconds_waited"] + courtesy.waited, 3)
        figures["stopped"] = courtesy.stopped if figures["rows_left"] else ""
        job.place.write_part(name, figures)
    job.log.info(
        "Deleted %s (%s) in %s",
        counted(figures["rows_deleted"], "row"),
        counted(figures["bytes_deleted"], "byte"),
        counted(figures["transactions"], "transaction"),
    )
    return figures


def _delete(
    job: CleanupJob, shard: Shard, figures: dict[str, Any], courtesy: Courtesy, keep: Callable[[], None]
) -> None:
    header, lines = job.own_plan()
    own = list(
        islice((line for line in lines if line["kind"] == batches.KIND), shard["first"], shard["last"] + 1)
    )  # about 100 bytes per run, so little next to what the policy needs
    allowed = CurrentPolicy(job, datetime.fromisoformat(header["planned_at"])).cuts
    planned = sum(line["rows"] for line in own)
    progress = Progress(job.log, "Rows deleted", total=planned)
    archives = _archives(job, shard)
    max_rows, max_bytes = batches.batch_bounds(job)
    for batch in batches.read(own, allowed, max_rows=max_rows, max_bytes=max_bytes):
        if courtesy.stopped or not courtesy.go_on():
            figures["rows_left"] += batch.rows
            continue
        gone = _delete_batch(job, batch, figures, courtesy, archives, progress)
        keep()
        if courtesy.stopped:
            figures["rows_left"] += max(0, batch.rows - gone)
    # Rows that an earlier attempt deleted are not left, even if this attempt ran out of time before reaching them.
    figures["rows_left"] = min(figures["rows_left"], max(0, planned - figures["rows_deleted"]))


def _delete_batch(
    job: CleanupJob,
    batch: Batch,
    figures: dict[str, Any],
    courtesy: Courtesy,
    archives: Iterator[OpenArchive] | None,
    progress: Progress,
) -> int:
    """Returns how many rows were deleted."""
    gone = 0
    while True:
        started = time.monotonic()
        deleted = job.metadata.delete(batch.doomed, limit=batch.limit, archive=next(archives) if archives else None)
        seconds = round(time.monotonic() - started, 3)
        gone += deleted.rows
        figures["rows_deleted"] += deleted.rows
        figures["bytes_deleted"] += round(batch.bytes * deleted.rows / max(1, batch.rows))  # as planned
        figures["transactions"] += 1
        figures["longest_transaction_seconds"] = max(figures["longest_transaction_seconds"], seconds)
        progress.add(deleted.rows)
        if not deleted.more or not courtesy.go_on():
            return gone


def _archives(job: CleanupJob, shard: Shard) -> Iterator[OpenArchive] | None:
    """The archive file for each batch; None if no archive is configured."""
    if job.archives.root is None:
        return None
    origin = {"database": job.identity.owner, "dag_id": job.report.dag_id, "run_id": job.report.run_id}
    names = (f"shard-{shard['shard']}-{number:06}" for number in count(1))
    return (partial(job.archives.write, name, **origin) for name in names)
