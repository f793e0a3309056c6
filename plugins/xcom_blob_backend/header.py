"""The format of a blob: it says itself what it is, and shows whether it is whole.

====== ======= =====================================================================================
offset bytes
====== ======= =====================================================================================
0      8       ``\\x89XCB\\r\\n\\x1a\\n``; like PNG's, it is destroyed by a transfer that takes it for text
8      1       version of the format: 1
9      3       zero
12     4       length of the header
16     8       length of the payload
24     32      SHA-256 of header and payload
56             header: JSON, see :class:`Header`
..             payload: the value as JSON, compressed, then encrypted, if the header says so
====== ======= =====================================================================================

Numbers are big-endian. The checksum tells of accidents; against intent there is encryption, whose authentication
covers the header.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any, NamedTuple

from xcom_blob_backend.errors import BlobDamaged, BlobMisplaced
from xcom_blob_backend.keys import is_same_entry

MAGIC = b"\x89XCB\r\n\x1a\n"
VERSION = 1
_PREFIX = struct.Struct(">8sB3xIQ32s")
#: So much of a blob holds its header, but for very long ids.
START_BYTES = 4096
#: No header is longer: three ids of 250 characters and a key of 512, each character escaped, and a name.
MAX_START_BYTES = 32 * 1024


class Coordinates(NamedTuple):
    """The entry that a value belongs to. What is None is not known, or not asked for."""

    dag_id: str | None
    run_id: str | None
    task_id: str | None
    key: str | None
    map_index: int | None = None

    def __str__(self) -> str:
        told = {name: value for name, value in self._asdict().items() if value is not None}
        return ", ".join(f"{name}={value!r}" for name, value in told.items()) or "an unknown XCom"

    def contradicts(self, other: Coordinates) -> bool:
        """Whether the two differ in anything that both know.

        :param other: what is asked for; a key may be spelled as in the row or as by the task.
        """
        pairs = zip(self._replace(key=None), other, strict=True)
        if any(mine is not None and theirs is not None and mine != theirs for mine, theirs in pairs):
            return True
        return self.key is not None and other.key is not None and not is_same_entry(self.key, other.key)


class Header(NamedTuple):
    """What a blob says about itself."""

    #: The entry it was written for.
    at: Coordinates
    #: Its name relative to the base path; empty for a sealed value that lies in its row.
    name: str
    #: ``json``: the value itself, plain JSON. ``serde``: what Airflow's serialization made of it, as JSON.
    encoding: str
    codec: str
    #: Of the JSON, before compression.
    raw_bytes: int
    #: The id of the key that it is encrypted with; None if it is not.
    key_id: str | None = None
    #: Random, in hexadecimal: the key of this one blob is derived from it.
    salt: str | None = None

    def pack(self) -> bytes:
        fields = {**self._asdict(), "at": self.at._asdict()}
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        fields: dict[str, Any] = json.loads(data)
        return cls(**{**fields, "at": Coordinates(**fields["at"])})


def join(header: bytes, payload: bytes) -> bytes:
    """A blob of a packed header and a payload."""
    checksum = hashlib.sha256(header)
    checksum.update(payload)
    return b"".join((_PREFIX.pack(MAGIC, VERSION, len(header), len(payload), checksum.digest()), header, payload))


def split(data: bytes, where: str) -> tuple[bytes, Header, memoryview]:
    """The packed header, the header and the payload of a blob.

    :param where: what to call the blob in an error.
    :raises BlobDamaged: if it is cut off, changed, of a newer version or no blob of this backend.
    """
    header_bytes, payload_bytes, checksum = _prefix(data, where)
    expected = _PREFIX.size + header_bytes + payload_bytes
    if len(data) < expected:
        raise BlobDamaged(f"{where} is truncated: it has {len(data)} of {expected} bytes")
    if len(data) > expected:
        raise BlobDamaged(f"{where} is damaged: it has {len(data)} bytes, {len(data) - expected} more than expected")
    content = memoryview(data)[_PREFIX.size :]
    if hashlib.sha256(content).digest() != checksum:
        raise BlobDamaged(f"{where} is damaged: the checksum does not match")
    packed = bytes(content[:header_bytes])
    return packed, _unpack(packed, where), content[header_bytes:]


def bytes_of_start(start: bytes, where: str) -> int:
    """How many bytes of a blob hold its header.

    :param start: its first bytes.
    :raises BlobDamaged: if it does not begin like a blob of this backend.
    """
    return _PREFIX.size + _prefix(start, where)[0]


def peek(start: bytes, where: str) -> Header:
    """What a blob says about itself, by its first bytes alone: nothing of it is checked.

    :raises BlobDamaged: if they do not hold a whole header.
    """
    end = bytes_of_start(start, where)
    if len(start) < end:
        raise BlobDamaged(f"{where} is truncated: its header has {len(start)} of {end} bytes")
    return _unpack(start[_PREFIX.size : end], where)


def _prefix(data: bytes, where: str) -> tuple[int, int, bytes]:
    """Length of the header, length of the payload, and the checksum of both."""
    if len(data) < _PREFIX.size or data[: len(MAGIC)] != MAGIC:
        if MAGIC.startswith(data[: len(MAGIC)]):
            raise BlobDamaged(
                f"{where} is truncated: it has {len(data)} bytes, and the prefix alone takes {_PREFIX.size}"
            )
        raise BlobDamaged(f"{where} is not a blob of this XCom backend: the first bytes do not match")
    _, version, header_bytes, payload_bytes, checksum = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise BlobDamaged(f"{where} has format {version}; a newer version of this backend may be able to read it")
    return header_bytes, payload_bytes, checksum


def _unpack(packed: bytes, where: str) -> Header:
    try:
        return Header.unpack(packed)
    except (ValueError, TypeError, KeyError):
        raise BlobDamaged(f"{where} is damaged: its header cannot be read") from None


def check_place(header: Header, *, name: str, asked: Coordinates | None, where: str) -> None:
    """That a blob is the one that was written under this name, and for the entry that is asked for.

    :raises BlobMisplaced: if it is another's.
    """
    if header.name != name:
        raise BlobMisplaced(f"{where} is another blob: it was written as {header.name or 'an inline value'!r}")
    if asked is not None and header.at.contradicts(asked):
        raise BlobMisplaced(
            f"{where} belongs to another XCom: it was written for {header.at}, but {asked} was requested"
        )
