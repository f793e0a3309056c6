"""The end of a cleanup: the blobs of the rows that are gone, what earlier runs left half done, VACUUM, the report."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import PartialFailure, SharesFailed, UnreadableManifest
from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.jobs.deletion import Shard
from include.xcom_maintenance.jobs.job import Job, Progress, heap_set_aside
from include.xcom_maintenance.jobs.sweep import Swept, ledger_of, sweep
from include.xcom_maintenance.reports.report import Table

#: Blobs looked up at once before they are swept.
_HEADS_AT_ONCE = 1_000
#: The phase of the tasks that worked at the same time: the longest of them.
_DELETING = "delete rows"


@heap_set_aside()
def finish(job: Job, shards: list[Shard]) -> None:
    """Purge the blobs whose rows are gone, and what earlier runs left behind; put everything into the report.

    :param shards: as they were shared out.
    :raises SharesFailed: if a shard did not come to its end.
    :raises PartialFailure: if blobs could not be deleted; everything else was done.
    """
    report = job.report
    errors = _collect(job, shards)
    if errors:
        raise SharesFailed(
            f"{len(errors)} of {len(shards)} tasks did not delete all of their rows: {'; '.join(sorted(set(errors)))}",
            remedy="What was deleted is counted. Clear the tasks that failed, or let the next run go on",
        )
    failed = 0
    deadline = datetime.fromisoformat(shards[0]["deadline"]) if shards and shards[0]["deadline"] else None
    if job.blobs is not None:
        left = _purge(job, job.blobs, *job.own_plan(), suffix="", deadline=deadline)
        if left == 0:
            job.place.clear_pending()
        failed = (left or 0) + _finish_earlier_runs(job, job.blobs, deadline)
    else:
        job.place.clear_pending()
    if job.settings.vacuum and report.headline["rows_deleted"]:
        vacuum(job)
    if failed:
        raise PartialFailure(
            f"{failed} blobs could not be deleted; their rows are gone",
            setting="blob_base_path",
            remedy="See the report for what the store said; the next run tries again",
        )
    report.finish("enforced")


def _collect(job: Job, shards: list[Shard]) -> list[str]:
    """Put the figures of the shards into the report; returns why some of them did not come to their end."""
    parts = [(shard["shard"], job.place.read_part(f"shard-{shard['shard']}") or {}) for shard in shards]
    headline = job.report.headline
    for name in ("rows_deleted", "bytes_deleted", "transactions", "rows_left"):
        headline[name] = sum(part.get(name, 0) for _, part in parts)
    longest = max((part.get("longest_transaction_seconds", 0.0) for _, part in parts), default=0.0)
    headline["longest_transaction_seconds"] = longest
    job.report.phases = [phase for phase in job.report.phases if phase["name"] != _DELETING]
    job.report.phases.append(
        {"name": _DELETING, "seconds": max((part.get("seconds", 0) for _, part in parts), default=0)}
    )
    columns = ["task", "rows", "stored bytes", "transactions", "seconds", "of those waiting", "rows left", "stopped"]
    names = ["rows_deleted", "bytes_deleted", "transactions", "seconds", "seconds_waited", "rows_left", "stopped"]
    if parts:
        rows = [[number, *(part.get(name) for name in names)] for number, part in parts]
        job.report.put(Table("Rows deleted, by task", columns, rows), first=True)
    for why in sorted({part["stopped"] for _, part in parts if part.get("stopped")}):
        warning = f"{headline['rows_left']:,} rows of the plan are left, because {why}. The next run goes on with them."
        job.report.warnings += [warning] if warning not in job.report.warnings else []
    return [part.get("error") or "killed; see the logs of delete_rows" for _, part in parts if not part.get("done")]


def _purge(
    job: Job,
    blobs: BlobStore,
    header: dict[str, Any],
    lines: Iterator[dict[str, Any]],
    *,
    suffix: str,
    deadline: datetime | None,
) -> int | None:
    """Delete the blobs that a manifest names, as far as their rows are gone.

    :param suffix: of the names of the figures in the headline.
    :returns: how many failed; None if the time was up before all were looked at.
    """
    swept = Swept()
    formats = job.settings.formats
    keys = (line["key"] for line in lines if line["kind"] == "blob" and formats.coordinates_of(line["key"]) is not None)
    looked_up = _LookedUp(blobs, keys, deadline)
    reason = f"its row was deleted by run {header['run_id']}"
    ledger = ledger_of(job, blobs, part="earlier" if suffix else "", reason=reason)
    try:
        with job.report.phase(f"purge blobs{suffix}"), ledger:
            sweep(
                iter(looked_up),
                into=swept,
                blobs=blobs,
                metadata=job.metadata,
                modified_before=datetime.fromisoformat(header["planned_at"]),
                progress=Progress(job.log, "Blobs looked at", total=job.report.headline.get("blobs_to_purge")),
                ledger=ledger,
                formats=formats,
            )
    finally:
        figures = job.report.headline
        figures[f"blobs_deleted{suffix}"] = ledger.blobs["deleted"]
        figures[f"blob_bytes_deleted{suffix}"] = ledger.bytes["deleted"]
        swept.describe(job.report, job.log, f"Blobs that stay{suffix.replace('_', ' ')}", gone=ledger.blobs["deleted"])
    if looked_up.out_of_time:
        job.report.warnings.append(
            "The time budget (max_minutes) was used up before all blobs were purged. The next run goes on with them."
        )
        return None
    return swept.failed


class _LookedUp:
    """The blobs of some keys, as they are now, until the time is up."""

    def __init__(self, blobs: BlobStore, keys: Iterator[str], deadline: datetime | None) -> None:
        self._blobs, self._keys, self._deadline = blobs, keys, deadline
        self.out_of_time = False

    def __iter__(self) -> Iterator[Blob]:
        while batch := list(islice(self._keys, _HEADS_AT_ONCE)):
            if self._deadline is not None and datetime.now(UTC) >= self._deadline:
                self.out_of_time = True
                return
            yield from self._blobs.head(list(dict.fromkeys(batch)))


def _finish_earlier_runs(job: Job, blobs: BlobStore, deadline: datetime | None) -> int:
    """Purge what runs that were killed between row and blob left behind; returns how many blobs failed."""
    failed = 0
    for name in job.place.pending_manifests():
        try:
            lines = job.place.read_manifest(name)
            header = next(lines)
            if not job.is_for_us(header):
                job.report.warnings.append(
                    f"{name} is pending and left alone: it is for another database or base path."
                )
                continue
            job.log.info("An earlier run did not finish its manifest %s; its blobs are purged now", name)
            left = _purge(job, blobs, header, lines, suffix="_for_earlier_runs", deadline=deadline)
        except UnreadableManifest as error:
            job.report.warnings.append(f"{name} is pending and cannot be read: {error.problem}. Delete it by hand.")
            continue
        if left == 0:
            job.place.clear_pending(name)
        failed += left or 0
    return failed


def vacuum(job: Job) -> None:
    """Let new rows use the space of the deleted ones, and say honestly what that gives back."""
    if not job.metadata.may_vacuum():
        job.report.warnings.append(
            "vacuum is set, but the role of the connection may not vacuum the table: it must own it, or on Postgres 17 "
            "and later have the right MAINTAIN (GRANT MAINTAIN ON xcom TO ...). Autovacuum does it sooner or later."
        )
        return
    before = job.metadata.table_health()
    with job.report.phase("vacuum"):
        job.metadata.vacuum()
    after = job.metadata.table_health()
    rows: list[list[Any]] = [
        [what, getattr(before, name), getattr(after, name)]
        for what, name in (
            ("rows", "heap_bytes"),
            ("large values (TOAST)", "toast_bytes"),
            ("indexes", "index_bytes"),
            ("all", "total_bytes"),
        )
    ]
    note = (
        "VACUUM lets new rows use the space of deleted ones. It gives back to the operating system only what is empty "
        "at the very end of the table, so the size on disk may hardly change; only VACUUM FULL or pg_repack shrink it."
    )
    job.report.put(Table("VACUUM", ["part of the table", "bytes before", "bytes after"], rows, note))
