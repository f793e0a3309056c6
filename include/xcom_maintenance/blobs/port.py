"""The port to the blob store: everything below one base path, by keys relative to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import Blob


class DeleteResult(StrEnum):
    """What became of one blob that was to be deleted."""

    DELETED = "deleted"
    #: It was written again since it was looked at, so it is somebody's.
    CHANGED = "changed since it was listed"
    #: Somebody else was faster.
    GONE = "already gone"
    FAILED = "could not be deleted"


@dataclass(frozen=True, slots=True)
class Deletion:
    """One blob and what became of it; ``detail`` is the store's own word on a failure."""

    blob: Blob
    result: DeleteResult
    detail: str = ""


class BlobStore(Protocol):
    """The blobs below one base path.

    Every method raises ``StoreUnavailable`` if the store cannot be reached, and ``ConfigurationError`` if it says that
    the bucket is not there or that the rights are missing.
    """

    base: BasePath

    def check(self) -> None:
        """Make sure that the base path can be read."""

    def list(self) -> Iterator[Blob]:
        """Every object below the base path, streamed, sorted by key in byte order.

        A listing that breaks off raises; it never ends early as if it were complete.
        """

    def head(self, keys: Sequence[str]) -> Iterator[Blob]:
        """Those of ``keys`` that exist, in no particular order."""

    def delete_unchanged(self, blobs: Iterable[Blob]) -> Iterator[Deletion]:
        """Delete those blobs whose version and time of modification are still what they were.

        Each is looked up again just before, and the version is sent along for stores that check it themselves.
        """

    def get(self, key: str) -> bytes | None:
        """The content of a small object, or None if there is none."""

    def put(self, key: str, content: bytes) -> None:
        """Write a small object."""
