"""Verify, then dispose of blobs: the one mechanism that cleanup and reconciliation share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore, DeleteResult
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.core.reference_formats import KNOWN, Formats
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.metadata.ports.shared import Metadata, SweepMetadata
from include.xcom_maintenance.reports.report import Report, Table
from include.xcom_maintenance.settings.common import CommonSettings
from include.xcom_maintenance.sweep.ledger import Ledger

#: Candidates per batch. A check against the metadata database reads the whole table, however many keys it is given; in
#: a larger batch, the last blob would be deleted long after it was verified.
_BATCH = 50_000
#: Copies under way at once.
_COPIES = 8
#: Stores truncate times to whole seconds: a blob may have been written this much later than they say.
_WHOLE_SECONDS = timedelta(seconds=1)


class Kept(StrEnum):
    """Why a candidate was kept."""

    REFERENCED = "a row refers to it"
    UNFINISHED_RUN = "its run is not finished"
    TOO_YOUNG = "written after the plan was made, or age unknown"


@dataclass(slots=True)
class Swept:
    """The candidates that were kept, and why; the ledger counts those that were disposed of."""

    #: By Kept or DeleteResult.
    left: Counter[str] = field(default_factory=Counter)
    #: The first few keys that could not be deleted, each with the store's error.
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return self.left[DeleteResult.FAILED]

    def fail(self, key: str, detail: str) -> None:
        self.left[DeleteResult.FAILED] += 1
        if len(self.failures) < 10:
            self.failures.append((key, detail))

    def describe(self, report: Report, log: logging.Logger, title: str, *, gone: int) -> None:
        """Add what was kept, and what failed, to the report and the log.

        :param gone: how many blobs were disposed of.
        """
        if self.left:
            report.put(Table(title, ["reason", "blobs"], [[*item] for item in self.left.most_common()]), first=True)
        if self.failures:
            failures = [list(failure) for failure in self.failures]
            report.put(Table("Blobs that could not be deleted", ["blob", "error"], failures), first=True)
        kept = ", ".join(f"{number:,} ({reason})" for reason, number in self.left.most_common())
        log.info("Disposed of %s; kept %s", counted(gone, "blob"), kept or "none")


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Where blobs are moved instead of being deleted at once."""

    store: BlobStore
    #: One per plan.
    folder: str

    def key(self, key: str) -> str:
        """The quarantine key of a blob; it contains the original key."""
        return f"{self.folder}/{key}"


def ledger_of(
    job: Job[CommonSettings, Metadata],
    blobs: BlobStore,
    *,
    reason: str,
    part: str = "",
    quarantine: Quarantine | None = None,
) -> Ledger:
    """The ledger of what a task deletes from ``blobs``, and why.

    :param part: the task, if there are several.
    """
    report = job.report
    header = {"kind": "ledger", "plan_id": report.plan_id, "dag_id": report.dag_id, "run_id": report.run_id}
    header |= {"database": job.identity.owner, "base": str(blobs.base)}

    def line(blob: Blob) -> dict[str, Any]:
        modified = blob.last_modified.isoformat() if blob.last_modified else None
        facts = {"key": blob.key, "bytes": blob.size, "last_modified": modified, "version": blob.version}
        if quarantine is None:
            return {"kind": "deleted", **facts, "reason": reason}
        place = quarantine.store.base.blob(quarantine.key(blob.key))
        return {"kind": "quarantined", **facts, "reason": reason, "quarantine": str(place)}

    return Ledger(job.place, part, header=header, line=line, look=blobs.head)


