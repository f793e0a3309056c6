"""Values as bytes and back, with the types that Airflow's default backend gives back.

Nearly everything that tasks push is plain JSON already. For that a walk through the value in Python (Airflow's
serialization takes over a second for 10 MB) is not needed, if it is certain that the walk would change nothing. So the
types of all values are looked at level by level, in C: only where each is exactly a dict with str keys, a list, a str,
an int, a finite float, a bool or None, is the value encoded as it stands. A tuple, a subclass, a set: Airflow decides.
"""

from __future__ import annotations

import functools
import gc
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain
from math import copysign, isfinite
from types import FunctionType
from typing import Any, NamedTuple

import msgspec
from airflow.sdk.bases.xcom import BaseXCom

PLAIN = "json"
SERDE = "serde"

_PLAIN_TYPES = {dict, list, str, int, float, bool, type(None)}
#: Deeper than that Airflow itself is the judge, and a value that contains itself gets there too. Nor does what is
#: deeper pass between a task, its supervisor and the API server: 199 levels, with what they put around a value.
_MAX_DEPTH = 190
#: Keys that Airflow's serialization reserves or understands; all begin with the same three bytes.
_MARK = b'"__'
_RESERVED = (b'"__classname__"', b'"__id__"')
#: A dict with both is an object as an older Airflow wrote it, to Airflow that reads a row.
_OLD_STYLE = ("__type", "__var")
#: From here on a float has no digit behind the point, and JSONB makes an integer of it.
_INTEGERS_FROM = 1e16
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
#: A NUL in JSON, and no backslash that stands before such a text.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class _Row(NamedTuple):
    value: Any


class Encoded(NamedTuple):
    """A value, ready to be stored."""

    data: bytes
    encoding: str
    #: What the row holds if the value stays in the database: what the default backend would put there.
    inline: Any
    #: Whether it is JSON to everybody: no NaN, no infinity and no lone surrogate in it, and not too deep.
    strict: bool = True


