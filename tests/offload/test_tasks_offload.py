"""``xcom_offload_large_values``: what moves, what stays, and that every value is read as it was."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import json
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.bases.xcom import BaseXCom
from xcom_blob_backend import XComBlobBackend, config, moving, store

from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from local_stack.postgres import ROLE
from tests.backend.stored import in_bucket
from tests.conftest import Database
from tests.support.bundle import Bundle, Outcome
from tests.support.history import History, SeededRun
from tests.support.interruptions import Killed

DAG_ID = "xcom_offload_large_values"
OURS = "xcom_blob_backend.XComBlobBackend"
#: Of these tests; as small as may be.
THRESHOLD = 1_024
PADDING = "x" * 2_000


@dataclasses.dataclass
class Point:
    """No module of the bundle could import it, as is so with most classes of DAGs."""

    x: int


VALUES: dict[str, Any] = {
    "plain": {"rows": [{"id": n, "name": f"näme {n}", "share": n / 7} for n in range(60)], "none": None},
    "text": 'ü😀"\\ ' * 400,
    "numbers": [2**64 - 1, -(2**63), 1e-300, 0.1, 1.0, 1, True] * 50,
    "tuple": (1, ("a", PADDING), [2]),
    "set": {f"member {n}" for n in range(200)},
    "datetime": {"at": datetime.datetime(2026, 3, 29, 1, 30, tzinfo=datetime.UTC), "pad": PADDING},
    "decimal": [decimal.Decimal("1.10"), decimal.Decimal("1E+18"), PADDING],
    "marks": {"__dunder": PADDING, "text": '"__classname__"'},
    "uuids": [str(uuid.UUID(int=n)) for n in range(100)],
}


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Any:
    def forget() -> None:
        config.settings.cache_clear()
        store._store_for.cache_clear()

    def set_options(backend: str | None = OURS, **options: Any) -> None:
        if backend:
            monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", backend)
        for name, value in options.items():
            monkeypatch.setenv(f"AIRFLOW__XCOM_BLOB_BACKEND__{name.upper()}", str(value))
        forget()

    yield set_options
    forget()


@pytest.fixture
def rights(history: History) -> None:
    """What ``role.sql`` has as an option."""
    history.connection.execute(f"GRANT UPDATE (value) ON xcom TO {ROLE}")


@pytest.fixture
def folder(configure: Any, rights: None, tmp_path: Path) -> Path:
    """This project's backend over a folder."""
    configure(path=f"file://{tmp_path}/blobs")
    return tmp_path / "blobs"


