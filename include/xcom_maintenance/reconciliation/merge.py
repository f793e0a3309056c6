"""Orphan blobs and dangling references: a merge of two sorted streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeVar

from include.xcom_maintenance.core.byte_order import in_byte_order
from include.xcom_maintenance.core.records import Blob, Coordinates, RowReference
from include.xcom_maintenance.core.reference_formats import KNOWN, BlobName, Formats


class BlobKind(StrEnum):
    """What kind of object below the base path this is."""

    REFERENCED = "referenced"
    #: No row refers to it, and it is too old for a row to be still coming.
    ORPHAN = "orphan"
    #: No row refers to it, but it is younger than the grace period, or its age is unknown.
    TOO_YOUNG = "too young to tell"
    #: No row refers to it yet, but a task of its run may still write one.
    UNFINISHED_RUN = "run not finished"
    #: Its key matches no known backend's layout.
    UNRECOGNISED = "unrecognised"
    #: No row refers to it, but its key does not name a DAG, run and task.
    UNOWNED = "unowned"
    #: This Airflow never knew its DAG, so it belongs to another Airflow.
    FOREIGN = "foreign"


class FoundBlob(NamedTuple):
    """An object, its kind, and its name."""

    blob: Blob
    kind: BlobKind
    #: None if its key matches no known layout, or if it is referenced and so was not parsed.
    name: BlobName | None = None

    @property
    def coordinates(self) -> Coordinates | None:
        return self.name.coordinates if self.name else None


@dataclass(frozen=True, slots=True)
class UnmatchedReference:
    """A reference without an object in the listing."""

    reference: RowReference


def match(
    blobs: Iterable[Blob],
    references: Iterable[RowReference],
    *,
    modified_before: datetime,
    ignored_prefixes: tuple[str, ...] = (),
    formats: Formats = KNOWN,
    claims_unowned: bool = False,
) -> Iterator[FoundBlob | UnmatchedReference]:
    """Merge a listing with the references, both sorted by key in byte order.

    :param modified_before: only blobs last modified before this time (UTC) can be orphans: the time of the reference
        snapshot less the grace period.
    :param ignored_prefixes: keys below these belong to something else, such as Airflow's state store.
    :param claims_unowned: whether unowned blobs can be orphans, too.
    :raises ValueError: if a stream is not sorted, since then nothing can be concluded from an absence.
    """
    reference_stream = _sorted(references, "references")
    reference, wanted = next(reference_stream, _END)
    for blob, key in _sorted(blobs, "listing"):
        while reference is not None and wanted < key:
            yield UnmatchedReference(reference)
            reference, wanted = next(reference_stream, _END)
        if reference is not None and wanted == key:
            while reference is not None and wanted == key:
                reference, wanted = next(reference_stream, _END)
            yield FoundBlob(blob, BlobKind.REFERENCED)
            continue
        name = formats.read(blob.key)
        if name is None or blob.key.startswith(ignored_prefixes):
            kind = BlobKind.UNRECOGNISED
        elif blob.last_modified is None or blob.last_modified >= modified_before:
            kind = BlobKind.TOO_YOUNG
        elif name.coordinates is None and not claims_unowned:
            kind = BlobKind.UNOWNED
        else:
            kind = BlobKind.ORPHAN
        yield FoundBlob(blob, kind, name)
    while reference is not None:
        yield UnmatchedReference(reference)
        reference, wanted = next(reference_stream, _END)


_END: tuple[None, str] = (None, "")


_HasKey = TypeVar("_HasKey", Blob, RowReference)


def _sorted(stream: Iterable[_HasKey], name: str) -> Iterator[tuple[_HasKey, str]]:
    """Each entry with its sort key."""
    previous = ""
    for entry in stream:
        key = in_byte_order(entry.key)
        if key < previous:
            raise ValueError(f"The {name} is not sorted by key in byte order; nothing can be concluded from it")
        previous = key
        yield entry, key
