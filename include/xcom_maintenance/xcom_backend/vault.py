"""The XCom backend of this project as the rotation of keys needs it: configured as for every task of this Airflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError, StoreUnavailable
from include.xcom_maintenance.core.values import StoredRow
from include.xcom_maintenance.xcom_backend import coordinates
from include.xcom_maintenance.xcom_backend.port import Resealed, Seal, Trouble

if TYPE_CHECKING:
    from xcom_blob_backend.errors import XComBlobError

log = logging.getLogger("xcom_maintenance")
_In = TypeVar("_In")
_Out = TypeVar("_Out")

_SETTING = "[xcom_blob_backend]"
#: Blobs that are read or written at a time.
_WORKERS = 8
#: Values whose trouble the log tells in full; the report counts all of them.
_TOLD = 50


class BackendVault:
    """The backend's keys and stores.

    :raises ConfigurationError: if it is configured, but not so that it could be used.
    """

    def __init__(self) -> None:
        self.unusable = _unusable()
        self.sealing: str | None = None
        self.configured: tuple[str, ...] = ()
        self._told = 0
        if self.unusable:
            return
        from xcom_blob_backend import reseal

        with _usable():
            keys = reseal.configured_keys()
            reseal.open_stores()
        if keys is not None:
            self.sealing, self.configured = keys.sealing, tuple(keys.by_id)

    def seals(self, rows: Sequence[StoredRow]) -> list[Seal]:
        return self._each(self._seal, rows)

    def reseal(self, rows: Sequence[StoredRow]) -> list[Resealed]:
        return self._each(self._reseal, rows)

    def renew(self, former: Iterable[object]) -> int:
        return sum(self._each(self._renew, list(former)))

    def _each(self, work: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
        with _usable():
            if len(items) < 2:
                return [work(item) for item in items]
            with ThreadPoolExecutor(min(_WORKERS, len(items))) as pool:
                return list(pool.map(work, items))

    def _seal(self, row: StoredRow) -> Seal:
        from xcom_blob_backend import reseal
        from xcom_blob_backend.errors import BackendNotConfigured, XComBlobError
        from xcom_blob_backend.reference import BlobReference, SealedValue

        held = json.loads(row.text)
        inline = SealedValue.data_of(held) is not None
        try:
            header = reseal.header_of(held)
        except BackendNotConfigured:
            raise
        except XComBlobError as error:
            return Seal(None, inline, trouble=self._trouble(row, error))
        key_id = header.key_id if header is not None else None
        if key_id is not None and not isinstance(key_id, str):
            return Seal(None, inline, trouble=Trouble.DAMAGED)
        size = row.stored_bytes if inline else (BlobReference.data_of(held) or {}).get("stored_bytes", 0)
        return Seal(key_id, inline, size if isinstance(size, int) else 0)

    def _reseal(self, row: StoredRow) -> Resealed:
        from xcom_blob_backend import reseal
        from xcom_blob_backend.errors import BackendNotConfigured, XComBlobError
        from xcom_blob_backend.reference import BlobReference

        if row.place is None:
            raise ValueError("nothing is changed in a table that holds rows aside")
        try:
            found = reseal.reseal(json.loads(row.text), coordinates(row.place))
        except BackendNotConfigured:
            raise
        except XComBlobError as error:
            return Resealed(trouble=self._trouble(row, error))
        if found is None:
            return Resealed()
        text = json.dumps(found.row)
        return Resealed(
            text, bytes=(BlobReference.data_of(found.row) or {}).get("stored_bytes", len(text)), former=found.former
        )

    def _renew(self, former: Any) -> bool:
        from xcom_blob_backend import reseal
        from xcom_blob_backend.errors import StoreFailed

        try:
            reseal.renew(former)
        except StoreFailed as error:
            log.warning("The age of a replaced blob could not be renewed: %s", error)
            return False
        return True

    def _trouble(self, row: StoredRow, error: XComBlobError) -> Trouble:
        """The backend's messages name entries and blobs, never values or keys."""
        if self._told < _TOLD:
            self._told += 1
            log.warning("Not re-encrypted, %s: %s: %s", row.dag_id, type(error).__name__, error)
        return Trouble[_TROUBLES.get(type(error).__name__, "DAMAGED")]


_TROUBLES = {
    "BlobMissing": "MISSING",
    "BlobOutsideBasePath": "OUTSIDE",
    "BlobUndecryptable": "UNDECRYPTABLE",
    "BlobMisplaced": "MISPLACED",
    "StoreFailed": "UNREACHABLE",
}


def _unusable() -> str:
    """Why there is no backend to ask, in words; empty if there is one."""
    try:
        from xcom_blob_backend.config import is_configured
    except ImportError:
        return "The plugin xcom_blob_backend is not installed"
    if not is_configured():
        return "The XCom backend xcom_blob_backend is not configured ([xcom_blob_backend] path)"
    return ""


@contextmanager
def _usable() -> Iterator[None]:
    """What is wrong with the backend's configuration, or all of its store, as an error of this bundle."""
    from xcom_blob_backend.errors import BackendNotConfigured, StoreFailed

    try:
        yield
    except MaintenanceError:
        raise
    except BackendNotConfigured as error:
        raise ConfigurationError(
            f"The XCom backend cannot be used here: {error}",
            setting=_SETTING,
            remedy="Correct it on the workers. Nothing in this batch was changed",
        ) from None
    except StoreFailed as error:
        raise StoreUnavailable(
            f"The XCom backend's store cannot be opened: {error}", setting=_SETTING, remedy="The task is retried"
        ) from None
