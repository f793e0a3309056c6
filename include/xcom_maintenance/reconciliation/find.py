"""Compare the listing of one range of keys with its references; changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.flow.shards import Shard
from include.xcom_maintenance.reconciliation.findings import Findings
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reconciliation.manifest import planned_parts
from include.xcom_maintenance.reconciliation.merge import BlobKind, match

#: The place of the timestamp in a reference.
_WHEN = RowReference._fields.index("timestamp")


def find(job: ReconciliationJob, shard: Shard) -> dict[str, Any]:
    """Compare the listing of one range of keys with its references; returns a few figures."""
    blobs, settings, planned = job.blob_store, job.settings, planned_parts(job)
    name = f"found-{shard['shard']}"
    ahead = job.metadata.now() - datetime.now(UTC)
    references = (_row(line["row"]) for line in job.place.read_lines(f"references-{shard['shard']}"))
    modified_before = datetime.fromisoformat(planned["modified_before"])
    with job.place.write_lines(name) as lines:
        found = Findings(job, blobs, lines, modified_before=modified_before)
        found.take(
            match(
                blobs.list(after=shard["first"], before=shard["before"]),
                references,
                modified_before=modified_before,
                ignored_prefixes=job.ignored_prefixes,
                formats=settings.formats,
                claims_unowned=settings.claim_unowned_blobs,
                now=lambda: datetime.now(UTC) + ahead,
            )
        )
    job.place.write_part(name, {**found.figures.to_json(), "plan_id": job.report.plan_id})
    return {"objects": found.figures.sample.seen, "orphans": found.figures.kinds[BlobKind.ORPHAN].objects}


def _row(row: list[Any]) -> RowReference:
    if row[_WHEN] is not None:
        row[_WHEN] = datetime.fromisoformat(row[_WHEN])
    return RowReference(*row)
