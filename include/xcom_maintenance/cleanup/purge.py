"""Delete the blobs of deleted rows, including those that earlier runs left behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.core.errors import UnreadableManifest
from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.sweep.sweep import Swept, ledger_of, sweep

#: Blobs looked up at a time before they are swept.
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
    """Delete the blobs that a manifest names, if their rows have been deleted.

    :param suffix: for the names of the headline figures.
    :returns: how many failed; None if time ran out before all were checked.
    """
    swept = Swept()
    formats = job.settings.formats
    keys = (line["key"] for line in lines if line["kind"] == "blob" and formats.coordinates_of(line["key"]) is not None)
    looked_up = _LookedUp(blobs, keys, deadline)
    reason = f"its row was deleted by run {header['run_id']}"
    ledger = ledger_of(job, blobs, part="earlier" if suffix else "", reason=reason)
    whose = " (earlier runs)" if suffix else ""
    try:
        with job.report.phase(f"purge blobs{whose}"), ledger:
            sweep(
                iter(looked_up),
                into=swept,
                blobs=blobs,
                metadata=job.metadata,
                modified_before=datetime.fromisoformat(header["planned_at"]),
                progress=Progress(job.log, "Blobs checked", total=job.report.headline.get("blobs_to_purge")),
                ledger=ledger,
                formats=formats,
            )
    finally:
        figures = job.report.headline
        figures[f"blobs_deleted{suffix}"] = ledger.blobs["deleted"]
        figures[f"blob_bytes_deleted{suffix}"] = ledger.bytes["deleted"]
        swept.describe(job.report, job.log, f"Blobs kept{whose}", gone=ledger.blobs["deleted"])
    if looked_up.out_of_time:
        job.report.warnings.append(
            "The time budget (max_minutes) ran out before all blobs were deleted. The next run deletes the rest."
        )
        return None
    return swept.failed


class _LookedUp:
    """The current blobs of some keys, until time runs out."""

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
    """Delete the blobs left by runs that were killed after deleting their rows; returns how many failed."""
    failed = 0
    for name in job.place.pending_manifests():
        try:
            lines = job.place.read_manifest(name)
            header = next(lines)
            if not job.is_for_us(header):
                job.report.warnings.append(
                    f"{name} is pending, but it belongs to another database or base path and was left alone."
                )
                continue
            job.log.info("Deleting the remaining blobs of %s, which an earlier run did not finish", name)
            left = purge_blobs(job, blobs, header, lines, suffix="_for_earlier_runs", deadline=deadline)
        except UnreadableManifest as error:
            job.report.warnings.append(
                f"{name} is still pending but cannot be read: {error.problem}. Delete it by hand."
            )
            continue
        if left == 0:
            job.place.clear_pending(name)
        failed += left or 0
    return failed