def encode(value: Any) -> Encoded:
    """Encode a value.

    :raises TypeError, ValueError, AttributeError, RecursionError: as Airflow's serialization, for what it cannot take.
    """
    if is_plain(value):
        data = _dump(value)
        if data is not None and not (_MARK in data and any(key in data for key in _RESERVED)):
            return Encoded(data, PLAIN, value)
    structure = _serialization()(value)
    if not is_plain(structure):
        # What Airflow left for JSON to make something of.
        _refuse_collisions(structure)
        structure = json.loads(json.dumps(structure))
    data = _dump(structure) if is_plain(structure) else None
    if data is None:
        # Lone surrogates as they are: of two escaped ones in a row every reader of JSON makes one character.
        data = json.dumps(structure, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
        return Encoded(data, SERDE, structure, strict=False)
    return Encoded(data, SERDE, structure)


def fits_row(encoded: Encoded) -> bool:
    """Whether a task that pulls it from a row gets just this value.

    JSONB has no NUL, writes floats from 1e16 on as integers, and -0.0 as 0.0. Of integers, only those that 64 bits hold
    pass between a task and its supervisor. Nor does JSON that is nested deeper than 199 times. Of a row, Airflow takes
    some dicts for objects.
    """
    if not encoded.strict or (b"\\u0000" in encoded.data and _NUL.search(encoded.data)):
        return False
    if encoded.encoding == PLAIN and all(f'"{key}"'.encode() in encoded.data for key in _OLD_STYLE):
        return False
    level = [encoded.inline]
    while True:
        types = set(map(type, level))
        if float in types:
            floats = level if len(types) == 1 else [x for x in level if type(x) is float]
            if max(floats) >= _INTEGERS_FROM or min(floats) <= -_INTEGERS_FROM:
                return False
            if 0.0 in floats and any(copysign(1, x) < 0 for x in floats if x == 0):
                return False
        if int in types:
            integers = level if len(types) == 1 else [x for x in level if type(x) is int]
            if max(integers) > _LARGEST or min(integers) < _SMALLEST:
                return False
        if not {dict, list} & types:
            return True
        level = _children(level, types)


def stored(data: bytes, encoding: str) -> Encoded:
    """A value that was encoded before, as its JSON."""
    structure = json.loads(data)
    return Encoded(data, encoding, structure, strict=is_plain(structure) and _dump(structure) is not None)


def has_marks(data: bytes) -> bool:
    """Whether JSON may hold a dict that Airflow's serialization made; without one it holds the value itself."""
    return _MARK in data


def decode(data: bytes | memoryview, encoding: str) -> Any:
    """The value again."""
    with _uncollected():
        try:
            structure = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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
        if dict in types and not set(map(type, chain.from_iterable([x for x in level if type(x) is dict]))) <= {str}:
            return False
        level = _children(level, types)
        if not level:
            return True
    return False


def _children(level: list[Any], types: set[type]) -> list[Any]:
    """What the dicts and lists of a level hold."""
    children: list[Any] = []
    if dict in types:
        children += chain.from_iterable(map(dict.values, [x for x in level if type(x) is dict]))
    if list in types:
        children += chain.from_iterable([x for x in level if type(x) is list])
    return children


@functools.cache
def _serialization() -> Callable[[Any], Any]:
    """Airflow's serialization, as one that refuses to lose any of what is pushed.

    It calls itself by its name for whatever is nested, also for what objects are made into. So a copy of the function
    that finds this one under that name comes by here with each dict, and nothing of Airflow is changed.
    """
    try:
        from airflow.sdk import serde
    except ImportError:  # Airflow before 3.2
        from airflow.serialization import serde
    theirs: Any = serde.serialize

    def serialize(value: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(value, dict):
            _refuse_same(value, str)
            if set(_OLD_STYLE) <= value.keys():
                raise ValueError("a dict in it has the keys __type and __var, and would come back as something else")
        elif isinstance(value, datetime | timedelta | Decimal):
            return _exact(value, lambda one: copy(one, *arguments, **named), serde.deserialize)
        elif type(value).__name__ == "DataFrame":
            _refuse_same(dict.fromkeys(value.columns), str)
        elif hasattr(value, "model_dump"):  # Pydantic makes JSON of it by itself
            _refuse_collisions(getattr(value, "__dict__", None))
        return copy(value, *arguments, **named)

    names = {**theirs.__globals__, theirs.__name__: serialize}
    copy: Any = FunctionType(theirs.__code__, names, theirs.__name__, theirs.__defaults__, theirs.__closure__)
    copy.__kwdefaults__ = theirs.__kwdefaults__
    return serialize


def _exact(value: Any, serialize: Callable[[Any], Any], deserialize: Callable[[Any], Any]) -> Any:
    """What Airflow's serialization makes of a value of which it often loses something.

    It makes floats of Decimals and times, and cannot read the offset of most time zones that have no name. What it
    reads can hold more of that than it writes.

    :raises ValueError: if it would not come back all the same.
    """

    def comes_back(row: Any) -> bool:
        try:
            found = deserialize(row)
        except Exception:  # noqa: BLE001 - whatever it is, no task could pull it
            return False
        if found != value:
            return isinstance(value, Decimal) and value.is_nan() and found.is_nan()
        return not isinstance(value, datetime) or found.utcoffset() == value.utcoffset()

    row = serialize(value)
    if comes_back(row):
        return row
    if isinstance(value, Decimal):
        row = {**row, "__data__": str(value)}
    elif isinstance(value, datetime) and (offset := value.utcoffset()) is not None:
        from pendulum.tz.timezone import FixedTimezone

        row = serialize(value.replace(tzinfo=FixedTimezone(int(offset.total_seconds()))))
    if comes_back(row):
        return row
    raise ValueError(f"a {type(value).__name__} in it would not come back as it is. Push it as text")


def _refuse_collisions(value: Any) -> None:
    """Refuse dicts, at any depth, two keys of which are the same once they are keys of JSON."""
    level, seen = [value], set[int]()
    while level:
        following: list[Any] = []
        for each in level:
            if id(each) in seen:
                continue
            if isinstance(each, dict):
                _refuse_same(each, _in_json)
                following += each.values()
            elif isinstance(each, list | tuple | set | frozenset):
                following += each
            elif hasattr(each, "model_dump"):
                following.append(getattr(each, "__dict__", None))
            else:
                continue
            seen.add(id(each))
        level = following


def _refuse_same(value: dict[Any, Any], spelled: Callable[[Any], str]) -> None:
    if not set(map(type, value)) <= {str} and len(set(map(spelled, value))) < len(value):
        raise ValueError("two keys of a dict in it are the same once they are text, and one would be lost")


def _in_json(key: Any) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    return {True: "true", False: "false", None: "null"}[key] if key is None or type(key) is bool else str(key)


def _dump(value: Any) -> bytes | None:
    """Plain JSON as bytes; None for what only Python's own encoder takes, such as a lone surrogate."""
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, RecursionError, OverflowError):
        return None
