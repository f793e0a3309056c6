"""Between a push and a pull lie Airflow's channel and JSONB. What they would change or not take never stays plain.

The channel here is the real code of it, from the task's message to the server's answer, around a real Postgres.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import namedtuple
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import dateutil.tz
import httpx
import msgspec
import pandas as pd
import pydantic
import pytest
from airflow.sdk.api.client import XComOperations
from airflow.sdk.api.datamodels._generated import XComResponse
from airflow.sdk.execution_time import comms, task_runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue, TypeAdapter
from xcom_blob_backend import XComBlobBackend, keys, moving
from xcom_blob_backend.errors import BlobMisplaced, KeyNotStorable, ValueNotSerializable
from xcom_blob_backend.header import Coordinates
from xcom_blob_backend.reference import BlobReference, SealedValue
from xcom_blob_backend.transfer import load

from tests.backend.conftest import AT, KEYS, Configure, files_in
from tests.backend.test_interface import Supervisor
from tests.backend.test_round_trip import same
from tests.support.history import History

ENTRY = {**AT, "key": "answer"}


def through(frame: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Over the socket between a task and its supervisor."""
    packed = frame(id=1, body=body).as_bytes()
    found: dict[str, Any] = msgspec.msgpack.Decoder(frame).decode(packed[4:]).body
    return found


class Channel:
    """A row's way there and back."""

    def __init__(self, history: History) -> None:
        self._history = history

    def push(self, value: Any) -> Any:
        """What the row holds."""
        row = XComBlobBackend.serialize_value(value, **ENTRY)
        message = comms.SetXCom(value=row, **ENTRY)
        body = through(comms._RequestFrame, message.model_dump())
        sent = httpx.Request("POST", "http://server/", json=comms.SetXCom(**body).value).content
        received = TypeAdapter(JsonValue).validate_json(sent)
        [(found,)] = self._history.connection.execute("SELECT %s::jsonb", (json.dumps(received),)).fetchall()
        return found

    def pull(self, row: Any) -> Any:
        answer = XComResponse.model_validate_json(XComResponse(key="answer", value=row).model_dump_json())
        body = through(comms._ResponseFrame, comms.XComResult(key="answer", value=answer.value).model_dump())
        return XComBlobBackend.deserialize_value(comms.XComResult(**body))


@pytest.fixture
def channel(history: History) -> Channel:
    return Channel(history)


def nested(depth: int, kind: type = list) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if kind is dict else kind([value])
    return value


@dataclasses.dataclass
class Holds:
    data: Any


@attrs.define
class Defined:
    data: Any


class Modelled(pydantic.BaseModel):
    data: Any


class Own:
    def __init__(self, data: Any) -> None:
        self.data = data

    def serialize(self) -> Any:
        return self.data

    @staticmethod
    def deserialize(data: Any, version: int) -> Own:
        return Own(data)


@pytest.fixture(autouse=True)
def _allow(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.versions import serde

    names = {f"{__name__}.{kind.__name__}" for kind in (Holds, Defined, Modelled, Own)}
    monkeypatch.setattr(serde, "_extra_allowed", serde._extra_allowed | names)


CHANGED: list[Any] = [
    2.561422288066971e16,
    1e16,
    -1e16,
    12345678901234567.0,
    1e20,
    -1e22,
    1e300,
    1.7976931348623157e308,
    -0.0,
    10**30,
    2**64,
    -(2**63) - 1,
    10**400,
    math.inf,
    -math.inf,
    "a\0b",
    "\0",
    "\ud800",
    "x\udfff",
    "two that make \ud83d\ude00 one",
    {"\ud83d\ude00": 1, "\U0001f600": 2},
    {"k\0": 1},
    {"\ud800": 1},
    nested(200),
    nested(200, dict),
    nested(260),
]
#: What Airflow's own serialization loses, or cannot read again.
LOSSY: list[Any] = [
    datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3), "somewhere")),
    datetime(2024, 7, 1, tzinfo=dateutil.tz.gettz("Europe/Berlin")),
    Decimal("0.1234567890123456789"),
    Decimal("1e-400"),
    Decimal("12345678901234567890.5"),
]
IMPOSSIBLE: list[Any] = [
    datetime.max,
    datetime.min,
    datetime(2600, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    timedelta.max,
    timedelta(days=400_000, microseconds=1),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(seconds=1, microseconds=5))),
    ({"__type": "set", "__var": [1]},),
    pd.DataFrame({1: [1], "1": [2]}),
]
UNCHANGED: list[Any] = [
    9999999999999998.0,
    -9999999999999998.0,
    0.0,
    1e-300,
    5e-324,
    0.1,
    1.0,
    2**64 - 1,
    -(2**63),
    r"a\u0000b",
    "\\\\u0000",
    "1e16 and -0.0",
    {"1e20": "18446744073709551616"},
    nested(150),
    nested(150, dict),
    True,
    "é😀",
]


