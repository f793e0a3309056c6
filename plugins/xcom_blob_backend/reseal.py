"""Rotating keys: which key holds what a row stands for, and the same value sealed with the key that seals now.

Nothing here overwrites or deletes what a row refers to. A value that does not open, or was written for another entry,
is not sealed again: that would make a blob that somebody has put there look genuine.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from xcom_blob_backend import transfer
from xcom_blob_backend.config import settings
from xcom_blob_backend.crypto import Keys, new_salt
from xcom_blob_backend.errors import BlobUndecryptable, StoreFailed
from xcom_blob_backend.header import (
    MAX_START_BYTES,
    START_BYTES,
    Coordinates,
    Header,
    bytes_of_start,
    check_place,
    join,
    peek,
    split,
)
from xcom_blob_backend.names import blob_name
from xcom_blob_backend.reference import BlobReference, SealedValue
from xcom_blob_backend.store import store_for


class Former(NamedTuple):
    """A blob that a row referred to, with all that it holds."""

    place: transfer.Place
    blob: bytes


class Resealed(NamedTuple):
    """A value that was sealed again, and stored if it is a blob."""

    #: What the row is to hold.
    row: dict[str, Any]
    former: Former | None


def configured_keys() -> Keys | None:
    """The keys, the first of which seals; None if nothing is encrypted.

    :raises BackendNotConfigured: if they cannot be used.
    """
    text = settings().encryption_keys
    return Keys.parse(text, setting="[xcom_blob_backend] encryption_keys") if text else None


def open_stores() -> None:
    """Open the stores of all configured paths, in the thread of the task: others cannot ask for a Connection.

    :raises StoreFailed, BackendNotConfigured: if one cannot be opened.
    """
    for base in (settings().base, *settings().also_read):
        store_for(base)


def header_of(row: Any) -> Header | None:
    """What is said about the value of a row where it is stored, without reading all of it; unchecked.

    :param row: what the row holds; of a sealed value the beginning is enough.
    :returns: None for a row that holds a value, or was written by another backend.
    :raises XComBlobError: if it cannot be read.
    """
    sealed = SealedValue.data_of(row)
    if sealed is not None:
        text = sealed.get("sealed")
        whole = len(text) // 4 * 4 if isinstance(text, str) else 0
        return peek(transfer.sealed_blob({"sealed": text[:whole] if isinstance(text, str) else text}, None), "A value")
    place = transfer.place_of(row)
    if place is None or place.stock:
        return None
    store = store_for(place.base)
    start = store.start(place.name, START_BYTES)
    if len(start) == START_BYTES < (end := bytes_of_start(start, place.uri)):
        start = store.start(place.name, min(end, MAX_START_BYTES))
    return peek(start, place.uri)


def reseal(row: Any, at: Coordinates) -> Resealed | None:
    """Seal the value of a row with the key that seals now. A blob is written under a new name, and read back.

    The payload is decrypted and encrypted, never decompressed.

    :param row: what the row holds.
    :param at: the entry that the row is of.
    :returns: None if there is nothing to do: it is sealed with that key already, or not encrypted, or no blob of ours.
    :raises XComBlobError: if the value does not open, or the new blob cannot be stored; nothing is lost then.
    """
    sealed = SealedValue.data_of(row)
    if sealed is not None:
        found = _sealed_again(transfer.sealed_blob(sealed, at), "", "", at, f"The inline value of {at}")
        if found is None:
            return None
        return Resealed(SealedValue.row(sealed=base64.b64encode(found[0]).decode()), None)
    place = transfer.place_of(row)
    if place is None or place.stock:
        return None
    former, base = store_for(place.base).get(place.name), settings().base
    name = blob_name(at.dag_id, at.run_id, at.task_id, prefix_bytes=base.prefix_bytes)
    found = _sealed_again(former, place.name, name, at, place.uri)
    if found is None:
        return None
    blob, header = found
    store_for(base).put(name, blob)
    if store_for(base).get(name) != blob:
        raise StoreFailed(f"{base.uri(name)} does not contain what was just written")
    row = BlobReference.row(uri=base.uri(name), bytes=header.raw_bytes, stored_bytes=len(blob))
    return Resealed(row, Former(place, former))


def renew(former: Former) -> None:
    """Write a blob that no row refers to any more once again as it was, so that its age begins anew.

    A task that read the row just before still looks for it there, and what is cleaned up goes by age. In a former base
    path nothing is written, nor cleaned up as long as it is one.

    :raises StoreFailed: if it cannot be written.
    """
    if former.place.base == settings().base:
        store_for(former.place.base).put(former.place.name, former.blob)


def _sealed_again(blob: bytes, name: str, new_name: str, at: Coordinates, where: str) -> tuple[bytes, Header] | None:
    """The blob and its header, sealed anew; None if the right key seals it, or none.

    :param name: of the blob as it is; empty for what lies in a row.
    """
    packed, header, payload = split(blob, where)
    check_place(header, name=name, asked=at, where=where)
    keys = configured_keys()
    if header.key_id is None or (keys is not None and header.key_id == keys.sealing):
        return None
    if keys is None:
        raise BlobUndecryptable(f"{where} is encrypted with the key {header.key_id!r}, but no key is configured")
    content = keys.open(payload, header=packed, key_id=header.key_id, salt=header.salt or "", where=where)
    # The row's own spelling of its key takes the place of the task's, where the two differ.
    written_for = header.at._replace(key=at.key) if at.key is not None else header.at
    header = header._replace(at=written_for, name=new_name, key_id=keys.sealing, salt=new_salt())
    packed = header.pack()
    sealed = keys.seal(content, header=packed, key_id=keys.sealing, salt=header.salt or "")
    return join(packed, sealed), header
