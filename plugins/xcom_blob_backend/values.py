"""Values as bytes and back, with the types that Airflow's default backend gives back.

Nearly everything that tasks push is plain JSON already. For that a walk through the value in Python (Airflow's
serialization takes over a second for 10 MB) is not needed, if it is certain that the walk would change nothing. So the
types of all values are looked at level by level, in C: only where each is exactly a dict with str keys, a list, a str,
an int, a finite float, a bool or None, is the value encoded as it stands. A tuple, a subclass, a set: Airflow decides.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from math import isfinite
from typing import Any, NamedTuple

import msgspec
from airflow.sdk.bases.xcom import BaseXCom

PLAIN = "json"
SERDE = "serde"

_PLAIN_TYPES = {dict, list, str, int, float, bool, type(None)}
#: Deeper than that Airflow itself is the judge, and a value that contains itself gets there too.
_MAX_DEPTH = 200
#: Keys that Airflow's serialization reserves or understands; all begin with the same three bytes.
_MARK = b'"__'
_RESERVED = (b'"__classname__"', b'"__id__"', b'"__type"')


class _Row(NamedTuple):
    value: Any


class Encoded(NamedTuple):
    """A value, ready to be stored."""

    data: bytes
    encoding: str
    #: What the row holds if the value stays in the database: what the default backend would put there.
    inline: Any


def encode(value: Any) -> Encoded:
    """Encode a value.

    :raises TypeError, ValueError, AttributeError, RecursionError: as Airflow's serialization, for what it cannot take.
    """
    if is_plain(value):
        data = _dump(value)
        if data is not None and not (_MARK in data and any(key in data for key in _RESERVED)):
            return Encoded(data, PLAIN, value)
    structure = BaseXCom.serialize_value(value)
    data = _dump(structure) if is_plain(structure) else None
    if data is None:
        data = json.dumps(structure, separators=(",", ":")).encode()
    return Encoded(data, SERDE, structure)


def has_marks(data: bytes) -> bool:
    """Whether JSON may hold a dict that Airflow's serialization made; without one it holds the value itself."""
    return _MARK in data


def decode(data: bytes | memoryview, encoding: str) -> Any:
    """The value again."""
    with _uncollected():
        try:
            structure = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            # NaN, infinity and lone surrogates, which JSON does not have and Python's JSON has.
            structure = json.loads(bytes(data))
    return structure if encoding == PLAIN else of_default(structure)


def of_default(row: Any) -> Any:
    """The value of a row that the default backend wrote."""
    return BaseXCom.deserialize_value(_Row(row))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause Python's collector of cycles, which takes three quarters of the time in which a large value is read.

    JSON has no cycles. Threads that do this at the same time leave the collector as the first of them found it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def is_plain(value: Any) -> bool:
    """Whether JSON holds exactly this value: nothing in it is of a type that would come back as another."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        types = set(map(type, level))
        if not types <= _PLAIN_TYPES:
            return False
        if float in types and not all(
            map(isfinite, (x for x in level if type(x) is float) if len(types) > 1 else level)
        ):
            return False
        children: list[Any] = []
        if dict in types:
            dicts = [x for x in level if type(x) is dict]
            if not set(map(type, chain.from_iterable(dicts))) <= {str}:
                return False
            children += chain.from_iterable(map(dict.values, dicts))
        if list in types:
            children += chain.from_iterable([x for x in level if type(x) is list])
        if not children:
            return True
        level = children
    return False


def _dump(value: Any) -> bytes | None:
    """Plain JSON as bytes; None for what only Python's own encoder takes, such as a lone surrogate."""
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, RecursionError, OverflowError):
        return None
