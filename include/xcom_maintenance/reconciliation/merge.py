"""Orphan blobs and dangling references: a merge of two sorted streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, TypeVar

from include.xcom_maintenance.core.ages import Age, age_of
from include.xcom_maintenance.core.byte_order import in_byte_order
from include.xcom_maintenance.core.records import Blob, Coordinates, RowReference
from include.xcom_maintenance.core.reference_formats import KNOWN, BlobName, Formats


class BlobKind(StrEnum):
    """What kind of object below the base path this is."""

    REFERENCED = "referenced"
    #: No row refers to it, and it is too old for a row to be still coming.
    ORPHAN = "orphan"
    #: No row refers to it, but it is younger than the grace period.
    TOO_YOUNG = "too young to tell"
    #: No row refers to it, but the store tells no time of modification, or one that cannot be right.
    UNKNOWN_AGE = "of unknown age"
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

    def named(self, in_full: Mapping[Coordinates, Coordinates]) -> FoundBlob:
        """The same, with the ids that are known to be meant."""
        whose = self.coordinates
        if self.name is None or whose is None or whose not in in_full:
            return self
        return self._replace(name=replace(self.name, coordinates=in_full[whose]))

    @property
    def coordinates(self) -> Coordinates | None:
        return self.name.coordinates if self.name else None


#: The kinds of blobs that are left for the sake of their age.
_BY_AGE = {Age.YOUNG: BlobKind.TOO_YOUNG, Age.UNKNOWN: BlobKind.UNKNOWN_AGE}


@dataclass(frozen=True, slots=True)
class UnmatchedReference:
    """A reference without an object in the listing."""

    reference: RowReference


def _now() -> datetime:
    return datetime.now(UTC)


def match(
    blobs: Iterable[Blob],
    references: Iterable[RowReference],
    *,
    modified_before: datetime,
    ignored_prefixes: tuple[str, ...] = (),
    formats: Formats = KNOWN,
    claims_unowned: bool = False,
    now: Callable[[], datetime] = _now,
) -> Iterator[FoundBlob | UnmatchedReference]:
    """Merge a listing with the references, both sorted by key in byte order.

    :param modified_before: only blobs last modified before this time (UTC) can be orphans: the time of the reference
        snapshot less the grace period.
    :param ignored_prefixes: keys below these belong to something else, such as Airflow's state store.
    :param claims_unowned: whether unowned blobs can be orphans, too.
    :param now: the clock that ``modified_before`` was taken from (UTC).
    :raises ValueError: if a stream is not sorted, since then nothing can be concluded from an absence.
    """
    latest = now()
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
        elif (age := age_of(blob.last_modified, before=modified_before, now=latest)) is not Age.OLD:
            if age is Age.UNKNOWN:  # or written since, in a long listing
                latest = now()
                age = age_of(blob.last_modified, before=modified_before, now=latest)
            kind = _BY_AGE[age]
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
