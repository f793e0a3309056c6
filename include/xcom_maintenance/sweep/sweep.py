"""Verify, then dispose of blobs: the one mechanism that cleanup and reconciliation share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore, DeleteResult
from include.xcom_maintenance.core.ages import Age, age_of, believed
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
from include.xcom_maintenance.sweep.quarantine import FOLDER

#: Candidates per batch. A check against the metadata database reads the whole table, however many keys it is given; in
#: a larger batch, the last blob would be deleted long after it was verified.
_BATCH = 50_000
#: A copy that is so much younger than the blob was made of the blob as it is.
_LONG_AFTER = timedelta(hours=1)
#: Copies under way at once.
_COPIES = 8


class Kept(StrEnum):
    """Why a candidate was kept, or what was planned did not happen."""

    REFERENCED = "a row refers to it"
    UNFINISHED_RUN = "its run is not finished"
    TOO_YOUNG = "written after the plan was made"
    UNRECOGNISED = "its name matches no known layout any more"
    NAMED_AGAIN = "another row named it, too"
    SPELLED_OTHERWISE = "not found under this name, which the store may spell otherwise"
    OUT_OF_TIME = "time ran out"
    UNEXPLAINED = "not accounted for; please report this"
    UNKNOWN_AGE = "age unknown: the store tells no time, or one that cannot be right"


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

    def account_for(self, planned: int, ledger: Ledger) -> None:
        """See that what was planned is done or has a reason, to the last blob: what is missing gets a line of its own.

        :param planned: how many were to go.
        :param ledger: of what went, in all attempts.
        """
        # What an earlier attempt deleted this one did not find.
        doubly = ledger.earlier
        for why in (DeleteResult.GONE, Kept.SPELLED_OTHERWISE):
            not_found = min(doubly, self.left[why])
            self.left[why] -= not_found
            doubly -= not_found
        missing = planned - ledger.blobs.total() - self.left.total()
        if missing > 0:
            self.left[Kept.UNEXPLAINED] += missing
        self.left += Counter()  # without what is zero

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


def instead_of_deleting(job: Job[CommonSettings, Metadata], folder: str) -> Quarantine | None:
    """Where blobs go that are to be deleted; None: nowhere, they may be deleted for good.

    A store that ignores conditions also deletes what was written again between the last look and the delete. Of what it
    deletes there is a copy in the quarantine, then, unless a setting insists.

    :param folder: of the plan, in the quarantine.
    """
    if job.settings.delete_without_conditions or job.blob_store.deletes_only_unchanged():
        return None
    return Quarantine(job.quarantine_store, folder)


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
    stuck_before: datetime | None = None,
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
    :param stuck_before: as in a ``Cut``: for blobs whose rows were deleted by one, or whose grace period is over.
    """
    stream = iter(candidates)
    while batch := list(islice(stream, _BATCH)):
        old = _old(batch, modified_before, metadata.now(), into)
        if ledger.goes_on:
            old = _still_there(old, blobs, into)
        if old:
            blobs.honours_conditions()  # whoever may not delete anything is told so before anything is copied
        earlier = _earlier_copies(old, quarantine) if quarantine else {}
        copied = _copy(old, blobs, quarantine, into, earlier) if quarantine else old
        if copied:
            ledger.intend(copied)
        doomed = _verified(copied, into, metadata, formats, original, stuck_before)
        gone = set()
        for deletion in blobs.delete_unchanged(doomed):
            if deletion.result is DeleteResult.DELETED:
                gone.add(deletion.blob.key)
                ledger.add(deletion.blob)
            elif deletion.result is DeleteResult.FAILED:
                into.fail(deletion.blob.key, deletion.detail)
            elif deletion.result is DeleteResult.GONE:
                into.left[absent(deletion.blob.key)] += 1
                gone.add(deletion.blob.key)
            else:
                into.left[deletion.result] += 1
        if quarantine:
            _renew(quarantine, [earlier[key] for key in gone if key in earlier])
            # Even for blobs that count as not copied: some stores copy a blob that was overwritten before that shows.
            _take_back(quarantine, blobs, [blob.key for blob in old if blob.key not in gone])
        progress.add(len(batch))
    into.left += Counter()  # drops zero counts


