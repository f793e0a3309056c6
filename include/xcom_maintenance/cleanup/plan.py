"""The plan of a cleanup: which rows the retention rules delete. Changes nothing.

Only ``delete_rows`` and ``purge`` carry it out: rows first, then commit, then blobs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.cleanup.batches import Batches, batch_bounds
from include.xcom_maintenance.cleanup.guard import CleanupFigures, CleanupLimits, judge_cleanup
from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.cleanup.tables import describe
from include.xcom_maintenance.cleanup.tally import Tally
from include.xcom_maintenance.core.records import Coordinates
from include.xcom_maintenance.core.runs import Doomed, RunRows, YoungerRuns
from include.xcom_maintenance.core.sizes import human_bytes
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.reports.place import ManifestWriter
from include.xcom_maintenance.retention.current import policy_of
from include.xcom_maintenance.retention.policy import Part, RunVerdict, given_up
from include.xcom_maintenance.sweep.owner import judge_owner, marked_owner, warn_of_another

#: Runs judged at a time and measured by one query.
_RUNS_AT_ONCE = 50_000


def plan(job: CleanupJob) -> None:
    """Decide which rows to delete, write that down, and let the guard check it."""
    report, settings = job.report, job.settings
    with report.phase("plan"), job.place.write_manifest() as manifest:
        now = job.metadata.now()
        clock_ahead = now - datetime.now(UTC)
        policy = policy_of(job, now)
        manifest.add(**job.plan_header("cleanup", now))
        tally = Tally(policy, job.metadata.sample(policy.scopes, created_before=policy.horizon))
        batches = Batches(manifest, *batch_bounds(job))
        verdicts = policy.judge(job.metadata.runs(created_before=policy.horizon))
        progress = Progress(job.log, "Runs evaluated")
        while some := list(islice(verdicts, _RUNS_AT_ONCE)):
            _plan_some(job, some, tally, batches, manifest)
            progress.add(len(some))
        report.manifest = manifest.path
    with report.phase("guard"):
        rows_in_table = job.metadata.row_count_estimate()
        describe(job, tally, rows_in_table=rows_in_table)
        report.warnings += [
            f"An earlier run did not finish its manifest {name}, so some of its blobs may still exist. The next "
            "enforcing run deletes them."
            for name in job.place.pending_manifests()
        ]
        if settings.max_replication_lag_seconds is not None and not job.metadata.may_see_replication():
            report.warnings.append(
                "max_replication_lag_seconds is set, but the connection's role cannot see how far replicas lag, so the "
                "cleanup does not wait for them. Grant the role pg_monitor."
            )
        marked = marked_owner(job.blobs) if job.blobs else None
        warn_of_another(report, marked, job.identity.owner)
        owner = judge_owner(marked, job.identity.owner)
        figures = CleanupFigures(tally.rows, tally.bytes, rows_in_table, clock_ahead)
        limits = CleanupLimits(settings.max_delete_rows, settings.max_delete_bytes, settings.max_delete_share)
        question = f"Delete {counted(tally.rows, 'XCom row')} ({human_bytes(tally.bytes)})?"
        job.object_to(owner + judge_cleanup(figures, limits), on_limit=settings.on_limit, question=question)
    report.finish("planned" if job.enforcing else "reported")


def _plan_some(
    job: CleanupJob, verdicts: list[RunVerdict | YoungerRuns], tally: Tally, batches: Batches, manifest: ManifestWriter
) -> None:
    parts: list[Part] = []
    runs = {verdict.run.dag_run_id: verdict.run for verdict in verdicts if isinstance(verdict, RunVerdict)}
    going: list[RunRows] = []
    given = given_up(verdicts, parts)
    for found in job.metadata.measure(given):
        tally.measured(parts[found.which], runs[found.dag_run_id].dag_id, found)
        if found.rows:
            going.append(found)
    going.sort()  # in the order of their rows on disk
    tally.losing(((runs[found.dag_run_id], found.rows) for found in going), job.settings.top_entries)
    for found in going:
        batches.add(runs[found.dag_run_id], parts[found.which], rows=found.rows, size=found.bytes)
    batches.flush()
    tally.judged(verdicts)
    if job.blobs is not None and going:
        doomed = Doomed(given.cuts, [found.dag_run_id for found in going], [found.which for found in going])
        _plan_blobs(job, job.blobs, doomed, tally, manifest)


def _plan_blobs(job: CleanupJob, blobs: BlobStore, doomed: Doomed, tally: Tally, manifest: ManifestWriter) -> None:
    formats = job.settings.formats
    for reference in job.metadata.doomed_references(doomed, blobs.base):
        owner = Coordinates(reference.dag_id, reference.run_id, reference.task_id)
        if not formats.belongs_to(reference.key, owner, ignored_prefixes=job.ignored_prefixes):
            tally.paths_of_others += 1
            continue
        manifest.add("blob", key=reference.key, map_index=reference.map_index, xcom_key=reference.xcom_key)
        tally.blobs[reference.dag_id] += 1
