"""The end of a reconciliation: the results of the tasks, dangling references, the quarantine, the report."""

from __future__ import annotations

from include.xcom_maintenance.core.errors import PartialFailure, SharesFailed
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.shards import Shard
from include.xcom_maintenance.reconciliation.dangling import delete_dangling_rows
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reconciliation.purge import purge
from include.xcom_maintenance.reconciliation.sweep_orphans import COUNTS, SWEEPING, figures_of
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.sweep.sweep import Swept


def finish(job: ReconciliationJob, shards: list[Shard]) -> None:
    """Complete the report, and delete what has been in quarantine long enough.

    :param shards: as ``share_out`` returned them.
    :raises SharesFailed: if a task did not finish its share.
    :raises PartialFailure: if some blobs could not be disposed of; everything else is done.
    """
    failed, errors = _collect(job, shards)
    if errors:
        raise SharesFailed(
            f"{len(errors)} of {counted(len(shards), 'task')} did not finish: {'; '.join(sorted(set(errors)))}",
            remedy="The report counts what was done. Clear the failed tasks, or let the next run find the rest",
        )
    if job.settings.delete_dangling_rows and job.report.headline["dangling_references"]:
        delete_dangling_rows(job)
    failed += purge(job)
    if failed:
        raise PartialFailure(
            f"Could not dispose of {counted(failed, 'blob')} (disposed of {_disposed(job):,})",
            setting="blob_base_path",
            remedy="See the report for the store's errors; the next run tries again",
        )
    job.report.finish("enforced")


def _disposed(job: ReconciliationJob) -> int:
    return int(job.report.headline["orphans_deleted"] + job.report.headline["orphans_quarantined"])


def _collect(job: ReconciliationJob, shards: list[Shard]) -> tuple[int, list[str]]:
    """Add the figures of the tasks to the report; returns how many blobs failed, and why tasks did."""
    report = job.report
    parts = [figures_of(job, f"shard-{shard['shard']}") for shard in shards]
    swept = Swept()
    for name in COUNTS[:-1]:
        report.headline[name] = sum(part.get(name, 0) for part in parts)
    for part in parts:
        swept.left.update(part.get("left", {}))
        swept.failures += [(key, answer) for key, answer in part.get("failures", [])][: 10 - len(swept.failures)]
    if any(part.get("instead_of_deleting") for part in parts):
        report.warn(
            "The store ignores the conditions of deletes, so it would delete a blob that is written again just before. "
            "Orphans were moved into quarantine instead, though disposal is delete. With delete_without_conditions: "
            "true they are deleted at once."
        )
    report.phases = [phase for phase in report.phases if phase["name"] != SWEEPING]
    report.phases.append({"name": SWEEPING, "seconds": max((part.get("seconds", 0) for part in parts), default=0)})
    report.tables = [table for table in report.tables if table.title != "Orphans swept, by task"]
    if len(parts) > 1:
        rows = [[n, *(part.get(name, 0) for name in (*COUNTS, "seconds"))] for n, part in enumerate(parts, 1)]
        columns = ["task", *(name.replace("_", " ") for name in COUNTS), "seconds"]
        report.put(Table("Orphans swept, by task", columns, rows), first=True)
    swept.describe(report, job.log, "Orphans kept", gone=_disposed(job))
    failed = sum(part.get("failed", 0) for part in parts)
    return failed, [part.get("error") or "killed; see the sweep logs" for part in parts if not part.get("done")]