def named(value: Any) -> str:
    return f"{type(value).__name__} {ascii(value)[:24]}"


@pytest.mark.parametrize("value", CHANGED, ids=named)
@pytest.mark.parametrize("around", [None, "dict", "tuple", "dataclass", "deep"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_no_value_that_the_channel_or_jsonb_changes_comes_back_changed_or_cannot_be_pulled(
    channel: Channel, configure: Configure, folder: Path, value: Any, around: str | None, encrypted: bool
) -> None:
    configure(path=f"file://{folder}", encryption_keys=f"new:{KEYS['new']}" if encrypted else "")
    value = {
        None: lambda: value,
        "dict": lambda: {"a": [1, value, "x", 1.5]},
        "tuple": lambda: (1, value),
        "dataclass": lambda: Holds({"a": value}),
        "deep": lambda: [{"a": [{"b": [value]}, 2]}, None],
    }[around]()
    row = channel.push(value)
    assert SealedValue.data_of(row), "it would be in its row as it is"
    assert same(channel.pull(row), value)
    assert not folder.exists()


@pytest.mark.parametrize("value", UNCHANGED, ids=named)
def test_what_the_channel_leaves_as_it_is_stays_plain_in_its_row(
    channel: Channel, configure: Configure, folder: Path, value: Any
) -> None:
    configure(path=f"file://{folder}")
    for each in (value, {"a": [value]}):
        row = channel.push(each)
        assert row == each
        assert same(channel.pull(row), each)


def test_not_a_number_comes_back_from_a_row(channel: Channel, configure: Configure, folder: Path) -> None:
    configure(path=f"file://{folder}")
    assert math.isnan(channel.pull(channel.push({"a": [math.nan]}))["a"][0])


@pytest.mark.parametrize("value", CHANGED, ids=named)
def test_no_large_value_with_such_a_part_comes_back_changed_from_its_blob(
    channel: Channel, on_files: Path, value: Any
) -> None:
    row = channel.push([value, "x" * 500])
    assert BlobReference.data_of(row)
    assert same(channel.pull(row), [value, "x" * 500])


@pytest.mark.parametrize("value", [*LOSSY, {"__type": "set", "__var": [1]}], ids=named)
@pytest.mark.parametrize("threshold", [0, 48_000])
def test_what_airflow_would_change_comes_back_as_it_was(
    channel: Channel, configure: Configure, folder: Path, value: Any, threshold: int
) -> None:
    configure(path=f"file://{folder}", threshold=threshold)
    row = channel.push({"a": [value]})
    [found] = channel.pull(row)["a"]
    assert (found, type(found), str(found)[-6:]) == (value, type(value), str(value)[-6:])
    if BlobReference.data_of(row):
        back = moving.into_row(row, Coordinates(**ENTRY))
        assert not back.fits_row or channel.pull(json.loads(back.text)) == {"a": [value]}


@pytest.mark.filterwarnings("ignore:The DataFrame has column names of mixed type")
@pytest.mark.parametrize("value", IMPOSSIBLE, ids=lambda value: type(value).__name__)
def test_what_could_be_pushed_and_never_be_pulled_as_it_was_is_refused(on_files: Path, value: Any) -> None:
    with pytest.raises(ValueNotSerializable, match=r"dag_id='sales'.*run_id=.*task_id=.*key='answer'.*map_index=-1"):
        XComBlobBackend.serialize_value([value], **ENTRY)
    assert not files_in(on_files)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**25), 10**25) | st.floats(allow_nan=False) | st.text()
    | st.text(st.characters(exclude_categories=())) | st.floats(1e15, 1e18),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner, max_size=4) | st.lists(inner).map(tuple),
    max_leaves=15,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANYTHING)
def test_whatever_is_pushed_inline_is_pulled_as_it_was(
    channel: Channel, configure: Configure, folder: Path, value: Any
) -> None:
    configure(path=f"file://{folder}", threshold=10**9)
    found = channel.pull(channel.push(value)) if value is not None else None
    assert found == value
    assert same(_sorted(found), _sorted(value))


