"""Whatever is pushed comes back equal, with the types that Airflow's default backend gives back."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import random
import sys
import uuid
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pandas as pd
import pendulum
import pydantic
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from xcom_blob_backend import codec, reference, values
from xcom_blob_backend.errors import BackendNotConfigured

from tests.backend.conftest import KEYS, Configure, files_in, pull, push
from tests.support.versions import can_serialize, serde

deserialize, serialize = serde.deserialize, serde.serialize


@pytest.fixture(autouse=True)
def _allow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Point", "Model", "Attrs", "Own"):
        monkeypatch.setattr(serde, "_extra_allowed", serde._extra_allowed | {f"{__name__}.{name}"})


@dataclasses.dataclass
class Point:
    x: int
    y: tuple[int, ...]


@attrs.define
class Attrs:
    a: int


class Model(pydantic.BaseModel):
    when: datetime
    inner: dict[str, int]


class Own:
    """A class with Airflow's own protocol."""

    __version__ = 2

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def serialize(self) -> dict[str, Any]:
        return {"text": self.text}

    @staticmethod
    def deserialize(data: dict[str, Any], version: int) -> Own:
        assert version == 2
        return Own(data["text"])


class Number(enum.IntEnum):
    ONE = 1


class Word(str, enum.Enum):  # noqa: UP042 - the older kind is the other way to do it
    A = "a"


class Text(str):
    __slots__ = ()


Pair = namedtuple("Pair", "left right")

#: Every kind of value that Airflow 3 can serialize.
SAMPLES: dict[str, Any] = {
    "none in a list": [None],
    "booleans and numbers": [True, False, 0, 1, -1, 1.0, -0.0, 1e300, 2**63, -(2**70), 10**40],
    "text": ["", "é日本", "\0", "𝄞", '"\\\n', "__classname__", "x" * 5000],
    "empty": [[], {}, "", [[]], [{}]],
    "nested": {"a": {"b": [{"c": [1, [2, [3]]]}]}},
    "tuple": (1, 2),
    "tuples inside": {"a": [(1, (2, 3)), []], "b": ((),)},
    "set": {1, 2, 3},
    "sets inside": [{"a"}, frozenset({1, 2})],
    "named tuple": Pair(1, Pair(2, [3])),
    "dates": [datetime(2026, 1, 1, tzinfo=UTC), date(2026, 1, 1), timedelta(days=1, microseconds=3)],
    "pendulum": pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    "decimal": [Decimal("1.10"), Decimal("-1E+5")],
    **({"uuid": uuid.UUID(int=7)} if can_serialize(uuid.UUID(int=7)) else {}),
    "dataclass": Point(1, (2, 3)),
    "dataclasses inside": [Point(1, ()), {"p": Point(2, (1,))}],
    "attrs": Attrs(3),
    "pydantic": Model(when=datetime(2026, 1, 1, tzinfo=UTC), inner={"a": 1}),
    "own protocol": [Own("x"), {"y": Own("z")}],
    "numpy numbers": [np.int64(3), np.float64(1.5), np.bool_(True)],
    "pandas": pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
    "enums": [Number.ONE, Word.A],
    "subclasses": [Text("t"), OrderedDict(b=1, a=2), {Text("k"): 1}],
    "keys that are no text": {7: "a", None: "b", True: "c", 1.5: "d", (1, 2): "e"},
    "not a number": [math.inf, -math.inf],
    "lone surrogate": ["\ud800"],
    "underscores": {"__a": 1, "__version__": 3, "__data__": [1]},
}


