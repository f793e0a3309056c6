"""Split the plan between tasks that may run on different workers."""

from __future__ import annotations

from include.xcom_maintenance.cleanup import batches
from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.courtesy import deadline_of
from include.xcom_maintenance.flow.shards import Shard
from include.xcom_maintenance.sweep.owner import claim

#: This many stored bytes take about as long as one row: to delete, or (True) to read and archive.
_BYTES_LIKE_A_ROW = {False: 4_000, True: 250}


def share_out(job: CleanupJob) -> list[Shard]:
    """Split the run's manifest into shards of about equal work; the first step with an effect outside the report path.

    As many shards as the rows and bytes justify, at most ``max_shards``.

    :raises ConfigurationError: if the manifest is not this run's plan for the current configuration.
    :raises ImplausiblePlan: if another database has claimed the base path.
    """
    settings = job.settings
    _, lines = job.own_plan()
    weights = [(line["rows"], line["bytes"]) for line in lines if line["kind"] == batches.KIND]
    if job.blobs is not None and (job.report.headline["blobs_to_purge"] or job.place.pending_manifests()):
        claim(job.blobs, job.identity)
    job.place.mark_pending()
    deadline = deadline_of(settings)
    found = shares(
        weights,
        shard_rows=settings.shard_rows,
        shard_bytes=settings.shard_rows * _BYTES_LIKE_A_ROW[job.archives.root is not None],
        max_shards=settings.max_shards,
    )
    shards: list[Shard] = [
        {"shard": number, "first": first, "last": last, "deadline": deadline.isoformat() if deadline else None}
        for number, (first, last) in enumerate(found, 1)
    ]
    job.log.info("Split %s between %s", counted(len(weights), "batch", "batches"), counted(len(shards), "task"))
    return shards


def shares(
    weights: list[tuple[int, int]], *, shard_rows: int, shard_bytes: int, max_shards: int
) -> list[tuple[int, int]]:
    """Split batches into ranges of about equal work, each given by its first and last position; none is empty.

    :param weights: rows and bytes of each batch. Both count alike, since either may take the time.
    :param shard_rows: this many rows, or ``shard_bytes``, are worth a shard of their own.
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