def _sorted(value: Any) -> Any:
    """With keys in one order, which JSONB changes."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return type(value)(map(_sorted, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("value", [{"a": 1e20}, {"skipped": ["\0"]}, [math.nan], 10**30, "\ud800"], ids=named)
def test_what_the_scheduler_reads_is_refused_if_the_row_would_not_hold_it(
    configure: Configure, folder: Path, value: Any
) -> None:
    configure(path=f"file://{folder}")
    with pytest.raises(ValueNotSerializable, match=r"dag_id='sales'.*run_id=.*task_id=.*map_index=-1.*"):
        XComBlobBackend.serialize_value(value, **{**AT, "key": "skipmixin_key"})


# -- keys of dicts -----------------------------------------------------------------------------------------------------

COLLIDING: list[dict[Any, Any]] = [
    {1: "secret", "1": "b"},
    {True: "secret", "True": "b"},
    {False: "secret", "False": "b"},
    {None: "secret", "None": "b"},
    {1.0: "secret", "1.0": "b"},
    {1.5: "secret", "1.5": "b"},
    {(1, 2): "secret", "(1, 2)": "b"},
    {1e16: "secret", "1e+16": "b"},
    {Decimal("1.1"): "secret", "1.1": "b"},
    {Decimal("1.1"): "secret", 1.1: "b"},
]
Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize("value", COLLIDING, ids=named)
@pytest.mark.parametrize("threshold", [0, 48_000])
@pytest.mark.parametrize(
    "around",
    [
        lambda value: value,
        lambda value: {"a": [1, value]},
        lambda value: (1, value),
        lambda value: Pair(1, [value]),
        Holds,
        lambda value: Holds([{"a": value}]),
        Defined,
        lambda value: [Own(value)],
    ],
    ids=["alone", "in a list", "in a tuple", "in a named tuple", "dataclass", "deep in it", "attrs", "own protocol"],
)
def test_no_dict_loses_a_key_without_a_word(
    configure: Configure, folder: Path, value: Any, around: Any, threshold: int
) -> None:
    configure(path=f"file://{folder}", threshold=threshold)
    with pytest.raises(ValueNotSerializable, match=r"dag_id='sales'.*task_id=.*key='answer'.*map_index=-1") as caught:
        XComBlobBackend.serialize_value(around(value), **ENTRY)
    assert "secret" not in str(caught.value)
    assert not files_in(folder)


@pytest.mark.parametrize(
    "value",
    [
        Modelled(data={1: "a", "1": "b"}),
        Modelled(data=[{True: "a", "true": "b"}]),
        [Modelled(data={None: 1, "null": 2})],
        Own([{1: "a", "1": "b"}]),
        Own([{True: "a", "true": "b"}]),
        Own(({None: "a", "null": "b"},)),
    ],
)
def test_no_key_is_lost_where_objects_make_json_of_themselves(configure: Configure, folder: Path, value: Any) -> None:
    configure(path=f"file://{folder}")
    with pytest.raises(ValueNotSerializable, match="would be lost"):
        XComBlobBackend.serialize_value(value, **ENTRY)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({1: "a", 2: "b"}, {"1": "a", "2": "b"}),
        ({1: "a", "2": "b"}, {"1": "a", "2": "b"}),
        ({True: "a", "true": "b"}, {"True": "a", "true": "b"}),
        ({None: "a", "null": "b"}, {"None": "a", "null": "b"}),
        ([{1: "a"}, {"1": "b"}], [{"1": "a"}, {"1": "b"}]),
    ],
)
def test_keys_that_do_not_collide_are_taken_as_by_the_default_backend(
    channel: Channel, configure: Configure, folder: Path, value: Any, found: Any
) -> None:
    configure(path=f"file://{folder}")
    assert channel.pull(channel.push(value)) == found


class Fails:
    def serialize(self) -> Any:
        raise KeyError("secret")


def test_an_error_of_a_class_of_the_value_names_its_entry_and_no_value(configure: Configure, folder: Path) -> None:
    configure(path=f"file://{folder}")
    with pytest.raises(ValueNotSerializable, match=r"task_id='group.load'.*KeyError") as caught:
        XComBlobBackend.serialize_value([Fails()], **ENTRY)
    assert "secret" not in str(caught.value)


# -- keys of entries ---------------------------------------------------------------------------------------------------

#: As a task says it, and as it is in the row.
SPELLED = {
    "100%25": "100%",
    "a/b%2Fc": "a/b/c",
    "a%20b": "a b",
    "%C3%A4": "ä",
    "a%2525": "a%25",
    "%41": "A",
    "%61%62": "ab",
    "a%ffb": "a\ufffdb",
    "100%": "100%",
    "a%zz": "a%zz",
    "a b": "a b",
    "a+b": "a+b",
    "ä": "ä",
    "a//b": "a//b",
    "a/": "a/",
    "a#1": "a",
    "a?x=1": "a",
    "a/./b": "a/b",
    "a/../b": "b",
    "return_value": "return_value",
}


def as_airflow_stores(key: str) -> str:
    """By its own client; the server decodes the path once."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json={})

    with httpx.Client(base_url="http://server/execution/", transport=httpx.MockTransport(answer)) as client:
        XComOperations(client).set("d", "r", "t", key, 1)  # type: ignore[arg-type]
    return seen[0].url.path.removeprefix("/execution/xcoms/d/r/t/")


