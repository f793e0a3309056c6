"""Delete the rows that a manifest names, shared out between tasks that may run on different workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, islice
from typing import Any

from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.jobs import batches
from include.xcom_maintenance.jobs.batches import Batch
from include.xcom_maintenance.jobs.cleanup import CurrentPolicy
from include.xcom_maintenance.jobs.courtesy import Courtesy
from include.xcom_maintenance.jobs.job import Job, Progress, heap_set_aside
from include.xcom_maintenance.jobs.ownership import claim
from include.xcom_maintenance.metadata.port import ArchiveSink

#: Seconds after which the figures of a shard are kept again: so much of the counting is lost to a kill, and no row is.
KEPT_EVERY = 10.0
#: So many stored bytes take about as long as a row does: to delete, or to archive, for which they are read.
_BYTES_LIKE_A_ROW = {False: 4_000, True: 250}
#: A shard, as it travels between tasks: its number from 1, and which batches of the manifest are its own, from 0.
Shard = dict[str, Any]


@heap_set_aside()
def share_out(job: Job) -> list[Shard]:
    """Divide the run's manifest into shards of about equal work; the first step that changes something outside.

    As many as there are rows and bytes for, at most ``max_shards``.

    :raises ConfigurationError: if the manifest is not this run's plan for what is configured now.
    :raises ImplausiblePlan: if the base path has become somebody else's.
    """
    settings = job.settings
    _, lines = job.own_plan()
    weights = [(line["rows"], line["bytes"]) for line in lines if line["kind"] == batches.KIND]
    if job.blobs is not None and (job.report.headline["blobs_to_purge"] or job.place.pending_manifests()):
        claim(job.blobs, job.identity)
    job.place.mark_pending()
    deadline = None
    if settings.max_minutes is not None:
        deadline = (datetime.now(UTC) + timedelta(minutes=settings.max_minutes)).isoformat()
    found = shares(
        weights,
        shard_rows=settings.shard_rows,
        shard_bytes=settings.shard_rows * _BYTES_LIKE_A_ROW[job.archives.root is not None],
        max_shards=settings.max_shards,
    )
    shards: list[Shard] = [
        {"shard": number, "first": first, "last": last, "deadline": deadline}
        for number, (first, last) in enumerate(found, 1)
    ]
    job.log.info("%s batches for %s tasks", f"{len(weights):,}", len(shards))
    return shards


def shares(
    weights: list[tuple[int, int]], *, shard_rows: int, shard_bytes: int, max_shards: int
) -> list[tuple[int, int]]:
    """Divide batches into runs of about equal work, given as their first and last positions; none is empty.

    :param weights: rows and bytes of each batch. They count alike, since either may be what takes the time.
    :param shard_rows: as many are worth a share of their own; so are ``shard_bytes``.
    """
    all_rows, all_bytes = sum(rows for rows, _ in weights), sum(size for _, size in weights)
    count = min(max(1, round(max(all_rows / shard_rows, all_bytes / shard_bytes))), max_shards, len(weights))
    found: list[tuple[int, int]] = []
    done, first = 0.0, 0
    for position, (rows, size) in enumerate(weights):
        share = rows / max(1, all_rows)
        done += (share + (size / all_bytes if all_bytes else share)) / 2
        if done >= (len(found) + 1) / count - 1e-9 or position + 1 == len(weights):
            found.append((first, position))
            first = position + 1
    return found


@heap_set_aside()
def delete_rows(job: Job, shard: Shard) -> dict[str, Any]:
    """Delete the rows of one shard; returns its figures, which are also kept where ``finish`` finds them."""
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
    # An attempt that is killed leaves no word; what an earlier one left must not say that all is done.
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
        # The text of an unknown error could quote a value.
        figures["error"] = error.problem if isinstance(error, MaintenanceError) else type(error).__name__
        raise
    finally:
        figures["seconds"] = round(figures["seconds"] + time.monotonic() - started, 3)
        figures["seconds_waited"] = round(figures["seconds_waited"] + courtesy.waited, 3)
        figures["stopped"] = courtesy.stopped if figures["rows_left"] else ""
        job.place.write_part(name, figures)
    job.log.info(
        "Deleted %s rows (%s bytes) in %s transactions",
        *(f"{figures[name]:,}" for name in ("rows_deleted", "bytes_deleted", "transactions")),
    )
    return figures


def _delete(job: Job, shard: Shard, figures: dict[str, Any], courtesy: Courtesy, keep: Callable[[], None]) -> None:
    header, lines = job.own_plan()
    own = list(
        islice((line for line in lines if line["kind"] == batches.KIND), shard["first"], shard["last"] + 1)
    )  # a line is about 100 bytes for each run, so this is small next to what the policy takes
    allowed = CurrentPolicy(job, datetime.fromisoformat(header["planned_at"])).cuts
    planned = sum(line["rows"] for line in own)
    progress = Progress(job.log, "Rows deleted", total=planned)
    archives = _archives(job, shard)
    max_rows, max_bytes = job.batch_bounds
    for batch in batches.read(own, allowed, max_rows=max_rows, max_bytes=max_bytes):
        if courtesy.stopped or not courtesy.go_on():
            figures["rows_left"] += batch.rows
            continue
        gone = _delete_batch(job, batch, figures, courtesy, archives, progress)
        keep()
        if courtesy.stopped:
            figures["rows_left"] += max(0, batch.rows - gone)
    # What an earlier attempt deleted is not left, though this one may have had no time to look.
    figures["rows_left"] = min(figures["rows_left"], max(0, planned - figures["rows_deleted"]))


def _delete_batch(
    job: Job,
    batch: Batch,
    figures: dict[str, Any],
    courtesy: Courtesy,
    archives: Iterator[Callable[[], AbstractContextManager[ArchiveSink]]] | None,
    progress: Progress,
) -> int:
    """Returns how many rows went."""
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
        if batch.limit is None or deleted.rows < batch.limit or not courtesy.go_on():
            return gone


def _archives(job: Job, shard: Shard) -> Iterator[Callable[[], AbstractContextManager[ArchiveSink]]] | None:
    """Where the rows of each batch go before they are deleted; None if no archive is configured."""
    if job.archives.root is None:
        return None
    origin = {"database": job.identity.owner, "dag_id": job.report.dag_id, "run_id": job.report.run_id}
    names = (f"shard-{shard['shard']}-{number:06}" for number in count(1))
    return (partial(job.archives.write, name, **origin) for name in names)
