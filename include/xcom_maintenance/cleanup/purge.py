"""Delete the blobs whose rows are gone, and what earlier runs left half done."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.core.errors import UnreadableManifest
from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.sweep.quarantine import folder_of
from include.xcom_maintenance.sweep.sweep import Swept, instead_of_deleting, ledger_of, sweep

#: Blobs looked up at once before they are swept.
_HEADS_AT_ONCE = 1_000


def purge_blobs(
    job: CleanupJob,
    blobs: BlobStore,
    header: dict[str, Any],
    lines: Iterator[dict[str, Any]],
    *,
    suffix: str,
    deadline: datetime | None,
) -> int | None:
    """Delete the blobs that a manifest names, as far as their rows are gone; or move them into quarantine, see there.

    :param suffix: of the names of the figures in the headline.
    :returns: how many failed; None if the time was up before all were looked at.
    """
    swept = Swept()
    formats = job.settings.formats
    keys = (line["key"] for line in lines if line["kind"] == "blob" and formats.coordinates_of(line["key"]) is not None)
    first = next(keys, None)
    # What is asked of the store is asked only if there is something to delete.
    quarantine = None if first is None else instead_of_deleting(job, folder_of(header))
    looked_up = _LookedUp(blobs, iter(()) if first is None else chain([first], keys), deadline)
    reason = f"its row was deleted by run {header['run_id']}"
    ledger = ledger_of(job, blobs, part="earlier" if suffix else "", reason=reason, quarantine=quarantine)
    try:
        with job.report.phase(f"purge blobs{suffix}"), ledger:
            sweep(
                iter(looked_up),
                into=swept,
                blobs=blobs,
                metadata=job.metadata,
                modified_before=datetime.fromisoformat(header["planned_at"]),
                progress=Progress(job.log, "Blobs looked at", total=job.report.headline.get("blobs_to_purge")),
                ledger=ledger,
                formats=formats,
                quarantine=quarantine,
            )
    finally:
        figures = job.report.headline
        for kind in ("deleted", "quarantined"):
            figures[f"blobs_{kind}{suffix}"] = ledger.blobs[kind]
            figures[f"blob_bytes_{kind}{suffix}"] = ledger.bytes[kind]
        gone = ledger.blobs["deleted"] + ledger.blobs["quarantined"]
        swept.describe(job.report, job.log, f"Blobs that stay{suffix.replace('_', ' ')}", gone=gone)
        if ledger.blobs["quarantined"]:
            job.report.warn(_INSTEAD)
    if looked_up.out_of_time:
        job.report.warnings.append(
            "The time budget (max_minutes) was used up before all blobs were purged. The next run goes on with them."
        )
        return None
    return swept.failed


_INSTEAD = (
    "The store ignores the conditions of deletes, so it would delete a blob that is written again just before. They "
    "were moved into quarantine instead, where xcom_orphan_reconciliation deletes them after quarantine_days when it "
    "enforces. With delete_without_conditions: true they are deleted at once."
)


class _LookedUp:
    """The blobs of some keys, as they are now, until the time is up."""

    def __init__(self, blobs: BlobStore, keys: Iterator[str], deadline: datetime | None) -> None:
        self._blobs, self._keys, self._deadline = blobs, keys, deadline
        self.out_of_time = False

    def __iter__(self) -> Iterator[Blob]:
        while batch := list(islice(self._keys, _HEADS_AT_ONCE)):
            if self._deadline is not None and datetime.now(UTC) >= self._deadline:
                self.out_of_time = True
                return
            yield from self._blobs.head(list(dict.fromkeys(batch)))


def finish_earlier_runs(job: CleanupJob, blobs: BlobStore, deadline: datetime | None) -> int:
    """Purge what runs that were killed between row and blob left behind; returns how many blobs failed."""
    failed = 0
    for name in job.place.pending_manifests():
        try:
            lines = job.place.read_manifest(name)
            header = next(lines)
            if not job.is_for_us(header):
                job.report.warnings.append(
                    f"{name} is pending and left alone: it is for another database or base path."
                )
                continue
            job.log.info("An earlier run did not finish its manifest %s; its blobs are purged now", name)
            left = purge_blobs(job, blobs, header, lines, suffix="_for_earlier_runs", deadline=deadline)
        except UnreadableManifest as error:
            job.report.warnings.append(f"{name} is pending and cannot be read: {error.problem}. Delete it by hand.")
            continue
        if left == 0:
            job.place.clear_pending(name)
        failed += left or 0
    return failed
