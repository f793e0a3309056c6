"""What happens to a value on its way into a row and out of one: the flow that everything else here serves."""

from __future__ import annotations

import base64
import binascii
import functools
import logging
import time
from typing import Any, NamedTuple

from xcom_blob_backend import metrics, values
from xcom_blob_backend.config import WARN_BYTES, BasePath, settings
from xcom_blob_backend.errors import (
    BlobDamaged,
    BlobOutsideBasePath,
    BlobUndecryptable,
    KeyNotStorable,
    ValueNotSerializable,
    ValueTooLarge,
    XComBlobError,
)
from xcom_blob_backend.header import Coordinates, Header, check_place, join, split
from xcom_blob_backend.keys import what_is_wrong
from xcom_blob_backend.names import blob_name, folder, is_blob_name
from xcom_blob_backend.reference import BlobReference, SealedValue

log = logging.getLogger("airflow.task.xcom_blob_backend")

#: What Airflow's scheduler reads from the row itself, whatever backend is configured.
_READ_BY_THE_SCHEDULER = frozenset({"skipmixin_key"})


class Place(NamedTuple):
    """A blob that a row refers to, in a place that may be read."""

    base: BasePath
    name: str
    #: Whether Airflow's own object storage backend wrote it.
    stock: bool

    @property
    def uri(self) -> str:
        return self.base.uri(self.name)


class LastPush:
    """What the last push of this process took besides its storing."""

    encryption_seconds: float | None = None


last_push = LastPush()


def save(value: Any, at: Coordinates) -> Any:
    """Store a value; returns what its row is to hold.

    :raises KeyNotStorable: if Airflow cannot store anything under its key.
    :raises ValueNotSerializable: if it cannot be serialized, or would lose something by it.
    :raises ValueTooLarge: if it is above ``max_value_bytes``.
    :raises StoreFailed: if the store does not take it.
    """
    last_push.encryption_seconds = None
    if at.key is not None and (wrong := what_is_wrong(at.key)):
        raise KeyNotStorable(f"Airflow cannot store what was pushed by {at}: {wrong} (the key)")
    if value is None:
        return None
    if is_read_by_the_scheduler(at.key):
        return _for_the_scheduler(value, at)
    started = time.perf_counter()
    encoded = _encode(value, at)
    raw_bytes = len(encoded.data)
    _check_size(raw_bytes, at)
    limits = settings()
    row: Any
    if raw_bytes >= limits.threshold:
        row, stored_bytes = put(encoded, at)
        store = limits.base.scheme
    elif (
        limits.encrypt_inline
        # A text that looks like a reference of the stock backend: sealed, it is not taken for one.
        or (type(value) is str and _place(value) is not None)
        # What would come back as something else, or not at all.
        or not values.fits_row(encoded)
    ):
        row, stored_bytes = sealed_row(encoded, at)
        store = "inline"
    else:
        row, store, stored_bytes = encoded.inline, "inline", raw_bytes
    seconds = time.perf_counter() - started
    metrics.emit("push", store=store, seconds=seconds, raw_bytes=raw_bytes, stored_bytes=stored_bytes)
    return row


def put(encoded: values.Encoded, at: Coordinates) -> tuple[dict[str, Any], int]:
    """Write a blob, whatever the threshold; returns the reference for the row, and the size of the blob.

    :raises StoreFailed: if the store does not take it.
    """
    base = settings().base
    name = blob_name(at.dag_id, at.run_id, at.task_id, prefix_bytes=base.prefix_bytes)
    blob = seal(encoded, at, name)
    _store(base).put(name, blob)
    return BlobReference.row(uri=base.uri(name), bytes=len(encoded.data), stored_bytes=len(blob)), len(blob)


def sealed_row(encoded: values.Encoded, at: Coordinates) -> tuple[dict[str, Any], int]:
    """A value for the row itself, in the format of a blob; and its size."""
    blob = seal(encoded, at, "", encrypt=settings().encrypt_inline)
    return SealedValue.row(sealed=base64.b64encode(blob).decode()), len(blob)


