"""The backend as the Task SDK uses it; the supervisor and the database behind it are a table in this process.

``test_real_airflow.py`` has the real ones. Here the order of messages and requests can be looked at.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.execution_time import comms, task_runner
from xcom_blob_backend import XComBlobBackend, store
from xcom_blob_backend.errors import BlobMisplaced, StoreFailed, ValueTooLarge
from xcom_blob_backend.reference import BlobReference

from tests.backend.conftest import AT, KEYS, Configure, files_in
from tests.backend.stored import Stored
from tests.support.versions import HAS_ASYNC, Stats

HERE = {name: AT[name] for name in ("dag_id", "run_id", "task_id")}

needs_async = pytest.mark.skipif(not HAS_ASYNC, reason="this version of Airflow has no asynchronous tasks")


class Supervisor:
    """Rows by (dag, run, task, map index, key), and what it was asked in which order."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Any, ...], Any] = {}
        self.log: list[str] = []

    def send(self, msg: Any) -> Any:
        self.log.append(type(msg).__name__)
        if isinstance(msg, comms.GetXComSequenceSlice):
            found = [
                v
                for k, v in sorted(self.rows.items())
                if k[:3] + k[4:] == (msg.dag_id, msg.run_id, msg.task_id, msg.key)
            ]
            return comms.XComSequenceSliceResult(root=found)
        place = (msg.dag_id, msg.run_id, msg.task_id, -1 if msg.map_index is None else msg.map_index, msg.key)
        if isinstance(msg, comms.SetXCom):
            self.rows[place] = json.loads(json.dumps(msg.value))
        elif isinstance(msg, comms.DeleteXCom):
            self.rows.pop(place, None)
        elif getattr(msg, "include_prior_dates", False):
            older = [v for k, v in sorted(self.rows.items()) if (k[0], *k[2:]) == (place[0], *place[2:])]
            return comms.XComResult(key=msg.key, value=older[-1] if older else None)
        else:
            return comms.XComResult(key=msg.key, value=self.rows.get(place))
        return None

    async def asend(self, msg: Any) -> Any:
        await asyncio.sleep(0)
        return self.send(msg)


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    found = Supervisor()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", found, raising=False)
    return found


def test_what_is_set_is_got(supervisor: Supervisor, any_store: str) -> None:
    XComBlobBackend.set("k", (1, [2]), **HERE)
    assert XComBlobBackend.get_one(key="k", **HERE) == (1, [2])
    [row] = supervisor.rows.values()
    assert BlobReference.data_of(row)


def test_what_was_never_set_is_none(supervisor: Supervisor, on_files: Path) -> None:
    assert XComBlobBackend.get_one(key="k", **HERE) is None
    assert XComBlobBackend.get_all(key="k", **HERE) is None


def test_none_is_none(supervisor: Supervisor, on_files: Path) -> None:
    XComBlobBackend.set("k", None, **HERE)
    assert XComBlobBackend.get_one(key="k", **HERE) is None
    assert not on_files.exists()


def test_the_values_of_all_map_indexes_come_in_their_order(
    supervisor: Supervisor, configure: Configure, folder: Path
) -> None:
    configure(path=f"file://{folder}", threshold=100)
    values = [{"n": n, "pad": "x" * (200 if n % 3 else 1)} for n in range(40)]
    for n, value in enumerate(values):
        XComBlobBackend.set("k", value, **HERE, map_index=n)
    assert 0 < len(files_in(folder)) < 40
    assert XComBlobBackend.get_all(key="k", **HERE) == values
    assert XComBlobBackend.get_one(key="k", map_index=7, **HERE) == values[7]
    if HAS_ASYNC:
        assert asyncio.run(XComBlobBackend.aget_all(key="k", **HERE)) == values


def test_a_value_of_a_former_run_is_got(supervisor: Supervisor, on_files: Path) -> None:
    XComBlobBackend.set("k", "old", **HERE)
    later = HERE | {"run_id": "manual__2027"}
    assert XComBlobBackend.get_one(key="k", include_prior_dates=True, **later) == "old"
    assert XComBlobBackend.get_one(key="k", **later) is None


def test_a_row_that_points_to_the_value_of_another_task_is_an_error(supervisor: Supervisor, on_files: Path) -> None:
    XComBlobBackend.set("k", "mine", **HERE)
    [row] = supervisor.rows.values()
    other = HERE | {"task_id": "other"}
    supervisor.send(comms.SetXCom(key="k", value=row, **other))
    for pull in (
        lambda: XComBlobBackend.get_one(key="k", **other),
        lambda: XComBlobBackend.get_all(key="k", **other),
        *([lambda: asyncio.run(XComBlobBackend.aget_one(key="k", **other))] if HAS_ASYNC else []),
    ):
        with pytest.raises(BlobMisplaced):
            pull()