@pytest.fixture(params=["file", "rclone", "gcs", "azurite"])
def any_store(request: pytest.FixtureRequest, configure: Any, rights: None, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "file":
        path = f"file://{request.getfixturevalue('tmp_path')}/blobs"
    else:
        path = in_bucket(request.getfixturevalue(request.param), monkeypatch).path
    configure(path=path)
    return path


def push_by_default(history: History, run: SeededRun, key: str, value: Any, **place: Any) -> None:
    """A row as the default backend makes it."""
    history.xcom(run, BaseXCom.serialize_value(value), age_days=10, key=key, **place)


def seed(history: History, dag_id: str = "a", **options: Any) -> SeededRun:
    run = history.run(dag_id, 10, run_id="run 1/ä", **options)
    for key, value in VALUES.items():
        push_by_default(history, run, key, value)
    return run


def contents(history: History) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    found = history.connection.execute("SELECT dag_id, run_id, task_id, map_index, key, value, timestamp FROM xcom")
    return {row[:5]: row[5:] for row in found.fetchall()}


def pull(row: Any) -> Any:
    return XComBlobBackend.deserialize_value(SimpleNamespace(value=row))


def pulled(history: History) -> dict[tuple[Any, ...], Any]:
    return {place: pull(value) for place, (value, _) in contents(history).items()}


def is_reference(row: Any) -> bool:
    return isinstance(row, dict) and row.get("__classname__") == "xcom_blob_backend.BlobReference"


def move(bundle: Bundle, **conf: Any) -> Outcome:
    return bundle.run(DAG_ID, **{"mode": "enforce", "offload_threshold_bytes": THRESHOLD, **conf})


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b and repr(a) == repr(b) if not isinstance(a, set) else a == b


# -- there and back --------------------------------------------------------------------------------------------------


def test_every_moved_value_is_read_as_it_was_and_comes_back_as_it_was(
    bundle: Bundle, history: History, any_store: str
) -> None:
    run = seed(history)
    push_by_default(history, run, "mapped", VALUES["plain"], map_index=3)
    push_by_default(history, run, "small", "x" * 500)
    rows, values = contents(history), pulled(history)

    headline = move(bundle).succeeded().report["headline"]

    moved = contents(history)
    small = (run.dag_id, run.run_id, "t", -1, "small")
    assert {place for place, (value, _) in moved.items() if is_reference(value)} == set(rows) - {small}
    assert moved[small] == rows[small]
    # Whoever keeps rows by their age sees no difference.
    assert {place: row[1] for place, row in moved.items()} == {place: row[1] for place, row in rows.items()}
    assert all(same(pulled(history)[place], value) for place, value in values.items())
    assert headline["rows_moved"] == headline["rows_to_move"] == len(VALUES) + 1
    assert headline["rows_that_stay"] == headline["rows_left"] == 0
    assert headline["value_bytes_moved"] == sum(row[0]["__data__"]["bytes"] for p, row in moved.items() if p != small)
    blob_bytes = sum(row[0]["__data__"]["stored_bytes"] for p, row in moved.items() if p != small)
    assert headline["blob_bytes_moved"] == blob_bytes
    assert headline["compression_ratio"] == round(headline["value_bytes_moved"] / blob_bytes, 2)

    again = move(bundle).succeeded().report
    assert again["headline"]["rows_to_move"] == 0
    assert contents(history) == moved

    back = move(bundle, direction="inline").succeeded().report
    assert back["headline"]["rows_moved"] == len(VALUES) + 1
    assert contents(history) == rows
    # The blobs stay for the reconciliation.
    assert all(same(pull(moved[place][0]), value) for place, value in values.items() if place != small)


def test_a_value_moves_whose_class_only_its_own_dag_can_import(bundle: Bundle, history: History, folder: Path) -> None:
    run = history.run("a", 10)
    structure = {"__classname__": "dag_of_a_user.Point", "__version__": 0, "__data__": {"x": PADDING}}
    history.xcom(run, structure, age_days=10)
    move(bundle).succeeded()
    [(reference, _)] = contents(history).values()
    assert is_reference(reference)
    with pytest.raises(ImportError, match="allow list"):  # as before
        pull(reference)
    move(bundle, direction="inline").succeeded()
    assert [value for value, _ in contents(history).values()] == [structure]


def test_what_is_encrypted_in_its_blob_is_not_inlined_in_clear_if_small_values_are_encrypted(
    bundle: Bundle, history: History, configure: Any, folder: Path
) -> None:
    configure(encryption_keys="k1:" + "A" * 43 + "=", encrypt_inline="true")
    seed(history)
    values = pulled(history)
    move(bundle).succeeded()
    assert not any(PADDING.encode() in file.read_bytes() for file in files(folder))
    move(bundle, direction="inline").succeeded()
    assert {row["__classname__"] for row, _ in contents(history).values()} == {"xcom_blob_backend.SealedValue"}
    assert all(same(pulled(history)[place], value) for place, value in values.items())


@pytest.mark.parametrize("value", [["a\0b", PADDING], [float("inf"), PADDING], [1e300, PADDING], "\ud800" + PADDING])
def test_no_value_comes_back_into_a_row_that_cannot_hold_it_as_it_is(
    bundle: Bundle, history: History, configure: Any, folder: Path, value: Any
) -> None:
    configure(threshold=THRESHOLD)
    run = history.run("a", 10)
    place = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": "t", "key": "return_value", "map_index": -1}
    row = XComBlobBackend.serialize_value(value, **place)
    history.xcom(run, row, age_days=10)
    outcome = move(bundle, direction="inline").succeeded()
    [(stays, _)] = contents(history).values()
    assert stays == row
    assert same(pull(stays), pull(row))
    assert outcome.table("Values not moved") == [{"reason": "the database cannot store it unchanged", "values": 1}]


@pytest.mark.parametrize(
    "value", [{"v": 10**30}, [2**64], {"a": {"b": [-(2**63) - 1]}}, 10**40, {"\U0001f600": 10**25}], ids=ascii
)
def test_no_value_comes_back_into_a_row_that_no_task_could_pull_it_from(
    bundle: Bundle, history: History, configure: Any, folder: Path, value: Any
) -> None:
    configure(threshold=0)
    run = history.run("a", 10)
    place = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": "t", "key": "return_value", "map_index": -1}
    row = XComBlobBackend.serialize_value(value, **place)
    history.xcom(run, row, age_days=10)
    outcome = move(bundle, direction="inline").succeeded()
    [(stays, _)] = contents(history).values()
    assert stays == row
    assert same(pull(stays), value)
    assert outcome.report["headline"]["rows_moved"] == 0
    assert outcome.table("Values not moved") == [{"reason": "no task could pull it from its row as it is", "values": 1}]


@pytest.mark.parametrize("value", [{"b": 1, "a": 2}, [{"long": 1, "z": 2}], (1, {"b": [], "a": ()})], ids=str)
def test_no_value_comes_back_with_its_keys_in_another_order_unless_one_says_so(
    bundle: Bundle, history: History, configure: Any, folder: Path, value: Any
) -> None:
    configure(threshold=0)
    run = history.run("a", 10)
    place = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": "t", "key": "return_value", "map_index": -1}
    history.xcom(run, XComBlobBackend.serialize_value(value, **place), age_days=10)
    before = contents(history)
    outcome = move(bundle, direction="inline").succeeded()
    assert contents(history) == before
    [stays] = outcome.table("Values not moved")
    assert stays == {"reason": "its keys would come in another order (key_order)", "values": 1}
    assert move(bundle, direction="inline", key_order="any").succeeded().report["headline"]["rows_moved"] == 1
    [(row, _)] = contents(history).values()
    assert not is_reference(row)
    assert pull(row) == value


def test_values_whose_keys_are_in_the_order_of_the_database_and_objects_come_back(
    bundle: Bundle, history: History, configure: Any, folder: Path
) -> None:
    configure(threshold=0)
    run = history.run("a", 10)
    values = [{"a": 1, "bb": {"c": [{"d": 1, "e": 2}]}}, (1, ({"a"},)), [decimal.Decimal("1.10")], {}, [1.0, 2**64 - 1]]
    for n, value in enumerate(values):
        place = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": "t", "key": f"k{n}", "map_index": -1}
        history.xcom(run, XComBlobBackend.serialize_value(value, **place), age_days=10, key=f"k{n}")
    assert move(bundle, direction="inline").succeeded().report["headline"]["rows_moved"] == len(values)
    assert [value for _, value in sorted(pulled(history).items())] == values


# -- what stays ------------------------------------------------------------------------------------------------------


def test_a_report_of_what_could_move_changes_nothing(bundle: Bundle, history: History, folder: Path) -> None:
    seed(history)
    seed(history, "b")
    before = contents(history)
    bundle.variable = {"mode": "enforce"}  # of the DAGs that delete
    outcome = move(bundle, mode=None).succeeded()
    assert contents(history) == before
    assert files(folder) == []
    report = outcome.report
    assert (report["status"], report["mode"]) == ("reported", "report")
    assert report["headline"]["rows_to_move"] == 2 * len(VALUES)
    assert report["headline"]["compression_ratio_expected"] > 2
    # As many are all looked at, so what is foretold is what comes of it.
    moved = move(bundle).succeeded().report["headline"]
    assert report["headline"]["blob_bytes_expected"] == pytest.approx(moved["blob_bytes_moved"], rel=0.01)
    assert [row["values"] for row in outcome.table("Large values in the table, by DAG")] == [len(VALUES)] * 2
    [line] = outcome.manifest("values")
    assert len(line["rows"]) == 2 * len(VALUES)


@pytest.mark.parametrize("direction", ["offload", "inline"])
@pytest.mark.parametrize(("state", "task_state"), [("running", "success"), ("success", "up_for_retry")])
def test_no_value_of_an_unfinished_run_moves(
    bundle: Bundle, history: History, folder: Path, direction: str, state: str, task_state: str
) -> None:
    run = seed(history)
    if direction == "inline":
        move(bundle).succeeded()
    history.connection.execute("UPDATE dag_run SET state = %s WHERE id = %s", (state, run.dag_run_id))
    history.connection.execute("UPDATE task_instance SET state = %s", (task_state,))
    before = contents(history)
    headline = move(bundle, direction=direction).succeeded().report["headline"]
    assert headline["rows_to_move"] == headline.get("rows_moved", 0) == 0
    assert contents(history) == before


def test_only_values_of_the_chosen_dags_move(bundle: Bundle, history: History, folder: Path) -> None:
    for dag_id in ("a", "b_1", "b_2"):
        seed(history, dag_id)
    move(bundle, dag_ids="b_*").succeeded()
    assert {place[0] for place, (row, _) in contents(history).items() if is_reference(row)} == {"b_1", "b_2"}


def test_a_value_that_may_name_other_blobs_stays_for_it_is_what_keeps_them(
    bundle: Bundle, history: History, folder: Path
) -> None:
    run = history.run("a", 10)
    name = str(uuid.uuid4())
    for key, text in {
        "path": f"s3://aws@elsewhere/xcom/a/r/t/{name}",
        "encoded": f"a%2Fr%2Ft%2F{name}",
        "bare": f"s3_xcom_{name}",
        "hex": f"parts/{uuid.uuid4().hex}.parquet",
        "base": f"see {folder}/whatever",
        "escaped": json.dumps({"path": f"a/r/t/{name}"}).replace("/", "\\/"),
    }.items():
        history.xcom(run, {"mentions": [text], "pad": PADDING}, age_days=10, key=key)
    history.xcom(run, [PADDING], age_days=10, key="skipmixin_key")
    before = contents(history)
    outcome = move(bundle).succeeded()
    assert contents(history) == before
    assert {row["reason"]: row["values"] for row in outcome.table("Values not moved")} == {
        "may refer to other blobs, which are kept because of it": 6,
        "refers to a value elsewhere, or is read by the scheduler": 1,
    }


CHANGES: dict[str, Callable[[History, SeededRun], Any]] = {
    "pushed again": lambda h, r: h.connection.execute("UPDATE xcom SET value = '[\"new\"]' WHERE key = 'plain'"),
    "pushed again, the same": lambda h, r: h.connection.execute(
        "UPDATE xcom SET timestamp = now() WHERE key = 'plain'"
    ),
    "deleted": lambda h, r: h.connection.execute("DELETE FROM xcom WHERE key = 'plain'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_value_that_changes_after_it_was_read_stays_as_it_is(
    bundle: Bundle, history: History, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    run = seed(history)
    expected: dict[Any, Any] = {}
    original = PostgresMetadataStore.replace_values

    def changing(self: Any, replacements: Any) -> Any:
        CHANGES[change](history, run)
        expected.update(contents(history))
        return original(self, replacements)

    monkeypatch.setattr(PostgresMetadataStore, "replace_values", changing)
    outcome = move(bundle).succeeded()
    plain = (run.dag_id, run.run_id, "t", -1, "plain")
    after = contents(history)
    assert after.get(plain) == expected.get(plain)
    assert sum(is_reference(row) for row, _ in after.values()) == len(VALUES) - 1
    assert outcome.report["headline"]["rows_moved"] == len(VALUES) - 1
    assert outcome.report["headline"]["rows_that_stay"] == 1


@pytest.mark.parametrize(
    "change", ["UPDATE dag_run SET state = 'queued'", "UPDATE task_instance SET state = NULL WHERE task_id = 't'"]
)
@pytest.mark.parametrize("lockable", [True, False])
def test_a_run_that_is_cleared_between_blob_and_row_keeps_its_values(
    bundle: Bundle, history: History, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str, lockable: bool
) -> None:
    if not lockable:
        history.connection.execute(f"REVOKE UPDATE (updated_at) ON dag_run FROM {ROLE}")
    seed(history)
    other = history.run("b", 10)
    push_by_default(history, other, "plain", VALUES["plain"])
    before = contents(history)
    original = PostgresMetadataStore.replace_values

    def clearing(self: Any, replacements: Any) -> Any:
        history.connection.execute(f"{change} {'AND' if 'WHERE' in change else 'WHERE'} dag_id = 'a'")
        return original(self, replacements)

    monkeypatch.setattr(PostgresMetadataStore, "replace_values", clearing)
    move(bundle).succeeded()
    after = contents(history)
    assert {place: row for place, row in after.items() if place[0] == "a"} == {
        place: row for place, row in before.items() if place[0] == "a"
    }
    assert [is_reference(row) for place, (row, _) in after.items() if place[0] == "b"] == [True]


def test_a_row_that_somebody_holds_is_waited_for_and_moves_only_if_it_is_unchanged(
    database: Database, history: History, folder: Path
) -> None:
    import threading
    import time

    from include.xcom_maintenance.core.values import Replacement

    seed(history)
    with database.store() as metadata, database.connect() as other:
        metadata.check(may_delete=False, reads_references=False, may_update=True)
        read = metadata.read_values([value.place for value in metadata.large_values(THRESHOLD)])
        other.execute("UPDATE xcom SET value = '[\"mine\"]' WHERE key = 'text'")
        done: list[Any] = []
        worker = threading.Thread(
            target=lambda: done.extend(metadata.replace_values([Replacement(one, '"moved"') for one in read]))
        )
        worker.start()
        time.sleep(0.5)
        assert worker.is_alive()
        other.commit()
        worker.join(timeout=20)
    assert {one.old.place.key for one in done} == set(VALUES) - {"text"}
    assert {place[4]: row for place, (row, _) in contents(history).items()} == {
        key: ["mine"] if key == "text" else "moved" for key in VALUES
    }


# -- what breaks off -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["offload", "inline"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("moment", [1, 4])
def test_a_kill_between_blob_and_row_loses_nothing_and_the_next_run_goes_on(
    bundle: Bundle, history: History, folder: Path, direction: str, after: bool, moment: int
) -> None:
    seed(history)
    values = pulled(history)
    bundle.variable = {"batch_rows": 2}
    if direction == "inline":
        move(bundle).succeeded()
    original, calls = PostgresMetadataStore.replace_values, 0

    def killing(self: Any, replacements: Any) -> Any:
        nonlocal calls
        calls += 1
        result = original(self, replacements) if after or calls < moment else []
        if calls == moment:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresMetadataStore, "replace_values", killing)
        with pytest.raises(Killed):
            move(bundle, direction=direction)
    moved = sum(is_reference(row) == (direction == "offload") for row, _ in contents(history).values())
    assert moved == 2 * (moment if after else moment - 1)
    assert all(same(pulled(history)[place], value) for place, value in values.items())
    headline = move(bundle, direction=direction).succeeded().report["headline"]
    assert headline["rows_moved"] == len(VALUES) - moved
    assert {is_reference(row) for row, _ in contents(history).values()} == {direction == "offload"}
    assert all(same(pulled(history)[place], value) for place, value in values.items())


def test_a_blob_that_cannot_be_read_back_does_not_become_the_value(
    bundle: Bundle, history: History, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(history)
    before = contents(history)
    original = moving.transfer.get

    def cut(place: Any) -> bytes:
        blob: bytes = original(place)
        return blob if b"canary" in blob else blob[:-1]

    monkeypatch.setattr(moving.transfer, "get", cut)
    outcome = move(bundle).succeeded()
    assert contents(history) == before
    assert outcome.table("Values not moved") == [{"reason": "its blob is damaged", "values": len(VALUES)}]


def test_a_value_whose_blob_is_gone_keeps_its_reference(bundle: Bundle, history: History, folder: Path) -> None:
    seed(history)
    move(bundle).succeeded()
    before = contents(history)
    files(folder)[0].unlink()
    outcome = move(bundle, direction="inline").succeeded()
    assert outcome.table("Values not moved") == [{"reason": "its blob is missing", "values": 1}]
    assert sum(before[place] == row for place, row in contents(history).items()) == 1


def test_a_time_budget_ends_the_run_and_the_next_one_goes_on(bundle: Bundle, history: History, folder: Path) -> None:
    seed(history)
    outcome = move(bundle, max_minutes=1e-9).succeeded()
    assert outcome.report["headline"]["rows_left"] == len(VALUES)
    assert any("time budget" in warning for warning in outcome.report["warnings"])
    assert move(bundle).succeeded().report["headline"]["rows_moved"] == len(VALUES)


# -- which backend ---------------------------------------------------------------------------------------------------


def test_reconciliation_keeps_the_blobs_of_moved_values_and_finds_those_that_came_back(
    bundle: Bundle, history: History, folder: Path
) -> None:
    for dag_id in ("a", "b"):
        seed(history, dag_id)
    values = pulled(history)
    move(bundle).succeeded()
    for file in files(folder):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    reconcile = {"mode": "enforce", "disposal": "delete"}
    found = bundle.run("xcom_orphan_reconciliation", **reconcile).succeeded().report["headline"]
    assert (found["objects"], found["orphan_blobs"]) == (2 * len(VALUES), 0)
    assert all(same(pulled(history)[place], value) for place, value in values.items())
    move(bundle, direction="inline", dag_ids="a").succeeded()
    found = bundle.run("xcom_orphan_reconciliation", **reconcile).succeeded().report["headline"]
    assert (found["orphan_blobs"], found["orphans_deleted"]) == (len(VALUES), len(VALUES))
    assert len([file for file in files(folder) if file.suffix == ".xcb"]) == len(VALUES)
    assert all(same(pulled(history)[place], value) for place, value in values.items())


def test_without_the_backend_the_report_says_what_could_be_gained_and_no_mode_moves_anything(
    bundle: Bundle, history: History
) -> None:
    run = history.run("a", 10)
    push_by_default(history, run, "large", VALUES["plain"]["rows"] * 40)
    push_by_default(history, run, "middling", VALUES["plain"])
    before = contents(history)
    report = bundle.run(DAG_ID, mode="enforce").succeeded().report
    assert contents(history) == before
    assert report["status"] == "reported"
    assert report["headline"]["rows_to_move"] == 1
    assert report["headline"]["threshold_bytes"] == 48 * 1024
    assert report["headline"]["compression_ratio_expected"] > 2
    assert (
        "The configured XCom backend is airflow.sdk.bases.xcom.BaseXCom, so nothing is moved" in report["warnings"][0]
    )


class Broken(XComBlobBackend):
    """A user's own, which hands on what is in the row."""

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        return result.value


@pytest.mark.parametrize("direction", ["offload", "inline"])
def test_nothing_moves_if_the_active_backend_does_not_read_the_canary(
    bundle: Bundle, history: History, folder: Path, configure: Any, direction: str
) -> None:
    seed(history)
    if direction == "inline":
        move(bundle).succeeded()
    before, blobs = contents(history), files(folder)
    configure(backend=f"{__name__}.Broken")
    outcome = move(bundle, direction=direction)
    assert "could not read the moved values: a test value comes back changed" in str(outcome.error)
    assert outcome.report["status"] == "failed"
    assert (contents(history), files(folder)) == (before, blobs)


def test_the_canary_is_sent_by_the_worker_that_moves_too(
    bundle: Bundle, history: History, folder: Path, configure: Any
) -> None:
    seed(history)
    before = contents(history)
    conf = {"mode": "enforce", "offload_threshold_bytes": THRESHOLD}
    planned = bundle.task(DAG_ID, "plan", run_id="r", **conf)
    configure(backend=f"{__name__}.Broken")
    with pytest.raises(Exception, match="could not read the moved values"):
        bundle.task(DAG_ID, "apply", planned, run_id="r", **conf)
    configure()
    planned = bundle.task(DAG_ID, "plan", run_id="s", **conf)
    configure(backend="airflow.sdk.bases.xcom.BaseXCom")
    with pytest.raises(Exception, match="uses a different XCom backend from the one that planned"):
        bundle.task(DAG_ID, "apply", planned, run_id="s", **conf)
    assert contents(history) == before


def test_values_come_back_after_the_switch_to_the_default_backend(
    bundle: Bundle, history: History, folder: Path, configure: Any
) -> None:
    seed(history)
    rows = contents(history)
    move(bundle).succeeded()
    configure(backend="airflow.sdk.bases.xcom.BaseXCom")
    move(bundle, direction="inline").succeeded()
    assert contents(history) == rows


def test_the_right_that_is_missing_is_named_and_nothing_moves(
    bundle: Bundle, history: History, configure: Any, tmp_path: Path
) -> None:
    configure(path=f"file://{tmp_path}/blobs")
    seed(history)
    before = contents(history)
    outcome = move(bundle)
    assert f'run: GRANT UPDATE (value) ON xcom TO "{ROLE}"' in str(outcome.error)
    assert (contents(history), files(tmp_path / "blobs")) == (before, [])
    assert move(bundle, mode="report").succeeded().report["headline"]["rows_to_move"] == len(VALUES)


def test_the_bundle_without_the_plugin_plans_and_says_what_is_missing(
    bundle: Bundle, history: History, folder: Path, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(history)
    move(bundle).succeeded()
    push_by_default(history, history.run("b", 10), "large", VALUES["plain"]["rows"] * 40)
    before = contents(history)
    configure(backend="airflow.sdk.bases.xcom.BaseXCom")
    for name in [name for name in sys.modules if name.split(".")[0] == "xcom_blob_backend"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert bundle.run(DAG_ID, mode="enforce").succeeded().report["headline"]["rows_to_move"] == 1
    outcome = bundle.run(DAG_ID, mode="enforce", direction="inline")
    assert "The module xcom_blob_backend is not installed" in str(outcome.error)
    assert contents(history) == before


def test_no_value_shows_in_the_report_or_in_the_log(
    bundle: Bundle, history: History, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = history.run("a", 10)
    history.xcom(run, ["open-sesame", PADDING], age_days=10)
    outcome = move(bundle).succeeded()
    manifest = json.dumps(outcome.manifest("values"))
    assert not any("sesame" in text for text in (outcome.markdown, json.dumps(outcome.report), manifest, caplog.text))
