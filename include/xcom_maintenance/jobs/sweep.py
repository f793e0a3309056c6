"""Verify, then dispose of blobs: the one mechanism that cleanup and reconciliation share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice

from include.xcom_maintenance.blobs.port import BlobStore, DeleteResult
from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.core.reference_formats import KNOWN, Formats
from include.xcom_maintenance.jobs.job import Progress
from include.xcom_maintenance.metadata.port import MetadataStore
from include.xcom_maintenance.reports.place import ManifestWriter
from include.xcom_maintenance.reports.report import Report, Table

#: Candidates verified by one look at the metadata database.
_BATCH = 20_000
#: Stores tell times in whole seconds, cut off: a blob may have been written this much later than they say.
_WHOLE_SECONDS = timedelta(seconds=1)


class Kept(StrEnum):
    """Why a candidate was left where it is."""

    REFERENCED = "a row refers to it"
    UNFINISHED_RUN = "its run is not finished"
    TOO_YOUNG = "it was written after the plan was made, or its age is unknown"


@dataclass(slots=True)
class Swept:
    """What became of the candidates."""

    deleted: int = 0
    deleted_bytes: int = 0
    #: By Kept or DeleteResult.
    left: Counter[str] = field(default_factory=Counter)
    #: Keys that could not be deleted and what the store said, the first few.
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return self.left[DeleteResult.FAILED]

    def describe(self, report: Report, log: logging.Logger, title: str) -> None:
        """Put what was left, and what failed, into the report and the log."""
        if self.left:
            report.put(Table(title, ["reason", "blobs"], [[*item] for item in self.left.most_common()]), first=True)
        if self.failures:
            failures = [list(failure) for failure in self.failures]
            report.put(Table("Blobs that could not be deleted", ["blob", "answer"], failures), first=True)
        log.info(
            "Deleted %s blobs (%s bytes); left %s", f"{self.deleted:,}", f"{self.deleted_bytes:,}", dict(self.left)
        )


def sweep(
    candidates: Iterable[Blob],
    *,
    into: Swept,
    blobs: BlobStore,
    metadata: MetadataStore,
    modified_before: datetime,
    progress: Progress,
    deleted: ManifestWriter,
    reason: str,
    formats: Formats = KNOWN,
) -> None:
    """Delete those candidates that nothing refers to and that are still what they were when they were looked at.

    The order is what makes it safe: the candidate's version was taken before the metadata database is asked; a blob
    that is written again afterwards has another version and is left alone.

    :param candidates: as they were listed or looked up; only what is named here is ever deleted.
    :param into: is filled as the work goes on, so that what was done is known even if it breaks off.
    :param modified_before: younger blobs are left alone (UTC).
    :param deleted: is told of every blob that was deleted, with its size and ``reason``.
    """
    for batch in _batches(candidates):
        doomed = []
        referenced = metadata.referenced([blob.key for blob in batch])
        runs = {blob.key: found for blob in batch if (found := formats.coordinates_of(blob.key)) is not None}
        unfinished = metadata.unfinished_runs(runs.values())
        for blob in batch:
            run = runs.get(blob.key)
            if blob.key in referenced:
                into.left[Kept.REFERENCED] += 1
            elif run is not None and (run.dag_id, run.run_id) in unfinished:
                into.left[Kept.UNFINISHED_RUN] += 1
            elif blob.last_modified is None or blob.last_modified + _WHOLE_SECONDS > modified_before:
                into.left[Kept.TOO_YOUNG] += 1
            else:
                doomed.append(blob)
        for deletion in blobs.delete_unchanged(doomed):
            if deletion.result is DeleteResult.DELETED:
                into.deleted += 1
                into.deleted_bytes += deletion.blob.size
                _write_down(deleted, deletion.blob, reason)
            else:
                into.left[deletion.result] += 1
                if deletion.result is DeleteResult.FAILED and len(into.failures) < 10:
                    into.failures.append((deletion.blob.key, deletion.detail))
        progress.add(len(batch))


def _write_down(deleted: ManifestWriter, blob: Blob, reason: str) -> None:
    modified = blob.last_modified.isoformat() if blob.last_modified else None
    deleted.add("deleted", key=blob.key, bytes=blob.size, last_modified=modified, version=blob.version, reason=reason)


def _batches(blobs: Iterable[Blob]) -> Iterator[list[Blob]]:
    stream = iter(blobs)
    while batch := list(islice(stream, _BATCH)):
        yield batch