@needs_async
def test_async_gives_the_same(supervisor: Supervisor, any_store: str) -> None:
    async def both() -> list[Any]:
        await asyncio.gather(*(XComBlobBackend.aset(f"k{n}", {"n": (n,)}, **HERE) for n in range(20)))
        return await asyncio.gather(*(XComBlobBackend.aget_one(key=f"k{n}", **HERE) for n in range(20)))

    assert asyncio.run(both()) == [{"n": (n,)} for n in range(20)]
    assert XComBlobBackend.get_one(key="k3", **HERE) == {"n": (3,)}


@needs_async
def test_async_does_not_hold_up_the_event_loop(
    supervisor: Supervisor, on_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = store.Store.put
    monkeypatch.setattr(store.Store, "put", lambda *given: (time.sleep(0.5), plain(*given))[1])

    async def longest_pause() -> float:
        push, longest = asyncio.create_task(XComBlobBackend.aset("k", "x", **HERE)), 0.0
        while not push.done():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)
        return longest

    assert asyncio.run(longest_pause()) < 0.4


def test_a_push_never_writes_over_what_a_row_refers_to(supervisor: Supervisor, on_files: Path) -> None:
    XComBlobBackend.set("k", "first", **HERE)
    [first] = [dict(row["__data__"]) for row in supervisor.rows.values()]
    XComBlobBackend.set("k", "second", **HERE)
    assert len(files_in(on_files)) == 2
    assert XComBlobBackend.deserialize_value(comms.XComResult(key="k", value=BlobReference.row(**first))) == "first"


def test_the_blob_is_there_before_its_row(supervisor: Supervisor, on_files: Path) -> None:
    seen = []
    plain = supervisor.send
    supervisor.send = lambda msg: (seen.append(len(files_in(on_files))), plain(msg))[1]  # type: ignore[method-assign]
    XComBlobBackend.set("k", "x", **HERE)
    assert seen == [1]


# -- delete and purge --------------------------------------------------------------------------------------------------


