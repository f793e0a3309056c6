"""Find orphan blobs and dangling references: plan, find (several tasks), decide.

``plan`` reads the references once and divides the keys into ranges. Each ``find`` compares one range with the listing,
both streamed. ``decide`` combines their findings into the manifest and lets the guard check it. None of them changes
anything; ``sweep_orphans`` disposes of what the manifest names.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable
from datetime import datetime
from typing import IO, Any

from include.xcom_maintenance.core.byte_order import in_byte_order
from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.flow.shards import Shard
from include.xcom_maintenance.metadata.ports.reconciliation import UnparsableReference
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reconciliation.manifest import PARTS, PLAN, planned_parts
from include.xcom_maintenance.reconciliation.previous import last_reconciliation
from include.xcom_maintenance.reconciliation.ranges import Sample, divide
from include.xcom_maintenance.sweep.owner import marked_owner

_ENCODE = json.JSONEncoder(default=datetime.isoformat).encode


# -- plan --------------------------------------------------


def plan(job: ReconciliationJob) -> None:
    """Read the references, and divide the keys between as many tasks as the work justifies.

    :raises ConfigurationError: if no blob store is configured.
    """
    blobs, report, settings = job.blob_store, job.report, job.settings
    job.place.drop_parts(*PARTS, "shard")
    marked_owner(blobs)  # proves the right to read objects
    snapshot = job.metadata.now()
    planned: dict[str, Any] = {
        **job.plan_header("reconciliation", snapshot),
        "modified_before": (snapshot - settings.grace_period).isoformat(),
        "unparsable": None,
    }
    # The references are spooled first, so that a long listing holds no database transaction open. They are read only
    # once, however many tasks compare them: finding them is most of the database's work.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        sample = Sample()
        with report.phase("read references"):
            try:
                _spool(job.metadata.references(blobs.base), spool, sample, Progress(job.log, "References read"))
            except UnparsableReference as error:
                # Without all references, no blob can be called an orphan.
                planned["unparsable"] = f"{error.where}: {error.why}"
        planned["references"] = 0 if planned["unparsable"] else sample.seen
        ranges = [] if planned["unparsable"] else _divide(job, sample)
        planned["ranges"] = [list(bounds) for bounds in ranges]
        with report.phase("share out"):
            _share_out(job, spool, ranges)
    job.place.write_part(PLAN, planned)
    report.headline = {"references": planned["references"], "tasks": len(ranges)}


def _divide(job: ReconciliationJob, references: Sample) -> list[tuple[str | None, str | None]]:
    """Ranges by the keys that the last run listed; in a first run, by the keys of the references."""
    last = last_reconciliation(job)
    expected = max(references.seen, last.objects if last else 0)
    count = min(job.settings.max_shards, math.ceil(expected / job.settings.shard_blobs))
    return divide(last.sample if last and last.sample else references.keys, max(1, count))


def _spool(references: Iterable[RowReference], spool: IO[str], sample: Sample, progress: Progress) -> None:
    for reference in references:
        spool.write(_ENCODE({"kind": "reference", "row": reference}) + "\n")
        sample.add(reference.key)
        progress.add()
    spool.seek(0)


def _share_out(job: ReconciliationJob, spool: IO[str], ranges: list[tuple[str | None, str | None]]) -> None:
    """Write the references of each range to a file for its task."""
    line = spool.readline() if ranges else ""
    for number, (_, before) in enumerate(ranges, 1):
        end = None if before is None else in_byte_order(before)
        with job.place.write_lines(f"references-{number}") as writer:
            while line:
                if end is not None and in_byte_order(json.loads(line)["row"][0]) >= end:
                    break
                writer.copy(line)
                line = spool.readline()


def split(job: ReconciliationJob) -> list[Shard]:
    """The ranges that ``plan`` divided the keys into, one for each task."""
    return [
        {"shard": number, "first": first, "before": before}
        for number, (first, before) in enumerate(planned_parts(job)["ranges"], 1)
    ]
