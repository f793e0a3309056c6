"""This project's XCom backend as the offloading of large values sees it, and the backend that Airflow really uses."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError, StoreUnavailable
from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.values import ReadValue
from include.xcom_maintenance.xcom_backend import coordinates
from include.xcom_maintenance.xcom_backend.port import Moved, ValueStays

#: With types that plain JSON does not hold, so that a backend which hands on what it cannot read is found out.
_CANARY = {
    "canary": "xcom_maintenance",
    "at": datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    "exact": Decimal("1.10"),
    "some": (1, [2.5, None, True], {"a", "b"}),
}
_CANARY_KEY = "xcom_maintenance_canary_offload"


class BlobBackend:
    """The plugin ``xcom_blob_backend``, with the settings of this Airflow.

    :param active: the class that ``[core] xcom_backend`` names.
    """

    def __init__(self, active: Any) -> None:
        self._active = active

    @property
    def name(self) -> str:
        return f"{self._active.__module__}.{self._active.__qualname__}"

    @property
    def takes_pushes(self) -> bool:
        try:
            from xcom_blob_backend import XComBlobBackend
        except ImportError:
            return False
        return issubclass(self._active, XComBlobBackend)

    @property
    def threshold(self) -> int:
        with _errors():
            from xcom_blob_backend.config import settings

            return settings().threshold

    @property
    def bases(self) -> tuple[str, ...]:
        with _errors():
            from xcom_blob_backend.config import settings

            found = settings()
            paths = filter(None, (found.base, *found.also_read, found.stock))
            return tuple(f"{path.bucket}/{path.prefix}".lstrip("/") for path in paths)

    def blob_bytes(self, value: ReadValue) -> int:
        with _errors():
            from xcom_blob_backend import moving

            return moving.blob_bytes(value.text, coordinates(value.place))

    def into_blob(self, value: ReadValue) -> Moved:
        with _errors():
            from xcom_blob_backend import moving

            if not moving.is_movable(value.place.key, json.loads(value.text)):
                raise ValueStays("refers to a value elsewhere, or is read by the scheduler")
            return Moved(*moving.into_blob(value.text, coordinates(value.place)))

    def into_row(self, value: ReadValue) -> Moved:
        with _errors():
            from xcom_blob_backend import moving

            row = json.loads(value.text)
            if not moving.is_reference(row):
                raise ValueStays("is already in its row")
            return Moved(*moving.into_row(row, coordinates(value.place)))

    def probe(self, direction: str, place: ValuePlace) -> None:
        try:
            with _errors():
                wrong = self._probe(direction, place)
        except ValueStays as why:
            wrong = f"test value: {why}"
        if wrong:
            raise ConfigurationError(
                f"The configured XCom backend, {self.name}, could not read the moved values: {wrong}",
                setting="[core] xcom_backend",
                remedy="See docs/backend.md for how to switch backends",
            )

    def _probe(self, direction: str, place: ValuePlace) -> str:
        """What is wrong with a canary that goes the way of a value; empty if nothing is."""
        from airflow.sdk.bases.xcom import BaseXCom
        from xcom_blob_backend import moving, transfer

        at = coordinates(place)._replace(key=_CANARY_KEY)
        blob = moving.into_blob(json.dumps(BaseXCom.serialize_value(_CANARY)), at)
        reference = json.loads(blob.text)
        try:
            row = reference if direction == "offload" else json.loads(moving.into_row(reference, at).text)
            try:
                found = self._active.deserialize_value(SimpleNamespace(key=_CANARY_KEY, value=row))
            except Exception as error:  # noqa: BLE001 - whatever a backend raises; its text could quote the value
                return f"reading a test value raises {type(error).__name__}"
            return "" if found == _CANARY else "a test value comes back changed"
        finally:
            transfer.purge(reference, at)


def active() -> BlobBackend:
    """The backend, and the one that Airflow has resolved ``[core] xcom_backend`` to."""
    from airflow.sdk.execution_time.xcom import resolve_xcom_backend

    return BlobBackend(resolve_xcom_backend())


@contextmanager
def _errors() -> Iterator[None]:
    """The errors of the plugin as ours; none of their messages holds a value."""
    try:
        from xcom_blob_backend import errors
    except ImportError as error:
        raise ConfigurationError(
            f"The module {error.name} is not installed",
            setting="[xcom_blob_backend]",
            remedy="Copy plugins/xcom_blob_backend into the plugins folder, and install its packages (docs/backend.md)",
        ) from None
    try:
        yield
    except errors.BackendNotConfigured as why:
        raise ConfigurationError(str(why), setting="[xcom_blob_backend]", remedy="See docs/backend.md") from None
    except errors.StoreFailed as why:
        raise StoreUnavailable(
            str(why), setting="[xcom_blob_backend] path", remedy="The task is retried; values already moved stay moved"
        ) from None
    except errors.XComBlobError as why:
        raise ValueStays(_WORDS.get(type(why).__name__, type(why).__name__)) from None


_WORDS = {
    "BlobMissing": "its blob is missing",
    "BlobDamaged": "its blob is damaged",
    "BlobMisplaced": "its blob was written for another XCom",
    "BlobUndecryptable": "its blob cannot be decrypted with the configured keys",
    "BlobOutsideBasePath": "its blob is outside path and also_read",
    "ValueTooLarge": "it is too large to encrypt in one piece",
}
