"""The quarantine: nothing that it takes is lost, and what it gives back harms nobody."""

from __future__ import annotations

import gzip
import json
import os
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.blobs.port import DeleteResult, Deletion
from include.xcom_maintenance.core.errors import StoreUnavailable
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from local_stack.postgres import ROLE
from tests.support.bundle import Bundle, Outcome
from tests.support.history import History, SeededRun, days_ago
from tests.support.interruptions import Killed, killed_at

DAG = "xcom_orphan_reconciliation"
RESTORE = "xcom_restore"


class Folder:
    """A base path of local files, its quarantine beside it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.quarantine = base.with_name(base.name + "-quarantine")

    def put(self, key: str, *, age_days: float, content: str = "x") -> str:
        path = self.base / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        self.set_age(path, age_days)
        return key

    @staticmethod
    def set_age(path: Path, age_days: float) -> None:
        when = days_ago(age_days).timestamp()
        os.utime(path, (when, when))

    def orphan(self, dag_id: str = "a", run_id: str = "gone", *, age_days: float = 30) -> str:
        return self.put(f"{dag_id}/{run_id}/t/{uuid.uuid4()}", age_days=age_days)

    def blobs(self) -> set[str]:
        found = {str(p.relative_to(self.base)) for p in self.base.rglob("*") if p.is_file()}
        return found - {".xcom-maintenance-owner.json"}

    def in_quarantine(self) -> dict[str, Path]:
        """By the keys that the blobs had."""
        files = (p for p in self.quarantine.rglob("*") if p.is_file())
        return {str(p.relative_to(self.quarantine)).partition("/")[2]: p for p in files}

    def grow_old(self, days: float) -> None:
        """What is in quarantine has been there for so long."""
        for folder in list(self.quarantine.iterdir()):
            planned = f"{days_ago(days):%Y%m%dT%H%M%SZ}-{folder.name[-8:]}"
            folder.rename(folder.with_name(planned))
        for path in self.in_quarantine().values():
            self.set_age(path, days)


@pytest.fixture
def folder(bundle: Bundle, history: History, tmp_path: Path) -> Folder:
    """In use: a row refers to a blob."""
    found = Folder(tmp_path / "blobs")
    bundle.common_io["xcom_objectstorage_path"] = f"file://{found.base}"
    run = history.run("a", 1, run_id="live")
    history.xcom(run, f"file://{found.base}/{found.put(f'a/live/t/{uuid.uuid4()}', age_days=1)}", age_days=1)
    return found


def enforce(bundle: Bundle, **conf: Any) -> Outcome:
    return bundle.run(DAG, mode="enforce", **conf).succeeded()


def test_an_orphan_is_moved_with_its_origin_and_nothing_else_is(bundle: Bundle, folder: Folder) -> None:
    before = folder.blobs()
    orphans = {folder.orphan(), folder.orphan(), folder.orphan("a", "other run, with blanks")}
    outcome = enforce(bundle)
    assert folder.blobs() == before
    assert set(folder.in_quarantine()) == orphans
    headline = outcome.report["headline"]
    assert (headline["orphans_quarantined"], headline["orphans_deleted"]) == (3, 0)
    [ledger] = Path(bundle.report_path.removeprefix("file://"), DAG).glob("*.shard-1.deleted-1.jsonl.gz")
    header, *lines, _ = [json.loads(line) for line in gzip.decompress(ledger.read_bytes()).splitlines()]
    assert header["run_id"] == outcome.run_id
    assert {line["key"] for line in lines} == orphans
    for line in lines:
        assert Path("/", line["quarantine"].removeprefix("file:///")) == folder.in_quarantine()[line["key"]]


def test_what_is_in_quarantine_is_no_orphan_of_a_later_run(bundle: Bundle, folder: Folder) -> None:
    folder.orphan()
    enforce(bundle)
    assert enforce(bundle).report["headline"]["orphan_blobs"] == 0
    assert len(folder.in_quarantine()) == 1


def test_a_blob_is_purged_only_after_its_time_and_only_if_no_value_means_it(
    bundle: Bundle, folder: Folder, history: History
) -> None:
    forgotten, remembered = folder.orphan(), folder.orphan()
    enforce(bundle)
    folder.grow_old(29)
    assert enforce(bundle).report["headline"]["quarantined_blobs_deleted"] == 0
    folder.grow_old(31)
    history.xcom(history.run("b", 1), {"at": [f"file://{folder.base}/{remembered}"]}, age_days=1)
    outcome = enforce(bundle)
    assert outcome.report["headline"]["quarantined_blobs_deleted"] == 1
    assert set(folder.in_quarantine()) == {remembered}
    assert "xcom_restore" in " ".join(outcome.report["warnings"])
    assert forgotten not in folder.blobs()


def test_no_orphan_stays_for_ever_for_a_task_that_is_stuck(bundle: Bundle, folder: Folder, history: History) -> None:
    """Nor in quarantine; one that was touched within the grace period may still run."""
    blobs = {}
    for touched in (30, 2):
        run = history.run("a", 40 + touched, state="failed", task_state=None, run_id=f"touched-{touched}")
        for table in ("dag_run", "task_instance"):
            history.connection.execute(
                f"UPDATE {table} SET updated_at = %s WHERE run_id = %s", (days_ago(touched), run.run_id)
            )
        blobs[touched] = folder.orphan("a", run.run_id)
    outcome = enforce(bundle)
    assert [row["key"] for row in outcome.table("Orphan blobs")] == [blobs[30]]
    assert blobs[2] in folder.blobs()
    folder.grow_old(31)
    assert enforce(bundle).report["headline"]["quarantined_blobs_deleted"] == 1


def test_a_stranger_in_the_quarantine_is_left_alone(bundle: Bundle, folder: Folder) -> None:
    folder.orphan()
    enforce(bundle)
    strangers = [folder.quarantine / "readme.txt", folder.quarantine / "20200101T000000Z-abcdef01" / "notes.txt"]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        folder.set_age(path, 400)
    enforce(bundle)
    assert all(path.exists() for path in strangers)


@pytest.mark.parametrize("seconds", [0, 86_400 * 3_652, 1_420_070_399, 4_102_444_800, 2**55, -(2**40)])
@pytest.mark.parametrize("disposal", ["quarantine", "delete"])
def test_a_blob_whose_time_cannot_be_right_is_never_disposed_of(
    bundle: Bundle, folder: Folder, disposal: str, seconds: int
) -> None:
    odd, old = folder.orphan(age_days=0), folder.orphan()
    os.utime(folder.base / odd, ns=(seconds * 10**9 if abs(seconds) < 2**33 else 0, min(seconds * 10**9, 2**63 - 1)))
    outcome = enforce(bundle, disposal=disposal)
    assert odd in folder.blobs()
    assert old not in folder.blobs()
    assert outcome.report["headline"]["blobs_of_unknown_age"] == 1
    assert "The age of 1 blob without a row is unknown" in " ".join(outcome.report["warnings"])


def test_a_copy_in_quarantine_whose_time_cannot_be_right_is_never_purged(bundle: Bundle, folder: Folder) -> None:
    odd, old = folder.orphan(), folder.orphan()
    enforce(bundle)
    folder.grow_old(31)
    os.utime(folder.in_quarantine()[odd], (0, 0))
    outcome = enforce(bundle)
    assert set(folder.in_quarantine()) == {odd}
    assert outcome.report["headline"]["quarantined_blobs_deleted"] == 1
    assert old not in folder.blobs()


def test_a_blob_whose_time_was_lost_since_the_plan_is_never_disposed_of(bundle: Bundle, folder: Folder) -> None:
    orphan = folder.orphan()
    found = bundle.find(run_id="r", mode="enforce")
    (folder.base / orphan).write_text("a new one, by a clock without a battery")
    os.utime(folder.base / orphan, (0, 0))
    bundle.sweep(found, run_id="r", mode="enforce")
    assert orphan in folder.blobs()
    assert folder.in_quarantine() == {}


@pytest.mark.parametrize("suffix", [".tmp", ".part", ".lock", ".bak", ".csv", ".parquet", ".json", ".xcb.tmp"])
def test_what_lies_beside_a_blob_under_its_name_is_never_disposed_of(
    bundle: Bundle, folder: Folder, suffix: str
) -> None:
    orphan = folder.orphan()
    beside = folder.put(orphan + suffix, age_days=30)
    outcome = enforce(bundle)
    assert beside in folder.blobs()
    assert set(folder.in_quarantine()) == {orphan}
    assert outcome.report["headline"]["unrecognised_objects"] == 1


def test_what_an_earlier_version_took_for_a_blob_is_not_kept_from_returning(bundle: Bundle, folder: Folder) -> None:
    key = f"a/gone/t/{uuid.uuid4()}.csv"
    taken = folder.quarantine / "20260101T000000Z-abcdef01" / key
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    folder.set_age(taken, 300)
    enforce(bundle)
    assert taken.exists()  # it is not purged
    bundle.run(RESTORE, mode="enforce", quarantine="all").succeeded()
    assert key in folder.blobs()


# -- putting back --------------------------------------------------


@pytest.mark.parametrize("how", ["run", "manifest", "dag", "all"])
def test_what_was_quarantined_returns_and_nothing_is_overwritten(bundle: Bundle, folder: Folder, how: str) -> None:
    first, other = folder.orphan(), folder.put(f"a/kept/t/{uuid.uuid4()}", age_days=30, content="old")
    quarantined = bundle.run(DAG, run_id="the run", mode="enforce").succeeded()
    folder.put(other, age_days=0, content="new")
    choice = {
        "run": {"quarantine": "the run"},
        "manifest": {"quarantine": quarantined.report["manifest"]},
        "dag": {"quarantine": "all", "dag_ids": "a"},
        "all": {"quarantine": "all"},
    }[how]
    keys = folder.blobs()
    reported = bundle.run(RESTORE, **choice).succeeded()
    assert (folder.blobs(), reported.report["headline"]["blobs_to_restore"]) == (keys, 1)
    restored = bundle.run(RESTORE, mode="enforce", **choice).succeeded()
    assert restored.report["headline"]["blobs_restored"] == 1
    assert folder.blobs() == keys | {first}
    assert (folder.base / other).read_text() == "new"
    assert (folder.base / first).read_text() == "x"
    assert set(folder.in_quarantine()) == {other}


def test_only_what_was_chosen_returns(bundle: Bundle, folder: Folder, history: History) -> None:
    history.dag("b")
    of_a, of_b = folder.orphan("a"), folder.orphan("b")
    enforce(bundle)
    bundle.run(RESTORE, mode="enforce", quarantine="all", dag_ids=["b"]).succeeded()
    assert of_b in folder.blobs()
    assert set(folder.in_quarantine()) == {of_a}
    wrong = bundle.run(RESTORE, mode="enforce", quarantine="no such run")
    assert "quarantine" in str(wrong.error)


def test_blobs_return_without_the_right_to_insert_rows_and_rows_do_not(
    bundle: Bundle, folder: Folder, history: History, tmp_path: Path
) -> None:
    history.connection.execute(f"REVOKE INSERT ON xcom FROM {ROLE}")  # the tests of restoring rows have it
    orphan = folder.orphan()
    enforce(bundle)
    assert orphan not in folder.blobs()
    bundle.run(RESTORE, mode="enforce", quarantine="all").succeeded()
    assert orphan in folder.blobs()
    refused = bundle.run(RESTORE, mode="enforce", archive=f"file://{tmp_path}/archive")
    assert "GRANT INSERT ON xcom" in str(refused.error)


# -- another owner --------------------------------------------------


def others(folder: Folder) -> None:
    """From now on the base path belongs to another Airflow."""
    marker = folder.base / ".xcom-maintenance-owner.json"
    marker.write_text(json.dumps({"owner": "7000000000000000000/the_other"}))


def test_what_another_owner_quarantined_is_never_refused_the_way_back(
    bundle: Bundle, folder: Folder, history: History
) -> None:
    taken, there = folder.orphan(), folder.orphan()
    enforce(bundle)  # as the other one did, which knows no row of it
    copies = set(folder.in_quarantine())
    others(folder)
    history.xcom(history.run("b", 2), f"file://{folder.base}/{taken}", age_days=2)  # ours
    folder.put(there, age_days=1, content="new")
    reported = bundle.run(RESTORE, quarantine="all").succeeded()
    assert any("7000000000000000000/the_other" in warning for warning in reported.report["warnings"])
    restored = bundle.run(RESTORE, mode="enforce", quarantine="all").succeeded()
    assert restored.report["headline"]["blobs_restored"] == 1
    assert (folder.base / taken).read_text() == "x"
    assert (folder.base / there).read_text() == "new"
    assert set(folder.in_quarantine()) == copies  # which are the other one's
    again = bundle.run(RESTORE, mode="enforce", quarantine="all").succeeded()
    assert again.report["headline"]["blobs_restored"] == 0
    assert "the_other" in (folder.base / ".xcom-maintenance-owner.json").read_text()


@pytest.mark.parametrize("dag_id", [DAG, "xcom_cleanup"])
def test_a_report_never_hides_that_the_base_path_has_another_owner(bundle: Bundle, folder: Folder, dag_id: str) -> None:
    assert bundle.run(dag_id).succeeded().report["warnings"] == []
    others(folder)
    warnings = bundle.run(dag_id).succeeded().report["warnings"]
    assert [warning for warning in warnings if "another owner" in warning and "xcom_restore" in warning]
    refused = bundle.run(dag_id, mode="enforce")
    assert "7000000000000000000/the_other" in str(refused.error)


# -- at every moment --------------------------------------------------


CALLS = [
    *((PostgresMetadataStore, name) for name in ("referenced", "unfinished_runs")),
    *((FileBlobStore, name) for name in ("copy_to", "_delete", "put")),
]


def test_whenever_a_sweep_is_killed_each_blob_is_in_at_least_one_place(
    bundle: Bundle, folder: Folder, history: History
) -> None:
    moment = 0
    while True:
        moment += 1
        orphan = folder.orphan()
        found = bundle.find(run_id=f"r{moment}", mode="enforce")
        with killed_at(moment, CALLS):
            try:
                bundle.sweep(found, run_id=f"r{moment}", mode="enforce")
                ended = True
            except Killed:
                ended = False
        assert orphan in folder.blobs() | set(folder.in_quarantine())
        bundle.sweep(found, run_id=f"r{moment}", mode="enforce")  # another attempt
        assert orphan in folder.in_quarantine()
        assert orphan not in folder.blobs()
        if ended:
            break
    assert moment >= 8


def test_a_row_that_appears_while_blobs_are_copied_keeps_its_blob(
    bundle: Bundle, folder: Folder, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan, run = folder.orphan(), history.run("b", 1)
    found = bundle.find(run_id="r", mode="enforce")
    copy = FileBlobStore.copy_to

    def copy_then_refer(*args: Any, **kwargs: Any) -> bool:
        copied = copy(*args, **kwargs)
        history.xcom(run, f"file://{folder.base}/{orphan}", age_days=0)
        return copied

    monkeypatch.setattr(FileBlobStore, "copy_to", copy_then_refer)
    swept = bundle.sweep(found, run_id="r", mode="enforce")
    assert swept["orphans_quarantined"] == 0
    assert orphan in folder.blobs()
    assert folder.in_quarantine() == {}


def test_a_blob_that_cannot_be_copied_stays_and_does_not_stop_the_others(
    bundle: Bundle, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, fine = folder.orphan(), folder.orphan()
    copy = FileBlobStore.copy_to

    def fails_for_one(self: FileBlobStore, blob: Any, **kwargs: Any) -> bool:
        if blob.key == stuck:
            raise StoreUnavailable("The store is full", remedy="Wait")
        return copy(self, blob, **kwargs)

    monkeypatch.setattr(FileBlobStore, "copy_to", fails_for_one)
    outcome = bundle.run(DAG, mode="enforce")
    assert "Could not dispose of 1 blob (disposed of 1)" in str(outcome.error)
    assert stuck in folder.blobs()
    assert set(folder.in_quarantine()) == {fine}
    assert outcome.table("Blobs that could not be deleted") == [{"blob": stuck, "error": "The store is full"}]


def test_a_blob_whose_copy_was_not_seen_to_be_whole_stays(
    bundle: Bundle, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubtful, fine = folder.orphan(), folder.orphan()
    copy = FileBlobStore.copy_to

    def not_seen(self: FileBlobStore, blob: Any, **kwargs: Any) -> bool:
        return copy(self, blob, **kwargs) and blob.key != doubtful

    monkeypatch.setattr(FileBlobStore, "copy_to", not_seen)
    enforce(bundle)
    assert doubtful in folder.blobs()
    assert set(folder.in_quarantine()) == {fine}  # and the doubtful copy does not stay there


def test_a_manifest_that_is_too_old_is_not_carried_out(
    bundle: Bundle, folder: Folder, live: SeededRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = folder.orphan()
    found = bundle.find(run_id="r", mode="enforce")
    now = PostgresMetadataStore.now
    monkeypatch.setattr(PostgresMetadataStore, "now", lambda self: now(self) + timedelta(days=8))
    with pytest.raises(Exception, match="max_manifest_age_days"):
        bundle.sweep(found, run_id="r", mode="enforce")
    assert orphan in folder.blobs()


# -- decisions over several runs and several tasks --------------------------------------------------


def test_references_that_vanish_without_their_blobs_stop_the_next_run_until_somebody_accepts_that(
    bundle: Bundle, folder: Folder, history: History
) -> None:
    run = history.run("a", 20, run_id="old")
    for number in range(120):
        blob = folder.put(f"a/old/t/{uuid.uuid4()}", age_days=20)
        history.xcom(run, f"file://{folder.base}/{blob}", age_days=20, key=str(number))
    enforce(bundle)
    before = folder.blobs()
    history.connection.execute("DELETE FROM xcom WHERE run_id = 'old'")  # as airflow db clean would
    for _ in range(2):
        refused = bundle.run(DAG, mode="enforce")
        assert "max_reference_shrink" in str(refused.error)
        bundle.run(DAG).succeeded()  # a report does not make it acceptable
    assert folder.blobs() == before
    assert enforce(bundle, max_reference_shrink=1).report["headline"]["orphans_quarantined"] == 120


def test_several_tasks_find_and_sweep_what_one_would(bundle: Bundle, folder: Folder, history: History) -> None:
    history.dag("b")
    orphans = {folder.orphan("ab"[number % 2]) for number in range(30)}
    alone = bundle.run(DAG).succeeded()
    bundle.variable = {"shard_blobs": 5}
    outcome = enforce(bundle)
    assert len({line["key"] for line in outcome.manifest("orphan")}) == len(orphans)
    assert {line["key"] for line in outcome.manifest("orphan")} == {line["key"] for line in alone.manifest("orphan")}
    assert len(outcome.table("Orphans swept, by task")) == 6
    assert set(folder.in_quarantine()) == orphans
    assert outcome.report["headline"]["orphans_quarantined"] == 30


def test_a_find_that_did_not_end_is_never_taken_for_one_that_found_nothing(bundle: Bundle, folder: Folder) -> None:
    folder.orphan()
    planned = bundle.task(DAG, "plan", run_id="r", mode="enforce")
    with pytest.raises(Exception, match="orphans cannot be identified"):
        bundle.task(DAG, "decide", planned, run_id="r", mode="enforce")


def test_a_copy_is_not_taken_back_if_the_store_deleted_the_original_and_said_that_it_failed(
    bundle: Bundle, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = folder.orphan()
    delete = FileBlobStore._delete

    def deletes_and_fails(*args: Any) -> Deletion:
        return Deletion(delete(*args).blob, DeleteResult.FAILED, "timed out")

    monkeypatch.setattr(FileBlobStore, "_delete", deletes_and_fails)
    assert "Could not dispose of 1 blob (disposed of 0)" in str(bundle.run(DAG, mode="enforce").error)
    assert set(folder.in_quarantine()) == {orphan}