def load(row: Any, asked: Coordinates | None) -> Any:
    """The value of a row.

    :param row: what the row holds.
    :param asked: the entry that the row is of, as far as it is known.
    :raises BlobMissing, BlobDamaged, BlobUndecryptable, BlobMisplaced, BlobOutsideBasePath: by name, what is wrong.
    :raises StoreFailed: if the store cannot be read.
    """
    started = time.perf_counter()
    sealed = SealedValue.data_of(row)
    if sealed is not None:
        blob = sealed_blob(sealed, asked)
        where = f"The inline value of {asked or 'an entry'}"
        value, raw_bytes = unseal(blob, name="", asked=asked, where=where)
        store = "inline"
    elif (place := place_of(row)) is not None:
        blob, store = get(place), place.base.scheme
        if place.stock:
            from xcom_blob_backend import stock

            value, raw_bytes = stock.decode(blob, place.name, place.uri), len(blob)
        else:
            value, raw_bytes = unseal(blob, name=place.name, asked=asked, where=place.uri)
    else:
        return values.of_default(row)
    seconds = time.perf_counter() - started
    metrics.emit("pull", store=store, seconds=seconds, raw_bytes=raw_bytes, stored_bytes=len(blob))
    return value


def is_read_by_the_scheduler(key: str | None) -> bool:
    """Whether entries of this key stay in their rows as they are."""
    return key in _READ_BY_THE_SCHEDULER


def get(place: Place) -> bytes:
    """A blob.

    :raises BlobMissing, StoreFailed: if it cannot be had.
    """
    blob: bytes = _store(place.base).get(place.name)
    return blob