def by_default(value: Any) -> Any:
    """What the default backend makes of a value, from push to pull; where JSON does not fail, as it does for NaN."""
    return deserialize(json.loads(json.dumps(serialize(value))))


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down: 1 is not True, and not 1.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, pd.DataFrame):
        return bool(left.equals(right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return math.copysign(1, left) == math.copysign(1, right) and left == right
    return bool(left == right)


#: What Airflow's channel or JSONB would change, or not take.
CHANGED_BY_ROWS = {"booleans and numbers", "text", "not a number", "lone surrogate"}
CODECS = ("zstd", "gzip", "lz4", "none")
#: So much compresses well, whatever stands beside it, and by more than a header has.
PADDING = "x" * 1_500


def options(compression: str, encrypted: bool) -> dict[str, str]:
    return {"compression": compression, "encryption_keys": f"new:{KEYS['new']}" if encrypted else ""}


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("compression", CODECS)
def test_no_value_comes_back_changed_from_any_store_by_any_codec(
    any_store: str, configure: Configure, compression: str, encrypted: bool
) -> None:
    configure(**options(compression, encrypted))
    for kind, value in SAMPLES.items():
        padded = {"value": value, "padding": PADDING}
        row = push(padded)
        stored = reference.BlobReference.data_of(row)
        assert stored, kind
        assert (stored["stored_bytes"] < stored["bytes"]) == (compression != "none"), kind
        assert same(pull(row), by_default(padded)), kind


@pytest.mark.parametrize("encrypt_inline", [False, True])
def test_no_small_value_comes_back_changed_and_none_leaves_the_database(
    configure: Configure, folder: Path, encrypt_inline: bool
) -> None:
    configure(path=f"file://{folder}", encrypt_inline=encrypt_inline, encryption_keys=f"new:{KEYS['new']}")
    for kind, value in SAMPLES.items():
        row = push(value)
        assert same(pull(row), by_default(value)), kind
        if encrypt_inline or kind in CHANGED_BY_ROWS:
            assert reference.SealedValue.data_of(row), kind
        else:
            assert row == json.loads(json.dumps(serialize(value))), (
                f"{kind}: the default backend would store another row"
            )
    assert not folder.exists()


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    # What the default backend would not give back as it was: see ``test_channel.py``.
    | st.decimals(-(10**8), 10**8, places=6)
    | st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
    | st.builds(Text, st.text(max_size=3))
    | st.sampled_from([Number.ONE, Word.A, np.int32(1), Point(1, (2,)), "__classname__", '"__type"'])
)
KEY = st.text() | st.integers() | st.booleans() | st.none() | st.sampled_from(["__a", "__version__", "a"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(KEY, inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(st.integers() | st.text(), max_size=3)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=20,
)


def encode(value: Any) -> values.Encoded:
    """Not of what would lose keys: that is refused, see ``test_channel.py``."""
    try:
        return values.encode(value)
    except ValueError as why:
        if "one would be lost" not in str(why):
            raise
        reject()


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALUES)
def test_no_value_is_encoded_otherwise_than_the_default_backend_would_give_it_back(value: Any) -> None:
    encoded = encode(value)
    assert same(values.decode(encoded.data, encoded.encoding), by_default(value))
    assert same(deserialize(json.loads(json.dumps(encoded.inline))), by_default(value))


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_nothing_but_exact_json_types_takes_the_way_without_airflows_serialization(value: Any) -> None:
    if values.is_plain(value):
        assert same(value, by_default(value)) or '"__type"' in json.dumps(value)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=VALUES, compression=st.sampled_from(CODECS), encrypted=st.booleans())
def test_no_value_at_all_comes_back_changed_from_any_store(
    any_store: str, configure: Configure, value: Any, compression: str, encrypted: bool
) -> None:
    encode(value)
    configure(**options(compression, encrypted))
    assert same(pull(push(value)), by_default(value))


def test_not_a_number_comes_back(on_files: Path) -> None:
    value = pull(push([math.nan, 1.0]))
    assert math.isnan(value[0])
    assert value[1] == 1.0


class Liar:
    """Equal to everything, and of no type that can be serialized."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Color(enum.Enum):
    RED = 1


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        [Liar()],
        {"a": Color.RED},
        lambda: None,
        {"__classname__": "os.system"},
        {"__id__": 1},
        LOOP,
        {1: object()},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_serialized_is_not_stored_and_its_entry_is_named(on_files: Path, value: Any) -> None:
    with pytest.raises(Exception, match=r"dag_id='sales'.*task_id='group.load'.*key='answer'"):
        push(value, key="answer")
    assert not files_in(on_files)


def test_no_value_is_pickled() -> None:
    package = Path(values.__file__).parent
    for file in package.glob("*.py"):
        for forbidden in ("pickle", "marshal", "eval(", "exec("):
            assert forbidden not in file.read_text(), file


@pytest.mark.parametrize("name", ["zstd", "gzip", "lz4"])
def test_what_does_not_compress_is_kept_as_it_is(name: str) -> None:
    noise = random.Random(1).randbytes(5_000)
    assert codec.compress(noise, name, None) == ("none", noise)
    used, packed = codec.compress(noise * 3, name, None)
    assert used == name
    assert len(packed) < 15_000
    assert codec.decompress(packed, used, 15_000, "it") == noise * 3


def test_a_codec_that_is_not_installed_is_an_error_that_names_its_package(
    on_files: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(compression="lz4")
    row = push(PADDING)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    for attempt in (lambda: push(PADDING), lambda: pull(row)):
        with pytest.raises(BackendNotConfigured, match="needs the package lz4"):
            attempt()
