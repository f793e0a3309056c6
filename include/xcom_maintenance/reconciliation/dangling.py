"""Delete the rows whose blob is missing."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import count, islice

from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.reconciliation.findings import can_dangle
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reconciliation.manifest import own_plan
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.sweep.owner import claim

#: Blobs looked up at a time, before the rows that refer to them are deleted.
_HEADS_AT_ONCE = 1_000


def delete_dangling_rows(job: ReconciliationJob) -> None:
    """Delete the dangling rows of the manifest whose blob is still missing: it may have been restored since."""
    blobs, figures = job.blob_store, job.report.headline
    figures.setdefault("dangling_rows_deleted", 0)  # a second attempt adds to the first
    _, lines = own_plan(job)
    claim(blobs, job.identity)
    # What was planned and does not happen, by its reason.
    stay = Counter[str]()
    earlier = figures["dangling_rows_deleted"]
    found = (line for line in lines if line["kind"] == "dangling")
    origin = {"database": job.identity.owner, "dag_id": job.report.dag_id, "run_id": job.report.run_id}
    with job.report.phase("delete dangling rows"):
        for number in count(1):
            batch = [
                RowReference(**{name: line[name] for name in RowReference._fields})
                for line in islice(found, _HEADS_AT_ONCE)
            ]
            if not batch:
                break
            able = [reference for reference in batch if can_dangle(job, reference)]
            stay["no backend wrote it"] += len(batch) - len(able)
            batch = able
            there = {blob.key for blob in blobs.head(list({reference.key for reference in batch}))}
            gone = [reference for reference in batch if reference.key not in there]
            stay["its blob is there again"] += len(batch) - len(gone)
            archive = None
            if job.archives.root is not None:
                archive = partial(job.archives.write, f"dangling-{number:06}", **origin)
            if gone:
                deleted = job.metadata.delete_dangling(gone, archive=archive)
                figures["dangling_rows_deleted"] += deleted
                stay["its run is not finished, or it has changed or gone since"] += len(gone) - deleted
    # Those that an earlier attempt deleted have gone, too.
    stay["its run is not finished, or it has changed or gone since"] -= earlier
    stay += Counter()
    if stay:
        rows = [[*item] for item in stay.most_common()]
        job.report.put(Table("Rows of dangling references kept", ["reason", "rows"], rows), first=True)
