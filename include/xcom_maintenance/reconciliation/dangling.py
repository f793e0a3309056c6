"""Delete the rows whose blob is missing."""

from __future__ import annotations

import pkgutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any

from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.reconciliation.findings import can_dangle
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reconciliation.manifest import own_plan
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.settings.sources import airflow_option
from include.xcom_maintenance.sweep.owner import claim
from include.xcom_maintenance.sweep.quarantine import quarantined, returning

#: Blobs that are looked up at once, before the rows that lead to them go; more, if they are of one task of a run.
_HEADS_AT_ONCE = 1_000
_OWN = "xcom_blob_backend."
#: Why rows of dangling references stay.
_NO_BACKEND = "no backend wrote it"
_THERE_AGAIN = "its blob is there again"
_IN_QUARANTINE = "its blob is in quarantine, from where xcom_restore puts it back"
_IN_PART = "other rows of the same mapped result stay"
_PULL_FAILS = "a task that pulls it fails already, and says why"
_CHANGED = "its run is not finished, or it has changed or gone since"


def delete_dangling_rows(job: ReconciliationJob) -> None:
    """Delete the dangling rows of the manifest whose blob is still missing: it may have been restored since."""
    blobs, figures = job.blob_store, job.report.headline
    figures.setdefault("dangling_rows_deleted", 0)  # a second attempt adds to the first
    waiting = _in_quarantine(job, {line["key"] for line in own_plan(job)[1] if line["kind"] == "dangling"})
    _, lines = own_plan(job)
    claim(blobs, job.identity)
    fails = pulls_fail()
    # What was planned and does not happen, by its reason.
    stay: Counter[str] = Counter()
    earlier = figures["dangling_rows_deleted"]
    origin = {"database": job.identity.owner, "dag_id": job.report.dag_id, "run_id": job.report.run_id}
    with job.report.phase("delete dangling rows"):
        for number, named in enumerate(_batches(line for line in lines if line["kind"] == "dangling"), 1):
            batch = [reference for reference in named if can_dangle(job, reference)]
            stay[_NO_BACKEND] += len(named) - len(batch)
            there = {blob.key for blob in blobs.head(list({reference.key for reference in batch}))}
            gone = [reference for reference in batch if reference.key not in there]
            stay[_THERE_AGAIN] += len(batch) - len(gone)
            missing, gone = gone, [reference for reference in gone if reference.key not in waiting]
            stay[_IN_QUARANTINE] += len(missing) - len(gone)
            if fails:
                stay[_PULL_FAILS] += len(gone)
                continue
            if not gone:
                continue
            archive = None
            if job.archives.root is not None:
                archive = partial(job.archives.write, f"dangling-{number:06}", **origin)
            staying = job.metadata.dangling_that_stay(gone)
            deleted = job.metadata.delete_dangling(gone, archive=archive)
            figures["dangling_rows_deleted"] += deleted
            stay[_IN_PART] += staying.in_part
            stay[_PULL_FAILS] += staying.own
            stay[_CHANGED] += len(gone) - deleted - staying.in_part - staying.own
    # Those that an earlier attempt deleted are gone, too.
    stay[_CHANGED] -= earlier
    stay += Counter()
    figures["dangling_rows_left"] = stay.total()
    if stay:
        rows = [[*item] for item in stay.most_common()]
        job.report.put(Table("Rows of dangling references kept", ["reason", "rows"], rows), first=True)


def _in_quarantine(job: ReconciliationJob, keys: set[str]) -> set[str]:
    """Those of some missing blobs that can return from the quarantine. Without its row one would be purged for good."""
    found = quarantined(job, returning(job)) if keys else ()
    return {origin for blob in found if (origin := blob.key.partition("/")[2]) in keys}


def pulls_fail() -> bool:
    """Whether a task that pulls any reference to a missing blob fails: by this project's own backend, if it is active.

    Then nothing is to be gained by deleting a row, which would turn the failure into None. The same goes for a user's
    own class that is built on it.
    """
    active = airflow_option("core", "xcom_backend")
    classes: tuple[type, ...] = ()
    with suppress(Exception):  # whatever a user's module raises
        classes = pkgutil.resolve_name(active).__mro__
    return any(f"{name}.".startswith(_OWN) for name in (active, *(each.__module__ for each in classes)))


def _batches(lines: Iterable[dict[str, Any]]) -> Iterator[list[RowReference]]:
    """References, those of one task of a run together: the manifest names them in the order of their blobs' keys."""
    batch: list[RowReference] = []
    references = (RowReference(**{name: line[name] for name in RowReference._fields}) for line in lines)
    for _, of_task in groupby(references, key=lambda found: (found.dag_id, found.run_id, found.task_id)):
        batch += of_task
        if len(batch) >= _HEADS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
