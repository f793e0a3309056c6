"""Delete the blobs of deleted rows, including those that earlier runs left behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.core.errors import UnreadableManifest
from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.core.reference_formats import Formats
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.sweep.quarantine import folder_of
from include.xcom_maintenance.sweep.sweep import Kept, Swept, absent, instead_of_deleting, ledger_of, sweep

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
    """Delete the blobs that a manifest names, if their rows have been deleted; or quarantine them instead.

    :param suffix: for the names of the headline figures.
    :returns: how many failed; None if time ran out before all were checked.
    """
    swept = Swept()
    formats = job.settings.formats
    looked_up = _LookedUp(blobs, (line["key"] for line in lines if line["kind"] == "blob"), formats, deadline, swept)
    # What is asked of the store is asked only if there is something to delete.
    quarantine = instead_of_deleting(job, folder_of(header)) if looked_up.any() else None
    reason = f"its row was deleted by run {header['run_id']}"
    ledger = ledger_of(job, blobs, part="earlier" if suffix else "", reason=reason, quarantine=quarantine)
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
                quarantine=quarantine,
                stuck_before=_stuck_before(job, datetime.fromisoformat(header["planned_at"])),
            )
            looked_up.count_the_rest()
            swept.account_for(looked_up.planned, ledger)
    finally:
        figures = job.report.headline
        for kind in ("deleted", "quarantined"):
            figures[f"blobs_{kind}{suffix}"] = ledger.blobs[kind]
            figures[f"blob_bytes_{kind}{suffix}"] = ledger.bytes[kind]
        if odd := swept.left[Kept.SPELLED_OTHERWISE]:
            job.report.warn(
                f"{counted(odd, 'blob')} of the plan could not be found under the names that their rows had, which the "
                "store may spell otherwise. xcom_orphan_reconciliation counts what is there by the names that it lists."
            )
        gone = ledger.blobs["deleted"] + ledger.blobs["quarantined"]
        swept.describe(job.report, job.log, f"Blobs kept{whose}", gone=gone)
        if ledger.blobs["quarantined"]:
            job.report.warn(_INSTEAD)
    if looked_up.out_of_time:
        job.report.warnings.append(
            "The time budget (max_minutes) ran out before all blobs were deleted. The next run deletes the rest."
        )
        return None
    return swept.failed


_INSTEAD = (
    "The store ignores the conditions of deletes, so it would delete a blob that is overwritten just before. The "
    "blobs were quarantined instead; xcom_orphan_reconciliation deletes them after quarantine_days when it enforces. "
    "With delete_without_conditions: true they are deleted at once."
)


def _stuck_before(job: CleanupJob, planned_at: datetime) -> datetime | None:
    """Since when unfinished tasks are stuck by at least one rule; their rows went by such a rule."""
    afters = [rule.stuck_after for rule in job.settings.rules() if rule.stuck_after is not None and not rule.hold]
    return planned_at - min(afters) if afters else None


class _LookedUp:
    """The blobs of some keys, as they are now, until the time is up. What is none of them is counted by its reason."""

    def __init__(
        self, blobs: BlobStore, keys: Iterator[str], formats: Formats, deadline: datetime | None, into: Swept
    ) -> None:
        self._blobs, self._keys, self._formats, self._deadline, self._into = blobs, keys, formats, deadline, into
        self.out_of_time = False
        #: How many keys there were, so far.
        self.planned = 0

    def any(self) -> bool:
        """Whether there are keys at all."""
        first = list(islice(self._keys, 1))
        self._keys = chain(first, self._keys)
        return bool(first)

    def __iter__(self) -> Iterator[Blob]:
        left = self._into.left
        while batch := list(islice(self._keys, _HEADS_AT_ONCE)):
            self.planned += len(batch)
            if self._deadline is not None and datetime.now(UTC) >= self._deadline:
                self.out_of_time = True
                left[Kept.OUT_OF_TIME] += len(batch)
                return
            keys = list(dict.fromkeys(batch))
            left[Kept.NAMED_AGAIN] += len(batch) - len(keys)
            known = [key for key in keys if self._formats.coordinates_of(key) is not None]
            left[Kept.UNRECOGNISED] += len(keys) - len(known)
            found = {blob.key: blob for blob in self._blobs.head(known)}
            left.update(absent(key) for key in known if key not in found)
            yield from found.values()

    def count_the_rest(self) -> None:
        """Once the time is up: how many keys there would have been."""
        rest = sum(1 for _ in self._keys)
        self.planned += rest
        self._into.left[Kept.OUT_OF_TIME] += rest


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