def sealed_blob(data: dict[str, Any], at: Coordinates | None) -> bytes:
    """What the row of a sealed value holds, as a blob.

    :raises BlobDamaged: if it is no base64.
    """
    try:
        return base64.b64decode(data["sealed"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise BlobDamaged(f"The value of {at or 'an entry'} is damaged: it is not valid base64") from None


def is_stored(row: Any) -> bool:
    """Whether a row holds no value, but says where one is."""
    return SealedValue.data_of(row) is not None or place_of(row) is not None


def purge(row: Any, owner: Coordinates | None = None) -> None:
    """Delete the blob that a row refers to; nothing if it refers to none.

    :param owner: the entry that the row was of. A blob in the folder of another task is left alone.
    :raises StoreFailed: if the store does not delete it.
    """
    try:
        place = place_of(row)
    except BlobOutsideBasePath as why:
        log.warning("Keeping its blob: %s", why)
        return
    if place is None:
        return
    if owner is not None and not _is_of(place, owner):
        log.warning("Keeping %s: it was not written for %s", place.uri, owner)
        return
    _store(place.base).delete(place.name)


def place_of(row: Any) -> Place | None:
    """The blob that a row refers to; None if it holds a value.

    :raises BlobOutsideBasePath: if it refers to a place that is not configured.
    """
    data = BlobReference.data_of(row)
    if data is None:
        return _place(row) if type(row) is str else None
    uri = data.get("uri")
    for base in (settings().base, *settings().also_read):
        name = base.name_of(uri) if isinstance(uri, str) else None
        if name is not None and is_blob_name(name):
            return Place(base, name, stock=False)
    raise BlobOutsideBasePath(
        f"The row refers to {uri!r}, which is outside {settings().base} and every path in [xcom_blob_backend] also_read"
    )


def _place(text: str) -> Place | None:
    """The blob that a text means if the stock backend wrote it."""
    if "://" not in text[:32] or len(text) > 2_048:
        return None
    from xcom_blob_backend import stock

    limits = settings()
    for base in filter(None, (limits.stock, limits.base, *limits.also_read)):
        name = base.name_of(text)
        if name is not None and stock.is_name(name, of_its_own=base is limits.stock):
            return Place(base, name, stock=True)
    return None


def _is_of(place: Place, owner: Coordinates) -> bool:
    """Whether a blob lies in the folder of its owner, as this backend or the stock one names it."""
    plain = f"{owner.dag_id}/{owner.run_id}/{owner.task_id}/"
    safe = folder(owner.dag_id, owner.run_id, owner.task_id, prefix_bytes=place.base.prefix_bytes)
    return place.name.startswith((plain, safe)) or (place.stock and ".json" in place.name)


def seal(encoded: values.Encoded, at: Coordinates, name: str, *, encrypt: bool = True) -> bytes:
    """A blob of an encoded value, encrypted if there are keys."""
    from xcom_blob_backend.codec import compress

    limits = settings()
    codec, payload = compress(encoded.data, limits.compression, limits.compression_level)
    raw_bytes = len(encoded.data)
    if not (encrypt and limits.encryption_keys):
        header = Header(at, name, encoded.encoding, codec, raw_bytes).pack()
        return join(header, payload)
    from xcom_blob_backend import crypto

    if len(payload) > crypto.MAX_BYTES:
        raise ValueTooLarge(
            f"The value of {at} has {len(payload)} bytes, more than can be encrypted in one piece (2 GiB)"
        )
    started = time.perf_counter()
    keys, salt = _keys(limits.encryption_keys), crypto.new_salt()
    header = Header(at, name, encoded.encoding, codec, raw_bytes, key_id=keys.sealing, salt=salt).pack()
    sealed = keys.seal(payload, header=header, key_id=keys.sealing, salt=salt)
    last_push.encryption_seconds = time.perf_counter() - started
    return join(header, sealed)


def unseal(blob: bytes, *, name: str, asked: Coordinates | None, where: str) -> tuple[Any, int]:
    """The value in a blob, and its size as JSON."""
    data, header = open_blob(blob, name=name, asked=asked, where=where)
    try:
        return values.decode(data, header.encoding), header.raw_bytes
    except UnicodeDecodeError:
        raise BlobDamaged(f"{where} is damaged: it is not valid text") from None


def open_blob(blob: bytes, *, name: str, asked: Coordinates | None, where: str) -> tuple[bytes | memoryview, Header]:
    """The JSON in a blob, decrypted and decompressed, and what the blob says about itself."""
    from xcom_blob_backend.codec import decompress

    packed, header, payload = split(blob, where)
    check_place(header, name=name, asked=asked, where=where)
    content: bytes | memoryview = payload
    if header.key_id is not None:
        text = settings().encryption_keys
        if not text:
            raise BlobUndecryptable(
                f"{where} is encrypted with the key {header.key_id!r}; [xcom_blob_backend] encryption_keys is not set"
            )
        keys = _keys(text)
        content = keys.open(payload, header=packed, key_id=header.key_id, salt=header.salt or "", where=where)
    return decompress(content, header.codec, header.raw_bytes, where), header


def _encode(value: Any, at: Coordinates) -> values.Encoded:
    try:
        return values.encode(value)
    except XComBlobError:
        raise
    except UnicodeError as why:
        raise ValueNotSerializable(f"The value pushed by {at} cannot be serialized: {type(why).__name__}") from None
    except (TypeError, ValueError, AttributeError, RecursionError) as why:
        raise ValueNotSerializable(f"The value pushed by {at} cannot be serialized: {why}") from why
    except Exception as why:
        # Of a class of the value, in its own words: they may quote it, and stay where the cause is told.
        raise ValueNotSerializable(f"The value pushed by {at} cannot be serialized: {type(why).__name__}") from why


def _for_the_scheduler(value: Any, at: Coordinates) -> Any:
    """What the row holds of a value that the scheduler reads: as it is, so nothing can be sealed."""
    encoded = _encode(value, at)
    if not values.fits_row(encoded):
        raise ValueNotSerializable(
            f"The value pushed by {at} would not come back from the database as it is, and the scheduler reads it there"
        )
    return encoded.inline


def _check_size(raw_bytes: int, at: Coordinates) -> None:
    limit = settings().max_value_bytes
    if limit and raw_bytes > limit:
        raise ValueTooLarge(
            f"The value pushed by {at} has {raw_bytes:,} bytes as JSON; [xcom_blob_backend] max_value_bytes allows "
            f"{limit:,}. Write the data to a file or a table, and push where it is"
        )
    if raw_bytes >= WARN_BYTES:
        log.warning(
            "The value pushed by %s has %s bytes as JSON. Every task that pulls it reads all of it into memory: write "
            "data of this size to a file or a table, and push where it is",
            at,
            f"{raw_bytes:,}",
        )


@functools.lru_cache(maxsize=1)
def _keys(text: str) -> Any:
    from xcom_blob_backend.crypto import Keys

    return Keys.parse(text, setting="[xcom_blob_backend] encryption_keys")


def _store(base: BasePath) -> Any:
    from xcom_blob_backend.store import store_for

    return store_for(base)
