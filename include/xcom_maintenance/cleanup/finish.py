"""The end of a cleanup: blobs of deleted rows, blobs that earlier runs left behind, VACUUM, the report."""

from __future__ import annotations

from datetime import datetime

from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.cleanup.purge import finish_earlier_runs, purge_blobs
from include.xcom_maintenance.core.errors import PartialFailure, SharesFailed
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.shards import Shard
from include.xcom_maintenance.flow.vacuum import vacuum
from include.xcom_maintenance.reports.report import Table

#: The phase of the parallel tasks: as long as the slowest one.
_DELETING = "delete rows"


def finish(job: CleanupJob, shards: list[Shard]) -> None:
    """Delete the blobs of deleted rows, including those that earlier runs left behind, and complete the report.

    :param shards: as ``share_out`` returned them.
    :raises SharesFailed: if a shard did not finish.
    :raises PartialFailure: if some blobs could not be deleted; everything else is done.
    """
    report = job.report
    errors = _collect(job, shards)
    if errors:
        raise SharesFailed(
            f"{len(errors)} of {counted(len(shards), 'task')} did not finish: {'; '.join(sorted(set(errors)))}",
            remedy="The report counts what was deleted. Clear the failed tasks, or let the next run delete the rest",
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
            f"The rows were deleted, but {counted(failed, 'blob')} could not be",
            setting="blob_base_path",
            remedy="See the report for the store's errors; the next run tries again",
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
    """Add the figures of the shards to the report; returns why some of them did not finish."""
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
    columns = ["task", "rows", "stored bytes", "transactions", "seconds", "seconds waiting", "rows left", "stopped"]
    names = ["rows_deleted", "bytes_deleted", "transactions", "seconds", "seconds_waited", "rows_left", "stopped"]
    if parts:
        rows = [[number, *(part.get(name) for name in names)] for number, part in parts]
        job.report.put(Table("Rows deleted, by task", columns, rows), first=True)
    for why in sorted({part["stopped"] for _, part in parts if part.get("stopped")}):
        warning = f"{counted(headline['rows_left'], 'row')} left for the next run, because {why}."
        job.report.warnings += [warning] if warning not in job.report.warnings else []
    return [part.get("error") or "killed; see the delete_rows logs" for _, part in parts if not part.get("done")]
