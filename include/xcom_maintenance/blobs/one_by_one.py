"""What the adapters share whose store is asked about, and told to delete, one object at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice

from include.xcom_maintenance.blobs.canary import CANARY, canary_key, honours_conditions
from include.xcom_maintenance.blobs.port import DeleteResult, Deletion, Uploads
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import StoreUnavailable
from include.xcom_maintenance.core.records import Blob

#: Requests under way at once; the clients' pools hold ten connections.
_THREADS = 8
_BATCH = 1_000


class OneByOneStore(ABC):
    """A part of ``BlobStore``, by a few operations of the store on one object.

    :param setting: the setting that named the base path, for errors.
    """

    #: A well-formed version that no object has.
    wrong_version: str

    def __init__(self, base: BasePath, *, setting: str) -> None:
        self.base = base
        self._setting = setting
        self._conditional: bool | None = None

    # -- what each store does in its own way ----------------------------------------------------

    @abstractmethod
    def put(self, key: str, content: bytes) -> None: ...

    @abstractmethod
    def _head(self, key: str) -> Blob | None: ...

    @abstractmethod
    def _delete_if(self, key: str, version: str | None) -> DeleteResult:
        """Delete an object, on condition of its version if one is given. What stops it is raised as the client does.

        :returns: ``CHANGED`` where the store says that the condition does not hold, though the object may be gone.
        """

    @abstractmethod
    def _failure(self, error: Exception) -> str | None:
        """What the store says where it did not delete one object; None if that is not about the object."""

    @abstractmethod
    def _errors(self) -> AbstractContextManager[None]:
        """Turn what the client raises into an error that names the setting and the remedy."""

    # -- what follows from that -----------------------------------------------------------------

    def head(self, keys: Sequence[str]) -> Iterator[Blob]:
        with ThreadPoolExecutor(_THREADS) as threads:
            yield from filter(None, threads.map(self._head, keys))

    def honours_conditions(self) -> bool:
        if self._conditional is None:
            self._conditional = self._probe()
        return self._conditional

    def unfinished_uploads(self) -> Uploads | None:
        return None

    def deletes_only_unchanged(self) -> bool:
        return self.honours_conditions()

    def _probe(self) -> bool:
        key = canary_key()

        def put() -> str | None:
            self.put(key, CANARY)
            found = self._head(key)
            return found.version if found else None

        with self._errors():
            try:
                return honours_conditions(
                    put=put,
                    refused=lambda version: self._delete_if(key, version) is DeleteResult.CHANGED,
                    is_there=lambda: self._head(key) is not None,
                    wrong=self.wrong_version,
                )
            finally:
                self._delete_if(key, None)

    def delete_unchanged(self, blobs: Iterable[Blob]) -> Iterator[Deletion]:
        stream = iter(blobs)
        while batch := [*islice(stream, _BATCH)]:
            self.honours_conditions()
            with ThreadPoolExecutor(_THREADS) as threads:
                yield from threads.map(self._delete, batch)

    def _delete(self, blob: Blob) -> Deletion:
        if not self._conditional or blob.version is None:
            now = self._head(blob.key)
            if now != blob:
                return Deletion(blob, DeleteResult.CHANGED if now else DeleteResult.GONE)
        with self._errors():
            try:
                result = self._delete_if(blob.key, blob.version)
            except Exception as error:
                said = self._failure(error)
                if said is None:
                    raise
                return Deletion(blob, DeleteResult.FAILED, said)
        if result is DeleteResult.CHANGED and self._head(blob.key) is None:
            result = DeleteResult.GONE
        return Deletion(blob, result)

    def _unreachable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"The object store of {self.base} cannot be reached: {type(error).__name__}",
            setting=self._setting,
            remedy="Work done so far is kept and in the report; another run continues from there",
        )
