"""Which blobs no row refers to, and which references lead nowhere: a merge of two sorted streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from include.xcom_maintenance.core.records import Blob, Coordinates, RowReference
from include.xcom_maintenance.core.reference_formats import coordinates_of

_Keyed = TypeVar("_Keyed", Blob, RowReference)


class BlobKind(StrEnum):
    """What the find phase says about one object below the base path."""

    REFERENCED = "referenced"
    #: No row refers to it, and it is old enough that no row can be on its way.
    ORPHAN = "orphan"
    #: No row refers to it, but it is younger than the grace period, or its age is unknown.
    TOO_YOUNG = "too young to tell"
    #: No row refers to it yet, but a task of its run may still write one.
    UNFINISHED_RUN = "its run is not finished"
    #: Its key is of no known backend's layout.
    UNRECOGNISED = "unrecognised"
    #: Its DAG is none that this Airflow ever knew: another Airflow's.
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class FoundBlob:
    """An object, what it is, and whose."""

    blob: Blob
    kind: BlobKind
    coordinates: Coordinates | None = None


@dataclass(frozen=True, slots=True)
class UnmatchedReference:
    """A row's reference for which the listing had no object."""

    reference: RowReference


def match(
    blobs: Iterable[Blob],
    references: Iterable[RowReference],
    *,
    modified_before: datetime,
    ignored_prefixes: tuple[str, ...] = (),
) -> Iterator[FoundBlob | UnmatchedReference]:
    """Merge a listing with the references, both sorted by key in byte order.

    :param modified_before: only blobs last modified before this time (UTC) can be orphans: the time of the reference
        snapshot less the grace period.
    :param ignored_prefixes: keys below these belong to something else, such as Airflow's state store.
    :raises ValueError: if a stream is not sorted, since then nothing can be concluded from an absence.
    """
    reference_stream = _sorted(references, "references")
    reference = next(reference_stream, None)
    for blob in _sorted(blobs, "listing"):
        key = blob.key.encode(errors="surrogateescape")
        while reference is not None and reference.key.encode(errors="surrogateescape") < key:
            yield UnmatchedReference(reference)
            reference = next(reference_stream, None)
        referenced = False
        while reference is not None and reference.key == blob.key:
            referenced = True
            reference = next(reference_stream, None)
        coordinates = coordinates_of(blob.key)
        if referenced:
            kind = BlobKind.REFERENCED
        elif coordinates is None or blob.key.startswith(ignored_prefixes):
            kind = BlobKind.UNRECOGNISED
        elif blob.last_modified is None or blob.last_modified >= modified_before:
            kind = BlobKind.TOO_YOUNG
        else:
            kind = BlobKind.ORPHAN
        yield FoundBlob(blob, kind, coordinates)
    while reference is not None:
        yield UnmatchedReference(reference)
        reference = next(reference_stream, None)


def _sorted(stream: Iterable[_Keyed], name: str) -> Iterator[_Keyed]:
    previous = b""
    for item in stream:
        key = item.key.encode(errors="surrogateescape")
        if key < previous:
            raise ValueError(f"The {name} is not sorted by key in byte order; nothing can be concluded from it")
        previous = key
        yield item
