"""Ids that are too long for a store are cut in the names of blobs, and end in a hash: whose they are is still known."""

from __future__ import annotations

import os
import unicodedata
import uuid
from pathlib import Path
from typing import Any

import pytest
from xcom_blob_backend.names import folder as folder_of

from include.xcom_maintenance.core.records import Coordinates
from include.xcom_maintenance.core.reference_formats import KNOWN
from tests.support.bundle import Bundle
from tests.support.history import History, days_ago

DAG, CLEANUP, RESTORE = "xcom_orphan_reconciliation", "xcom_cleanup", "xcom_restore"
#: Percent-encoded, a character takes nine bytes, and a segment ends at 250.
LONG = "日次売上集計処理および検証用のとても長い名前の識別子その壱番"
IDS = [
    (LONG, "run", "task"),
    ("a", f"manual__{LONG}{LONG}", "task"),
    ("a", "x" * 250, LONG[::-1]),
    (LONG, LONG + "2", LONG + "3"),
    ("é" * 125, "r ~" * 80, "t"),
]


class World:
    def __init__(self, base: Path, history: History) -> None:
        self.base, self.history = base, history

    def blob(self, ids: tuple[str, str, str], *, age_days: float = 30) -> str:
        """Written by our own backend."""
        key = f"{folder_of(*ids, prefix_bytes=len(str(self.base)) + 1)}{uuid.uuid4()}.xcb"
        path = self.base / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (days_ago(age_days).timestamp(),) * 2)
        return key

    def row(self, ids: tuple[str, str, str], key: str, *, age_days: float) -> None:
        run = self.history.run(ids[0], age_days, run_id=ids[1])
        value = {
            "__classname__": "xcom_blob_backend.BlobReference",
            "__version__": 1,
            "__data__": {"uri": f"file://{self.base}/{key}", "bytes": 1, "stored_bytes": 1},
        }
        self.history.xcom(run, value, age_days=age_days, task_id=ids[2])

    def left(self) -> set[str]:
        return {str(path.relative_to(self.base)) for path in self.base.rglob("*.xcb")}


@pytest.fixture
def world(bundle: Bundle, history: History, tmp_path: Path) -> World:
    found = World(tmp_path / "blobs", history)
    bundle.common_io["xcom_objectstorage_path"] = f"file://{found.base}"
    live = ("a", "live", "t")
    found.row(live, found.blob(live, age_days=1), age_days=1)
    return found


@pytest.mark.parametrize("ids", IDS)
def test_a_blob_of_a_long_id_belongs_to_nobody_else(ids: tuple[str, str, str]) -> None:
    key = f"{folder_of(*ids, prefix_bytes=20)}{uuid.uuid4()}.xcb"
    assert KNOWN.belongs_to(key, Coordinates(*ids))
    for place in range(3):
        other: Any = [*ids]
        other[place] += "x"
        assert not KNOWN.belongs_to(key, Coordinates(*other))


@pytest.mark.parametrize("ids", IDS)
def test_an_orphan_of_a_long_id_is_never_foreign_for_ever(
    bundle: Bundle, history: History, world: World, ids: tuple[str, str, str]
) -> None:
    history.dag(ids[0])
    before, orphan = world.left(), world.blob(ids)
    stranger = world.blob(("知らない" * 20, "r", "t"))
    outcome = bundle.run(DAG, mode="enforce").succeeded()
    assert world.left() == before | {stranger}
    headline = outcome.report["headline"]
    assert (headline["orphans_quarantined"], headline["foreign_blobs"]) == (1, 1)
    [row] = outcome.table("Orphan blobs")
    assert (row["key"], row["DAG"]) == (orphan, ids[0])


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_orphan_that_the_store_spells_otherwise_is_never_foreign_for_ever(
    bundle: Bundle, history: History, world: World, form: Any
) -> None:
    dag_id = unicodedata.normalize({"NFC": "NFD", "NFD": "NFC"}[form], "résumé é")
    history.run(dag_id, 40, run_id=dag_id + " busy", state="running")
    before = world.left()
    world.blob((unicodedata.normalize(form, dag_id), "gone", "t"))
    busy = world.blob((unicodedata.normalize(form, dag_id), unicodedata.normalize(form, dag_id + " busy"), "t"))
    assert bundle.run(DAG, mode="enforce").succeeded().report["headline"]["orphans_quarantined"] == 1
    assert world.left() == before | {busy}


@pytest.mark.parametrize("ids", IDS)
def test_a_blob_of_a_run_with_a_long_id_that_is_not_finished_is_never_an_orphan(
    bundle: Bundle, history: History, world: World, ids: tuple[str, str, str]
) -> None:
    history.run(ids[0], 40, run_id=ids[1], state="running")
    blob = world.blob(ids)
    bundle.run(DAG, mode="enforce").succeeded()
    assert blob in world.left()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("ids", IDS)
def test_no_filter_of_a_restore_misses_a_blob_of_a_long_id(
    bundle: Bundle, history: History, world: World, ids: tuple[str, str, str], known: bool
) -> None:
    history.dag(ids[0])
    orphan, other = world.blob(ids), world.blob(("a", "another", "task"))
    before = world.left() - {orphan, other}
    bundle.run(DAG, mode="enforce").succeeded()
    if known:  # a glob needs the whole id
        history.task(history.run(ids[0], 50, run_id=ids[1]), ids[2])
    dag, run, task = (f"{part[:-2]}*" if known else part for part in ids)
    for choice in ({"dag_ids": dag, "run_ids": run}, {"run_ids": [run]}, {"run_ids": run, "task_ids": [task, "no"]}):
        found = bundle.run(RESTORE, quarantine="all", **choice).succeeded()
        assert found.report["headline"]["blobs_to_restore"] == 1, choice
    bundle.run(RESTORE, quarantine="all", mode="enforce", dag_ids=dag, run_ids=run, task_ids=task).succeeded()
    assert world.left() == before | {orphan}


@pytest.mark.parametrize("ids", IDS)
def test_a_cleanup_leaves_no_blob_of_a_long_id_behind(bundle: Bundle, world: World, ids: tuple[str, str, str]) -> None:
    blob = world.blob(ids)
    world.row(ids, blob, age_days=30)
    later = (ids[0], "later", "t")
    world.row(later, world.blob(later, age_days=1), age_days=1.5)
    outcome = bundle.run(CLEANUP, mode="enforce").succeeded()
    assert blob not in world.left()
    assert outcome.report["headline"]["blobs_deleted"] == 1
