"""Values that are stored already, moved from rows into blobs and back.

What moves is the JSON of the row, as it stands: no value is built of it and serialized again, so no class of a value is
imported, and a value that only its own DAG can read moves as well as any other.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from xcom_blob_backend import transfer, values
from xcom_blob_backend.config import settings
from xcom_blob_backend.errors import BlobDamaged
from xcom_blob_backend.header import Coordinates
from xcom_blob_backend.names import blob_name
from xcom_blob_backend.reference import BlobReference


class Moved(NamedTuple):
    """What a row is to hold instead."""

    #: As JSON.
    text: str
    #: Of the value as JSON.
    raw_bytes: int
    #: Of the blob that was written or read.
    stored_bytes: int
    #: Whether a task that pulls it from the row gets just this value.
    fits_row: bool = True


def is_movable(key: str, structure: Any) -> bool:
    """Whether a row holds a value that may go into a blob: none that is elsewhere, and none that the scheduler reads.

    :raises BlobOutsideBasePath: if it holds a reference to a place that is not configured.
    """
    return structure is not None and not transfer.is_read_by_the_scheduler(key) and not transfer.is_stored(structure)


def into_blob(text: str, at: Coordinates) -> Moved:
    """Write what a row holds into a blob, read that back, and compare.

    :param text: the value of the row as JSON.
    :raises BlobDamaged: if the store gives back anything else.
    :raises StoreFailed: if the store does not take it or cannot be read.
    """
    encoded = _encoded(text)
    row, stored_bytes = transfer.put(encoded, at)
    data, encoding, _ = _read(row, at)
    if bytes(data) != encoded.data or encoding != encoded.encoding:
        raise BlobDamaged(f"{row['__data__']['uri']} does not contain what was just written")
    return Moved(json.dumps(row), len(encoded.data), stored_bytes)


def into_row(row: Any, at: Coordinates) -> Moved:
    """What a row would hold if its value were not in a blob.

    :param row: a reference of this backend.
    :raises XComBlobError: as a pull, by name, what is wrong with the blob.
    """
    data, encoding, stored_bytes = _read(row, at)
    encoded = values.stored(bytes(data), encoding)
    # Sealed if small values are to be; and if it would be taken for a reference.
    if settings().encrypt_inline or not is_movable("", encoded.inline):
        return Moved(json.dumps(transfer.sealed_row(encoded, at)[0]), len(data), stored_bytes)
    text = bytes(data).decode() if encoded.strict else json.dumps(encoded.inline)  # not all of it may be UTF-8
    return Moved(text, len(data), stored_bytes, values.fits_row(encoded))


def is_reference(row: Any) -> bool:
    """Whether the value of a row is in a blob of this backend."""
    return BlobReference.data_of(row) is not None


def blob_bytes(text: str, at: Coordinates) -> int:
    """How large the blob of a value would be."""
    name = blob_name(at.dag_id, at.run_id, at.task_id, prefix_bytes=settings().base.prefix_bytes)
    return len(transfer.seal(_encoded(text), at, name))


def _encoded(text: str) -> values.Encoded:
    data = text.encode()
    # Without a mark of Airflow's serialization the row is the value; with one, Airflow makes the value of it.
    return values.Encoded(data, values.SERDE if values.has_marks(data) else values.PLAIN, None)


def _read(row: Any, at: Coordinates) -> tuple[bytes | memoryview, str, int]:
    """The JSON in the blob of a reference, its encoding, and the size of the blob."""
    place = transfer.place_of(row)
    if place is None or place.stock:
        raise BlobDamaged(f"The row of {at} is not a reference of this backend")
    blob = transfer.get(place)
    data, header = transfer.open_blob(blob, name=place.name, asked=at, where=place.uri)
    return data, header.encoding, len(blob)