_BY_AGE = {Age.YOUNG: Kept.TOO_YOUNG, Age.UNKNOWN: Kept.UNKNOWN_AGE}


def _old(batch: Sequence[Blob], modified_before: datetime, now: datetime, into: Swept) -> list[Blob]:
    """Those that were surely written before then."""
    old = []
    for blob in batch:
        age = age_of(blob.last_modified, before=modified_before, now=now)
        if age is Age.OLD:
            old.append(blob)
        else:
            into.left[_BY_AGE[age]] += 1
    return old


def absent(key: str) -> str:
    """Why a blob may not be found that is looked up by its name."""
    return DeleteResult.GONE if key.isascii() and key.isprintable() else Kept.SPELLED_OTHERWISE


def _still_there(batch: Sequence[Blob], blobs: BlobStore, into: Swept) -> list[Blob]:
    """Without the blobs that an earlier attempt deleted, which must not be counted for this one."""
    there = {blob.key for blob in blobs.head([blob.key for blob in batch])}
    into.left.update(absent(blob.key) for blob in batch if blob.key not in there)
    return [blob for blob in batch if blob.key in there]


def _verified(
    batch: Sequence[Blob],
    into: Swept,
    metadata: SweepMetadata,
    formats: Formats,
    original: Callable[[str], str],
    stuck_before: datetime | None,
) -> list[Blob]:
    """Those that no row refers to and whose run is finished, right now."""
    if not batch:
        return []
    keys = {blob.key: original(blob.key) for blob in batch}
    referenced = metadata.referenced(set(keys.values()))
    runs = {key: found for key in keys.values() if (found := formats.coordinates_of(key)) is not None}
    in_full = metadata.named_in_full(set(runs.values())) if runs else {}
    runs = {key: in_full.get(found, found) for key, found in runs.items()}
    unfinished = metadata.unfinished_runs(runs.values(), stuck_before=stuck_before) if runs else set()
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


def _earlier_copies(batch: Sequence[Blob], quarantine: Quarantine) -> dict[str, Blob]:
    """The copies that earlier runs left of blobs that they could not delete, by the keys of the blobs.

    Without this every run would add a copy where a store denies deleting the original and the copy.
    """
    wanted = {blob.key: blob for blob in batch}
    found = {}
    for copy in quarantine.store.list() if wanted else ():
        folder, _, key = copy.key.partition("/")
        if folder != quarantine.folder and key in wanted and FOLDER.fullmatch(folder) and _is_copy(copy, wanted[key]):
            found[key] = copy
    return found


def _is_copy(copy: Blob, blob: Blob) -> bool:
    """Whether what is under the name of a copy is what the blob is now.

    It is if their versions are the same, which for S3 are hashes of the content, or if the copy was made long after the
    blob was last written: one that was made while it was written is hardly younger than the blob.
    """
    if copy.size != blob.size:
        return False
    same = copy.version is not None and copy.version == blob.version
    made, written = believed(copy.last_modified), believed(blob.last_modified)
    return same or (made is not None and written is not None and made > written + _LONG_AFTER)


def _renew(quarantine: Quarantine, copies: Iterable[Blob]) -> None:
    """Let what is in quarantine only now be there for as long as everything else: move it into the plan's folder."""
    moved = [
        copy
        for copy in copies
        if quarantine.store.copy_to(copy, target=quarantine.store.base, key=quarantine.key(copy.key.partition("/")[2]))
    ]
    for _ in quarantine.store.delete_unchanged(moved):
        pass


def _copy(
    batch: Sequence[Blob], blobs: BlobStore, quarantine: Quarantine, into: Swept, earlier: Mapping[str, Blob]
) -> list[Blob]:
    """Those of which the very version that was looked at now lies in the quarantine, too.

    :param earlier: those that lie there already.
    """

    def copy(blob: Blob) -> str | None:
        """Why there is no copy; None if there is one."""
        if blob.key in earlier:
            return None
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