def test_delete_takes_the_row_first_and_then_the_blob(
    supervisor: Supervisor, stored: Stored, any_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    XComBlobBackend.set("k", "x", **HERE)
    assert len(stored.objects()) == 1
    plain = store.Store.delete
    monkeypatch.setattr(store.Store, "delete", lambda *given: (supervisor.log.append("the blob"), plain(*given))[1])
    supervisor.log.clear()
    XComBlobBackend.delete("k", HERE["task_id"], HERE["dag_id"], HERE["run_id"])
    assert supervisor.log == ["GetXCom", "DeleteXCom", "the blob"]
    assert supervisor.rows == {}
    assert stored.objects() == {}


def test_delete_leaves_what_other_rows_refer_to(supervisor: Supervisor, on_files: Path) -> None:
    for index in range(3):
        XComBlobBackend.set("k", f"value {index}", **HERE, map_index=index)
    XComBlobBackend.delete("k", HERE["task_id"], HERE["dag_id"], HERE["run_id"], map_index=1)
    assert len(files_in(on_files)) == 2
    assert XComBlobBackend.get_all(key="k", **HERE) == ["value 0", "value 2"]


def test_delete_leaves_a_blob_that_was_written_for_another_task(
    supervisor: Supervisor, on_files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    XComBlobBackend.set("k", "mine", **HERE)
    [row] = supervisor.rows.values()
    supervisor.send(comms.SetXCom(key="k", value=row, dag_id="d", run_id="r", task_id="t"))
    XComBlobBackend.delete("k", "t", "d", "r")
    assert XComBlobBackend.get_one(key="k", **HERE) == "mine"
    assert "Keeping " in caplog.text


@pytest.mark.parametrize("value", ["text", 3, None, {"uri": "file:///etc/passwd"}, "file:///etc/passwd", [1]])
def test_delete_of_an_inline_value_touches_no_file(
    supervisor: Supervisor, configure: Configure, folder: Path, value: Any
) -> None:
    configure(path=f"file://{folder}")
    XComBlobBackend.set("k", value, **HERE)
    XComBlobBackend.delete("k", HERE["task_id"], HERE["dag_id"], HERE["run_id"])
    assert Path("/etc/passwd").exists()
    assert supervisor.rows == {}


def test_delete_of_what_is_gone_already_is_no_error(supervisor: Supervisor, any_store: str) -> None:
    XComBlobBackend.delete("k", HERE["task_id"], HERE["dag_id"], HERE["run_id"])
    XComBlobBackend.set("k", "x", **HERE)
    [row] = supervisor.rows.values()
    for _ in range(2):
        XComBlobBackend.purge(comms.XComResult(key="k", value=row))


def test_a_store_that_does_not_delete_does_not_fail_a_task_that_is_to_run_again(
    supervisor: Supervisor, on_files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    XComBlobBackend.set("k", "x", **HERE)

    def refuse(*_: Any) -> None:
        raise StoreFailed("it is down")

    monkeypatch.setattr(store.Store, "delete", refuse)
    XComBlobBackend.delete("k", HERE["task_id"], HERE["dag_id"], HERE["run_id"])
    assert supervisor.rows == {}
    assert "it is down" in caplog.text


# -- size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "blob"), [(49_149, False), (49_150, True)])
def test_values_go_to_the_store_from_48_kb_on(configure: Configure, folder: Path, length: int, blob: bool) -> None:
    configure(path=f"file://{folder}")
    row = XComBlobBackend.serialize_value("x" * length, key="k", **HERE)
    assert (BlobReference.data_of(row) is not None) == blob
    assert folder.exists() == blob


def test_what_the_scheduler_reads_stays_in_the_row(configure: Configure, folder: Path) -> None:
    from tests.backend.conftest import KEYS

    configure(path=f"file://{folder}", threshold=0, encrypt_inline=True, encryption_keys=f"new:{KEYS['new']}")
    value = {"skipped": ["a"]}
    assert XComBlobBackend.serialize_value(value, key="skipmixin_key", **HERE) == value


def test_a_value_above_the_limit_is_refused_with_advice_and_not_stored(on_files: Path, configure: Configure) -> None:
    configure(max_value_bytes=1_000)
    XComBlobBackend.serialize_value("x" * 900, key="k", **HERE)
    with pytest.raises(ValueTooLarge, match=r"key='k'.* has 1,002 bytes.*allows 1,000. Write the data to a file"):
        XComBlobBackend.serialize_value("x" * 1_000, key="k", **HERE)
    assert len(files_in(on_files)) == 1


@pytest.mark.parametrize(("length", "warned"), [(10 * 2**20 - 3, False), (10 * 2**20 - 2, True)])
def test_a_value_of_10_mb_is_warned_about(
    on_files: Path, caplog: pytest.LogCaptureFixture, length: int, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        XComBlobBackend.serialize_value("x" * length, key="big", **HERE)
    assert ("key='big'" in caplog.text) == warned


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_pushes_and_pulls_are_measured(
    supervisor: Supervisor, configure: Configure, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, tuple[Any, Any]] = {}
    for method in ("incr", "timing"):
        monkeypatch.setattr(Stats, method, lambda name, value, tags, **_: told.update({name: (value, tags)}))
    configure(path=f"file://{folder}", threshold=100)
    XComBlobBackend.set("k", "x" * 1_000, **HERE)
    assert told["xcom_blob_backend.push.raw_bytes"] == (1_002, {"store": "file"})
    assert 0 < told["xcom_blob_backend.push.stored_bytes"][0] < 600
    assert told["xcom_blob_backend.push.blob"][0].total_seconds() > 0
    XComBlobBackend.get_one(key="k", **HERE)
    assert told["xcom_blob_backend.pull.raw_bytes"] == (1_002, {"store": "file"})
    assert "xcom_blob_backend.pull.blob" in told
    XComBlobBackend.set("k", "x", **HERE)
    assert told["xcom_blob_backend.push.raw_bytes"] == (3, {"store": "inline"})
    assert "xcom_blob_backend.push.inline" in told


def test_metrics_that_cannot_be_sent_cost_no_value(on_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no such host")

    monkeypatch.setattr(Stats, "timing", fail)
    assert BlobReference.data_of(XComBlobBackend.serialize_value("x", key="k", **HERE))


def test_pushes_from_many_threads_do_not_mix(on_files: Path) -> None:
    rows: dict[int, Any] = {}

    def work(n: int) -> None:
        rows[n] = XComBlobBackend.serialize_value([n] * 50, key="k", **HERE)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, row in rows.items():
        assert XComBlobBackend.deserialize_value(comms.XComResult(key="k", value=row)) == [n] * 50


def test_the_probe_is_told_what_encryption_took_and_nothing_where_there_is_none(
    supervisor: Supervisor, configure: Configure, folder: Path
) -> None:
    configure(path=f"file://{folder}", threshold=100)
    XComBlobBackend.set("k", "x" * 1_000, **HERE)
    assert XComBlobBackend.probe_report() == {"encryption_seconds": None}
    configure(path=f"file://{folder}", threshold=100, encryption_keys=f"new:{KEYS['new']}")
    XComBlobBackend.set("k", "x" * 1_000, **HERE)
    seconds = XComBlobBackend.probe_report()["encryption_seconds"]
    assert seconds is not None
    assert 0 < seconds < 10
    XComBlobBackend.set("k", "small", **HERE)
    assert XComBlobBackend.probe_report() == {"encryption_seconds": None}