def sweep(
    candidates: Iterable[Blob],
    *,
    into: Swept,
    blobs: BlobStore,
    metadata: SweepMetadata,
    modified_before: datetime,
    progress: Progress,
    ledger: Ledger,
    formats: Formats = KNOWN,
    quarantine: Quarantine | None = None,
    original: Callable[[str], str] = lambda key: key,
) -> None:
    """Dispose of those candidates that no row refers to and that have not changed since they were listed.

    The order makes it safe. A candidate's version is known before the metadata database is checked, so a blob that is
    written again afterwards has another version and is kept. With a quarantine, a blob is copied first and the copy is
    verified, so that an interruption at any moment leaves it in at least one place. Before anything is deleted, the
    ledger records what may be.

    :param candidates: as listed or looked up; nothing else is ever deleted.
    :param into: filled along the way, so that what was done is known even after an interruption.
    :param modified_before: blobs written later (UTC) are kept.
    :param ledger: records every blob before and after it is deleted; must be entered.
    :param quarantine: None: blobs are deleted permanently.
    :param original: maps the key of a candidate to the key that rows refer to, if the two differ.
    """
    stream = iter(candidates)
    while batch := list(islice(stream, _BATCH)):
        old = [blob for blob in batch if blob.last_modified and blob.last_modified + _WHOLE_SECONDS <= modified_before]
        into.left[Kept.TOO_YOUNG] += len(batch) - len(old)
        if ledger.goes_on:
            old = _still_there(old, blobs, into)
        copied = _copy(old, blobs, quarantine, into) if quarantine else old
        if copied:
            ledger.intend(copied)
        doomed = _verified(copied, into, metadata, formats, original)
        gone = set()
        for deletion in blobs.delete_unchanged(doomed):
            if deletion.result is DeleteResult.DELETED:
                gone.add(deletion.blob.key)
                ledger.add(deletion.blob)
            elif deletion.result is DeleteResult.FAILED:
                into.fail(deletion.blob.key, deletion.detail)
            else:
                into.left[deletion.result] += 1
                if deletion.result is DeleteResult.GONE:
                    gone.add(deletion.blob.key)
        if quarantine:
            # Even for blobs that count as not copied: some stores copy a blob that was overwritten before that shows.
            _take_back(quarantine, blobs, [blob.key for blob in old if blob.key not in gone])
        progress.add(len(batch))
    into.left += Counter()  # drops zero counts


def _still_there(batch: Sequence[Blob], blobs: BlobStore, into: Swept) -> list[Blob]:
    """Without the blobs that an earlier attempt deleted, which must not be counted for this one."""
    there = {blob.key for blob in blobs.head([blob.key for blob in batch])}
    into.left[DeleteResult.GONE] += len(batch) - len(there)
    return [blob for blob in batch if blob.key in there]


def _verified(
    batch: Sequence[Blob], into: Swept, metadata: SweepMetadata, formats: Formats, original: Callable[[str], str]
) -> list[Blob]:
    """Those that no row refers to and whose run is finished, right now."""
    if not batch:
        return []
    keys = {blob.key: original(blob.key) for blob in batch}
    referenced = metadata.referenced(set(keys.values()))
    runs = {key: found for key in keys.values() if (found := formats.coordinates_of(key)) is not None}
    unfinished = metadata.unfinished_runs(runs.values()) if runs else set()
    doomed = []
    for blob in batch:
        key = keys[blob.key]
        run = runs.get(key)
        if key in referenced:
            into.left[Kept.REFERENCED] += 1
        elif run is not None and (run.dag_id, run.run_id) in unfinished:
            into.left[Kept.UNFINISHED_RUN] += 1
        else:
            doomed.append(blob)
    return doomed


def _copy(batch: Sequence[Blob], blobs: BlobStore, quarantine: Quarantine, into: Swept) -> list[Blob]:
    """Those whose listed version now also lies in the quarantine."""

    def copy(blob: Blob) -> str | None:
        """Why there is no copy; None if there is one."""
        try:
            if blobs.copy_to(blob, target=quarantine.store.base, key=quarantine.key(blob.key)):
                return None
        except MaintenanceError as error:
            return error.problem
        return DeleteResult.CHANGED

    copied = []
    with ThreadPoolExecutor(_COPIES) as threads:
        for blob, why in zip(batch, threads.map(copy, batch), strict=True):
            if why is None:
                copied.append(blob)
            elif why == DeleteResult.CHANGED:
                into.left[why] += 1
            else:
                into.fail(blob.key, why)
    return copied


def _take_back(quarantine: Quarantine, blobs: BlobStore, keys: Sequence[str]) -> None:
    """Delete the copies of blobs that were kept and still exist: a store may delete a blob and yet report failure."""
    copies = [quarantine.key(blob.key) for blob in blobs.head(keys)] if keys else []
    if copies:
        for _ in quarantine.store.delete_unchanged(quarantine.store.head(copies)):
            pass