@pytest.mark.parametrize(("key", "row"), SPELLED.items())
def test_the_key_of_a_row_is_what_airflow_makes_of_the_pushed_one(key: str, row: str) -> None:
    assert keys.key_of_row(key) == row == as_airflow_stores(key)


@pytest.mark.parametrize("key", ["", "..", ".", "a\0", "a%00", "\ud800", "a\tb", "a\nb", "x" * 513, "../../other/key"])
def test_no_value_is_stored_under_a_key_that_airflow_cannot_store(on_files: Path, key: str) -> None:
    with pytest.raises(KeyNotStorable, match=r"dag_id='sales'.*run_id=.*task_id=.*map_index=-1") as caught:
        XComBlobBackend.serialize_value("secret", **{**AT, "key": key})
    assert "secret" not in str(caught.value)
    assert not files_in(on_files)


class DecodingSupervisor(Supervisor):
    """Names rows as the server does."""

    def send(self, msg: Any) -> Any:
        if getattr(msg, "key", None) is not None:
            msg = msg.model_copy(update={"key": as_airflow_stores(msg.key)})
        return super().send(msg)


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> DecodingSupervisor:
    found = DecodingSupervisor()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", found, raising=False)
    return found


HERE = {name: AT[name] for name in ("dag_id", "run_id", "task_id")}


@pytest.mark.parametrize("encrypt_inline", [False, True], ids=["blob", "row"])
@pytest.mark.parametrize(("key", "row"), SPELLED.items())
def test_a_value_is_pulled_by_either_spelling_of_its_key_and_deleted_with_its_blob(
    supervisor: DecodingSupervisor, on_files: Path, configure: Configure, key: str, row: str, encrypt_inline: bool
) -> None:
    options = {"encrypt_inline": True, "threshold": 48_000, "encryption_keys": f"new:{KEYS['new']}"}
    configure(**(options if encrypt_inline else {}))
    XComBlobBackend.set(key, "value", **HERE)
    [[*_, stored]] = supervisor.rows
    assert stored == row
    assert XComBlobBackend.get_one(key=key, **HERE) == "value"
    [held] = supervisor.rows.values()
    assert load(held, Coordinates(**HERE, key=row, map_index=-1)) == "value"
    with pytest.raises(BlobMisplaced):
        load(held, Coordinates(**HERE, key=f"{row}x", map_index=-1))
    if not encrypt_inline:
        # As the offloading of large values sees it.
        assert moving.into_row(held, Coordinates(**HERE, key=row, map_index=-1)).text == '"value"'
    XComBlobBackend.delete(key, HERE["task_id"], HERE["dag_id"], HERE["run_id"])
    assert supervisor.rows == {}
    assert files_in(on_files) == []


@pytest.mark.parametrize(("key", "row"), SPELLED.items())
def test_a_value_that_was_moved_into_a_blob_is_pulled_by_the_key_that_its_task_pushed(
    supervisor: DecodingSupervisor, on_files: Path, key: str, row: str
) -> None:
    moved = moving.into_blob('"value"', Coordinates(**HERE, key=row, map_index=-1))
    supervisor.rows[(*HERE.values(), -1, row)] = json.loads(moved.text)
    assert XComBlobBackend.get_one(key=key, **HERE) == "value"


def test_of_two_keys_that_share_a_row_the_one_does_not_give_the_value_of_the_other(
    supervisor: DecodingSupervisor, on_files: Path
) -> None:
    XComBlobBackend.set("a#1", "first", **HERE)
    XComBlobBackend.set("a#2", "second", **HERE)
    assert XComBlobBackend.get_one(key="a#2", **HERE) == "second"
    with pytest.raises(BlobMisplaced):
        XComBlobBackend.get_one(key="a#1", **HERE)
