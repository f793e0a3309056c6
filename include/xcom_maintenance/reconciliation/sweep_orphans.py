"""Dispose of one share of the orphans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any

from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.flow.shards import Shard
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reconciliation.manifest import own_plan
from include.xcom_maintenance.sweep.ledger import Ledger
from include.xcom_maintenance.sweep.quarantine import folder_of
from include.xcom_maintenance.sweep.sweep import Quarantine, Swept, instead_of_deleting, ledger_of, sweep

#: What a task did, over all its attempts; the report adds up the tasks.
COUNTS = ("orphans_deleted", "orphan_bytes_deleted", "orphans_quarantined", "orphan_bytes_quarantined", "failed")

#: The phase of the parallel tasks: as long as the slowest one.
SWEEPING = "sweep"


def sweep_orphans(job: ReconciliationJob, shard: Shard) -> dict[str, Any]:
    """Dispose of one share of the orphans. Returns its figures, and saves them for ``finish``."""
    name = f"shard-{shard['shard']}"
    figures: dict[str, Any] = dict.fromkeys(COUNTS, 0) | {"seconds": 0.0} | (job.place.read_part(name) or {})
    figures |= {"done": False, "left": {}, "failures": [], "error": "", "failed": 0}
    # A killed attempt writes nothing, so the figures of an earlier one must not say that the share is done.
    job.place.write_part(name, figures)
    swept = Swept()
    try:
        with job.report.phase(SWEEPING):
            _sweep(job, shard, name, swept, figures)
        figures["done"] = True
    except Exception as error:
        # The message of an unexpected error might quote a value.
        figures["error"] = error.problem if isinstance(error, MaintenanceError) else type(error).__name__
        raise
    finally:
        figures |= {"left": dict(swept.left), "failures": swept.failures, "failed": swept.failed}
        figures["seconds"] = round(figures["seconds"] + job.report.phases[-1]["seconds"], 3)
        job.place.write_part(name, figures)
    return figures


def _sweep(job: ReconciliationJob, shard: Shard, name: str, swept: Swept, figures: dict[str, Any]) -> None:
    header, lines = own_plan(job)
    settings = job.settings
    own = islice((line for line in lines if line["kind"] == "orphan"), shard["first"], shard["last"] + 1)
    # If the grace period was raised since the plan, the longer one counts.
    grace = datetime.fromisoformat(header["planned_at"]) - settings.grace_period
    modified_before = min(grace, datetime.fromisoformat(header["modified_before"]))
    folder = folder_of(header)
    if settings.disposal == "quarantine":
        quarantine: Quarantine | None = Quarantine(job.quarantine_store, folder)
    else:
        quarantine = instead_of_deleting(job, folder)
        figures["instead_of_deleting"] = quarantine is not None
    with _ledger(job, name, figures, quarantine) as ledger:
        sweep(
            map(_candidate, own),
            into=swept,
            blobs=job.blob_store,
            metadata=job.metadata,
            modified_before=modified_before,
            progress=Progress(job.log, "Orphans swept", total=shard["last"] + 1 - shard["first"]),
            ledger=ledger,
            formats=settings.formats,
            quarantine=quarantine,
            stuck_before=modified_before,
        )
        swept.account_for(shard["last"] + 1 - shard["first"], ledger)


@contextmanager
def _ledger(
    job: ReconciliationJob, name: str, figures: dict[str, Any], quarantine: Quarantine | None = None
) -> Iterator[Ledger]:
    """The ledger of a share; it updates the figures, over all attempts."""
    ledger = ledger_of(job, job.blob_store, part=name, reason="no row refers to it", quarantine=quarantine)
    with ledger:
        try:
            yield ledger
        finally:
            for kind in ("deleted", "quarantined"):
                figures[f"orphans_{kind}"] = ledger.blobs[kind]
                figures[f"orphan_bytes_{kind}"] = ledger.bytes[kind]


def _candidate(line: dict[str, Any]) -> Blob:
    modified = line["last_modified"]
    return Blob(line["key"], line["bytes"], datetime.fromisoformat(modified) if modified else None, line["version"])


def figures_of(job: ReconciliationJob, name: str) -> dict[str, Any]:
    """The figures of a share; if its task was killed, as far as they can be reconstructed."""
    part = job.place.read_part(name) or {}
    if not part.get("done"):
        try:
            with _ledger(job, name, part):
                pass
        except MaintenanceError as error:
            job.log.warning("Cannot reconstruct what %s did before it was interrupted: %s", name, error)
    return part
