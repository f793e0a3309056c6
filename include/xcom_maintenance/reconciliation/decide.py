"""Combine the findings of the tasks into the manifest and the report, and let the guard check them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.sizes import human_bytes
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.uploads import tell_of_uploads
from include.xcom_maintenance.reconciliation.findings import Figures
from include.xcom_maintenance.reconciliation.guard import (
    ReconciliationFigures,
    ReconciliationLimits,
    judge_reconciliation,
)
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reconciliation.manifest import planned_parts
from include.xcom_maintenance.reconciliation.merge import BlobKind
from include.xcom_maintenance.reconciliation.previous import LastReconciliation, last_reconciliation, remember
from include.xcom_maintenance.reconciliation.tables import describe
from include.xcom_maintenance.reports.place import ManifestWriter
from include.xcom_maintenance.sweep.owner import judge_owner, marked_owner, warn_of_another

#: Objections about these settings cast no doubt on the references.
_MERELY_LARGE = {"max_orphan_share", "max_orphan_blobs", "max_orphan_bytes"}


def decide(job: ReconciliationJob) -> None:
    """Combine the findings of the tasks into the manifest and the report, and let the guard check them.

    :raises MaintenanceError: if a task did not finish, since its findings are missing.
    :raises ImplausiblePlan: in enforce mode, if the guard refuses.
    """
    blobs, report, settings, planned = job.blob_store, job.report, job.settings, planned_parts(job)
    figures = Figures()
    shards = range(1, len(planned["ranges"]) + 1)
    for number in shards:
        part = job.place.read_part(f"found-{number}")
        if part is None or not part["done"] or part["plan_id"] != report.plan_id:
            raise MaintenanceError(
                f"Task find {number} of {len(shards)} left no results, so orphans cannot be identified",
                setting="report_path",
                remedy="Run the DAG again. Nothing was changed",
            )
        figures.add(part)
    with report.phase("write manifest"), job.place.write_manifest() as manifest:
        manifest.add(**{name: planned[name] for name in planned if name != "ranges"})
        for number in shards:
            _copy(job.place.read_lines(f"found-{number}"), manifest)
        report.manifest = manifest.path
    describe(job, figures, planned["references"])
    with report.phase("unfinished uploads"):
        tell_of_uploads(job)
    last = last_reconciliation(job)
    with report.phase("guard"):
        orphans = figures.kinds[BlobKind.ORPHAN]
        marked = marked_owner(blobs)
        warn_of_another(report, marked, job.identity.owner)
        objections = judge_owner(marked, job.identity.owner) + judge_reconciliation(
            ReconciliationFigures(
                recognised_blobs=figures.recognised,
                orphan_blobs=orphans.objects,
                referenced_blobs=figures.kinds[BlobKind.REFERENCED].objects,
                unparsable=planned["unparsable"],
                orphan_bytes=orphans.bytes,
                references=planned["references"],
                references_before=last.references if last else None,
                dangling_rows=sum(figures.dangling.values()) if settings.delete_dangling_rows else 0,
            ),
            ReconciliationLimits(
                share=settings.max_orphan_share,
                blobs=settings.max_orphan_blobs,
                bytes=settings.max_orphan_bytes,
                shrink=settings.max_reference_shrink,
            ),
        )
        if {objection.setting for objection in objections} <= _MERELY_LARGE:
            sample = figures.sample
            seen = LastReconciliation(
                job.identity.owner, str(blobs.base), planned["references"], sample.seen, sample.keys
            )
            remember(job.place, seen)
        what = f"{counted(orphans.objects, 'orphan blob')} ({human_bytes(orphans.bytes)})"
        question = f"Delete {what}?" if settings.disposal == "delete" else f"Move {what} to quarantine?"
        job.object_to(objections, on_limit=settings.on_limit, question=question)
    report.finish("planned" if job.enforcing else "reported")


def _copy(lines: Iterator[dict[str, Any]], manifest: ManifestWriter) -> None:
    for line in lines:
        manifest.add(**line)
