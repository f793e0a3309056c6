"""The end of a cleanup: the blobs of the rows that are gone, what earlier runs left half done, VACUUM, the report."""

from __future__ import annotations

from datetime import datetime

from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.cleanup.purge import finish_earlier_runs, purge_blobs
from include.xcom_maintenance.core.errors import PartialFailure, SharesFailed
from include.xcom_maintenance.flow.collector import heap_set_aside
from include.xcom_maintenance.flow.shards import Shard
from include.xcom_maintenance.flow.vacuum import vacuum
from include.xcom_maintenance.reports.report import Table

#: The phase of the tasks that worked at the same time: the longest of them.
_DELETING = "delete rows"


@heap_set_aside()
def finish(job: CleanupJob, shards: list[Shard]) -> None:
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
    _account_for_rows(job)
    failed = 0
    deadline = datetime.fromisoformat(shards[0]["deadline"]) if shards and shards[0]["deadline"] else None
    if job.blobs is not None:
        left = purge_blobs(job, job.blobs, *job.own_plan(), suffix="", deadline=deadline)
        if left == 0:
            job.place.clear_pending()
        failed = (left or 0) + finish_earlier_runs(job, job.blobs, deadline)
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


def _account_for_rows(job: CleanupJob) -> None:
    """Say why rows of the plan are still there: what was planned is what was done, and these lines."""
    headline = job.report.headline
    left, planned = headline["rows_left"], headline.get("rows_to_delete", 0)
    reasons = {
        "left for the next run": left,
        "its run or a task of it is not finished any more, it is gone, or a rule keeps it by now": (
            planned - headline["rows_deleted"] - left
        ),
    }
    if rows := [[why, number] for why, number in reasons.items() if number > 0]:
        job.report.put(Table("Rows of the plan that were not deleted", ["reason", "rows"], rows), first=True)


def _collect(job: CleanupJob, shards: list[Shard]) -> list[str]:
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
