"""Find blobs that no row refers to and rows whose blob is gone: plan, find (by several tasks), decide.

``plan`` reads the references once and divides the keys; each ``find`` compares one range of keys with the listing, both
streamed; ``decide`` joins what they found into the manifest, and lets the guard look at it. None of them changes
anything. What the manifest names is disposed of in ``jobs/disposal.py``.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import IO, Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError
from include.xcom_maintenance.core.guard import (
    ReconciliationFigures,
    ReconciliationLimits,
    judge_owner,
    judge_reconciliation,
)
from include.xcom_maintenance.core.orphans import BlobKind, in_byte_order, match
from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.jobs.deletion import Shard
from include.xcom_maintenance.jobs.findings import Figures, Findings
from include.xcom_maintenance.jobs.job import Job, Progress, heap_set_aside
from include.xcom_maintenance.jobs.ownership import marked_owner
from include.xcom_maintenance.jobs.ranges import Sample, divide
from include.xcom_maintenance.jobs.reconciliation_report import describe
from include.xcom_maintenance.metadata.port import UnparsableReference
from include.xcom_maintenance.reports.last_reconciliation import LastReconciliation, last_reconciliation, remember
from include.xcom_maintenance.reports.place import ManifestWriter

#: What the tasks between plan and decide leave for each other, by number.
_PARTS = ("references", "found", "plan")
_PLAN = "plan-0"
#: The place of the timestamp in a reference.
_WHEN = RowReference._fields.index("timestamp")
_ENCODE = json.JSONEncoder(default=datetime.isoformat).encode
#: Objections of these kinds leave no doubt about which references there are.
_MERELY_LARGE = {"max_orphan_share", "max_orphan_blobs", "max_orphan_bytes"}


# -- plan --------------------------------------------------


@heap_set_aside()
def plan(job: Job) -> None:
    """Read the references, and divide the keys between as many tasks as there is work for.

    :raises ConfigurationError: if no blob store is configured.
    """
    blobs, report, settings = blobs_of(job), job.report, job.settings
    job.place.drop_parts(*_PARTS, "shard")
    marked_owner(blobs)  # proves the right to read objects
    snapshot = job.metadata.now()
    planned: dict[str, Any] = {
        **job.plan_header("reconciliation", snapshot),
        "modified_before": (snapshot - settings.grace_period).isoformat(),
        "unparsable": None,
    }
    # The references are put aside first, so that a long listing never holds a transaction open in the database; and
    # only once, however many tasks compare them: to find them is most of the database's work.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        sample = Sample()
        with report.phase("read references"):
            try:
                _spool(job.metadata.references(blobs.base), spool, sample, Progress(job.log, "References read"))
            except UnparsableReference as error:
                # Without all references nothing can be said of any blob.
                planned["unparsable"] = f"{error.where}: {error.why}"
        planned["references"] = 0 if planned["unparsable"] else sample.seen
        ranges = [] if planned["unparsable"] else _divide(job, blobs, sample)
        planned["ranges"] = [list(bounds) for bounds in ranges]
        with report.phase("share out"):
            _share_out(job, spool, ranges)
    job.place.write_part(_PLAN, planned)
    report.headline = {"references": planned["references"], "tasks": len(ranges)}


def blobs_of(job: Job) -> BlobStore:
    """The blob store.

    :raises ConfigurationError: if there is none.
    """
    if job.blobs is None:
        raise ConfigurationError(
            "There is no blob store to reconcile",
            setting="blob_base_path",
            remedy="Set it to where your XCom backend keeps its blobs, such as s3://conn_id@bucket/airflow/xcom, or "
            "configure [common.io] xcom_objectstorage_path",
        )
    return job.blobs


def _last(job: Job, blobs: BlobStore) -> LastReconciliation | None:
    return last_reconciliation(job.place, database=job.identity.owner, base=str(blobs.base))


def _divide(job: Job, blobs: BlobStore, references: Sample) -> list[tuple[str | None, str | None]]:
    """Ranges by where the blobs lay in the last run, which knew them all; in a first run, by where references lead."""
    last = _last(job, blobs)
    expected = max(references.seen, last.objects if last else 0)
    count = min(job.settings.max_shards, math.ceil(expected / job.settings.shard_blobs))
    return divide(last.sample if last and last.sample else references.keys, max(1, count))


def _spool(references: Iterable[RowReference], spool: IO[str], sample: Sample, progress: Progress) -> None:
    for reference in references:
        spool.write(_ENCODE({"kind": "reference", "row": reference}) + "\n")
        sample.add(reference.key)
        progress.add()
    spool.seek(0)


def _share_out(job: Job, spool: IO[str], ranges: list[tuple[str | None, str | None]]) -> None:
    """Write the references of each range where its task finds them."""
    line = spool.readline() if ranges else ""
    for number, (_, before) in enumerate(ranges, 1):
        end = None if before is None else in_byte_order(before)
        with job.place.write_lines(f"references-{number}") as writer:
            while line:
                if end is not None and in_byte_order(json.loads(line)["row"][0]) >= end:
                    break
                writer.copy(line)
                line = spool.readline()


def split(job: Job) -> list[Shard]:
    """The ranges that ``plan`` divided the keys into, one for each task."""
    return [
        {"shard": number, "first": first, "before": before}
        for number, (first, before) in enumerate(_planned(job)["ranges"], 1)
    ]


def _planned(job: Job) -> dict[str, Any]:
    planned = job.place.read_part(_PLAN)
    if planned is None or planned["plan_id"] != job.report.plan_id or not job.is_for_us(planned):
        raise ConfigurationError(
            "The plan of this run was made by another run, or for another database or base path",
            setting="report_path, metadata_conn_id, blob_base_path",
            remedy="The configuration changed while the run was under way, two Airflows share a report path, or a task "
            "was cleared after the run had ended; run the DAG again. Nothing was changed",
        )
    return planned


# -- find --------------------------------------------------


@heap_set_aside()
def find(job: Job, shard: Shard) -> dict[str, Any]:
    """Compare the listing of one range of keys with its references; returns a few figures."""
    blobs, settings, planned = blobs_of(job), job.settings, _planned(job)
    name = f"found-{shard['shard']}"
    references = (_row(line["row"]) for line in job.place.read_lines(f"references-{shard['shard']}"))
    with job.place.write_lines(name) as lines:
        found = Findings(job, blobs, lines)
        found.take(
            match(
                blobs.list(after=shard["first"], before=shard["before"]),
                references,
                modified_before=datetime.fromisoformat(planned["modified_before"]),
                ignored_prefixes=job.ignored_prefixes,
                formats=settings.formats,
                claims_unowned=settings.claim_unowned_blobs,
            )
        )
    job.place.write_part(name, {**found.figures.to_json(), "plan_id": job.report.plan_id})
    return {"objects": found.figures.sample.seen, "orphans": found.figures.kinds[BlobKind.ORPHAN].objects}


def _row(row: list[Any]) -> RowReference:
    if row[_WHEN] is not None:
        row[_WHEN] = datetime.fromisoformat(row[_WHEN])
    return RowReference(*row)


# -- decide --------------------------------------------------


@heap_set_aside()
def decide(job: Job) -> None:
    """Join what the tasks found into the manifest and the report, and let the guard look at it.

    :raises MaintenanceError: if a task did not come to its end: what it would have found is not known.
    :raises ImplausiblePlan: in enforce mode, if the guard refuses.
    """
    blobs, report, settings, planned = blobs_of(job), job.report, job.settings, _planned(job)
    figures = Figures()
    shards = range(1, len(planned["ranges"]) + 1)
    for number in shards:
        part = job.place.read_part(f"found-{number}")
        if part is None or not part["done"] or part["plan_id"] != report.plan_id:
            raise MaintenanceError(
                f"The task find {number} of {len(shards)} left no figures, so nothing can be concluded",
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
    last = _last(job, blobs)
    with report.phase("guard"):
        orphans = figures.kinds[BlobKind.ORPHAN]
        objections = judge_owner(marked_owner(blobs), job.identity.owner) + judge_reconciliation(
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
        job.object_to(objections, on_limit=settings.on_limit)
    report.finish("planned" if job.enforcing else "reported")


def _copy(lines: Iterator[dict[str, Any]], manifest: ManifestWriter) -> None:
    for line in lines:
        manifest.add(**line)
