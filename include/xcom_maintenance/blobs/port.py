"""The port to the blob store: everything below one base path, by keys relative to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
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


@dataclass(slots=True)
class Uploads:
    """Uploads in parts that nobody has finished: they take space, and no listing shows them."""

    number: int = 0
    #: Of the parts of those that were looked at.
    bytes: int = 0
    #: Whether there may be more of them, and whether they may have more bytes.
    more: bool = False
    more_bytes: bool = False
    #: When the oldest began (UTC).
    oldest: datetime | None = None
    #: Why nothing is known, in the store's own word.
    unknown: str | None = None


class BlobStore(Protocol):
    """The blobs below one base path.

    Every method raises ``StoreUnavailable`` if the store cannot be reached, and ``ConfigurationError`` if it says that
    the bucket is not there or that the rights are missing.
    """

    base: BasePath

    def check(self) -> None:
        """Make sure that the base path can be read."""

    def list(self, *, after: str | None = None, before: str | None = None) -> Iterator[Blob]:
        """The objects below the base path, streamed, sorted by key in byte order.

        A listing that breaks off raises; it never ends early as if it were complete.

        :param after: only keys from this one on (it included), in byte order.
        :param before: only keys before this one (it excluded).
        """

    def head(self, keys: Sequence[str]) -> Iterator[Blob]:
        """Those of ``keys`` that exist, in no particular order."""

    def honours_conditions(self) -> bool:
        """Whether the store itself refuses to delete an object that is no longer of the version that was named.

        Found out when it is first asked, by deleting a canary; so it needs the rights that deleting does.
        """

    def deletes_only_unchanged(self) -> bool:
        """Whether a delete never takes what is written between the last look and it.

        Where it may, nothing should be deleted for good that could be written again. Found out as above.
        """

    def delete_unchanged(self, blobs: Iterable[Blob]) -> Iterator[Deletion]:
        """Delete those blobs whose version and time of modification are still what they were.

        The version is sent along where the store was seen to honour it. Where that does not rule out that a blob was
        written again, each is looked up again just before, also each time that a delete has to be tried again.
        """

    def copy_to(self, blob: Blob, *, target: BasePath, key: str) -> bool:
        """Copy exactly the version that was looked at, inside the store; False if it is gone or was written again.

        What is there under that key is overwritten. True means that the whole copy was seen to be there.

        :param target: a base path in the same bucket.
        :param key: of the copy, relative to ``target``.
        """

    def get(self, key: str) -> bytes | None:
        """The content of a small object, or None if there is none."""

    def put(self, key: str, content: bytes) -> None:
        """Write a small object."""

    def unfinished_uploads(self) -> Uploads | None:
        """Uploads in parts below the base path that nobody has finished; None if no such store tells of any.

        Never raises for a right that is missing. The work is bounded: see ``Uploads.more``.
        """
