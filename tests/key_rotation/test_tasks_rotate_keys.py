"""``xcom_rotate_keys``: what old keys hold is re-encrypted, nothing is lost on the way, and what is left is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from xcom_blob_backend import reseal, transfer
from xcom_blob_backend.errors import BlobMisplaced, BlobUndecryptable
from xcom_blob_backend.header import Coordinates

from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from local_stack.postgres import ROLE
from tests.backend.conftest import KEYS, Configure, configure, files_in  # noqa: F401 - a fixture
from tests.backend.stored import in_bucket
from tests.conftest import Database
from tests.support.bundle import Bundle, Outcome
from tests.support.history import History, SeededRun

ROTATE = "xcom_rotate_keys"
#: Above the threshold of these tests, and below it.
LARGE, SMALL = {"iban": "DE00 1234", "rows": list(range(500))}, {"iban": "DE00"}


def keys(*names: str) -> str:
    return ",".join(f"{name}:{KEYS[name]}" for name in names)


@dataclass
class Airflow:
    """Rows that tasks have pushed through the backend, and what each of them pushed."""

    history: History
    bundle: Bundle
    configure: Configure
    pushed: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def push(self, run: SeededRun, value: Any, *, key: str = "k", task_id: str = "t", map_index: int = -1) -> None:
        at = Coordinates(run.dag_id, run.run_id, task_id, key, map_index)
        self.history.xcom(run, transfer.save(value, at), age_days=3, key=key, task_id=task_id, map_index=map_index)
        self.pushed[tuple(at)] = value

    def rows(self) -> dict[tuple[Any, ...], Any]:
        found = self.history.connection.execute("SELECT dag_id, run_id, task_id, key, map_index, value FROM xcom")
        return {tuple(place): value for *place, value in found.fetchall()}

    def contents(self) -> list[Any]:
        return self.history.connection.execute("SELECT to_jsonb(x) FROM xcom x ORDER BY 1::text").fetchall()

    def times(self) -> list[Any]:
        return self.history.connection.execute(
            "SELECT dag_run_id, task_id, map_index, key, timestamp FROM xcom ORDER BY 1, 2, 3, 4"
        ).fetchall()

    def read(self, *names: str) -> dict[tuple[Any, ...], Any]:
        """Every value, as tasks read it with nothing but these keys."""
        self.configure(encryption_keys=keys(*names))
        return {at: transfer.load(row, Coordinates(*at)) for at, row in self.rows().items()}

    def rotate(self, *names: str, **conf: Any) -> Outcome:
        self.configure(encryption_keys=keys(*names))
        return self.bundle.run(ROTATE, **{"mode": "enforce", **conf})


@pytest.fixture
def airflow(
    database: Database,
    history: History,
    bundle: Bundle,
    configure: Configure,  # noqa: F811 - the fixture
    folder: Path,
) -> Airflow:
    """With blobs in a folder, small values sealed in their rows, the key ``old``, and the right to change rows."""
    database.server.grant_role(database.name, "GRANT UPDATE (value)")
    configure(path=f"file://{folder}", threshold=1000, encrypt_inline="true", encryption_keys=keys("old"))
    return Airflow(history, bundle, configure)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


def some_values(airflow: Airflow) -> SeededRun:
    """Ten values of a key, in rows and in blobs, of runs that are over and of one that is not."""
    history = airflow.history
    for dag_id, state in (("a", "success"), ("b", "running")):
        run = history.run(dag_id, 3, state=state)
        airflow.push(run, LARGE, key="large")
        airflow.push(run, SMALL, key="small")
        for map_index in range(2):
            airflow.push(run, [LARGE, map_index], task_id="mapped", map_index=map_index)
    # Ids that make a header longer than what is read of a blob at first.
    odd = history.run("é" * 250, 3, run_id="ü" * 250)
    airflow.push(odd, LARGE, key="ö" * 512)
    airflow.push(odd, SMALL, key="ä" * 512)
    history.xcom(run, {"of": "the default backend"}, age_days=1, key="plain")
    history.xcom(run, None, age_days=1, key="null")
    return run


def blobs_of(airflow: Airflow) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in files_in(Path(os.environ["AIRFLOW__XCOM_BLOB_BACKEND__PATH"][7:]))}


# -- what is re-encrypted --------------------------------------------------


@pytest.mark.parametrize("store", ["file", "rclone", "gcs", "azurite"])
def test_every_value_reads_back_as_it_was_with_nothing_but_the_new_key(
    airflow: Airflow, store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store != "file":
        airflow.configure(path=in_bucket(request.getfixturevalue(store), monkeypatch).path)
    some_values(airflow)
    times = airflow.times()
    before = airflow.read("old")
    assert airflow.pushed.items() <= before.items()

    planned = airflow.rotate("new", "old", mode="report").succeeded()
    assert planned.report["headline"]["values_under_old_keys"] == 10
    outcome = airflow.rotate("new", "old", batch_rows=3).succeeded()

    headline = outcome.report["headline"]
    assert (headline["values_reencrypted"], headline["transactions"]) == (10, 4)
    assert (headline["values_under_old_keys"], headline["values_under_sealing_key"]) == (0, 10)
    assert headline["removable_keys"] == "old"
    assert outcome.report["warnings"] == []
    assert airflow.read("new") == before
    assert airflow.times() == times

    rows = airflow.contents()
    again = airflow.rotate("new", "old").succeeded().report["headline"]
    assert (again["values_reencrypted"], again["transactions"]) == (0, 0)
    assert airflow.contents() == rows


def test_a_report_changes_nothing_and_says_which_key_holds_what(airflow: Airflow) -> None:
    some_values(airflow)
    airflow.configure(encryption_keys=keys("other"))
    airflow.push(airflow.history.run("c", 1), LARGE)
    rows, blobs = airflow.contents(), blobs_of(airflow)
    airflow.bundle.variable = {"mode": "enforce"}  # of the DAGs that delete
    outcome = airflow.rotate("new", "old", "other", mode=None).succeeded()
    assert (outcome.report["status"], outcome.report["mode"]) == ("reported", "report")
    assert (airflow.contents(), blobs_of(airflow)) == (rows, blobs)
    by_key = {line["key"]: line for line in outcome.table("Keys")}
    assert [line["used for"] for line in by_key.values()] == ["encrypts new values", "decrypts only", "decrypts only"]
    assert {key: (line["blobs"], line["inline values"]) for key, line in by_key.items()} == {
        "new": (0, 0),
        "old": (7, 3),
        "other": (1, 0),
    }
    held = {(line["DAG"], line["key"]): line["blobs"] for line in outcome.table(HELD)}
    assert held == {("a", "old"): 3, ("b", "old"): 3, ("é" * 250, "old"): 1, ("c", "other"): 1}
    assert outcome.report["headline"]["removable_keys"] is None
    assert sum(by_key[key]["bytes"] for key in by_key) > sum(map(len, blobs.values()))
    assert "DE00" not in outcome.markdown
    for name in ("new", "old", "other"):
        assert KEYS[name] not in outcome.markdown + outcome.path(".json").read_text()


HELD = "Values under other keys"


def test_a_key_that_holds_nothing_may_be_removed_and_one_that_archived_rows_need_may_not(
    airflow: Airflow, database: Database
) -> None:
    some_values(airflow)
    airflow.history.connection.execute("CREATE TABLE _airflow_deleted__xcom__1 AS SELECT * FROM xcom")
    database.server.grant_role(database.name, "GRANT UPDATE (value)")
    outcome = airflow.rotate("new", "old", "other").succeeded()
    headline = outcome.report["headline"]
    assert (headline["values_under_old_keys"], headline["archived_rows_under_old_keys"]) == (0, 10)
    assert headline["removable_keys"] == "other"
    assert "archive tables" in " ".join(outcome.report["warnings"])


# -- what must not be lost --------------------------------------------------


def test_a_task_that_read_the_row_just_before_still_finds_its_blob(airflow: Airflow) -> None:
    some_values(airflow)
    before, files = airflow.rows(), blobs_of(airflow)
    for file in files:
        os.utime(file, (0, 0))
    airflow.rotate("new", "old").succeeded()
    for at, row in before.items():
        if at in airflow.pushed:
            assert transfer.load(row, Coordinates(*at)) == airflow.pushed[at]
    # It is no orphan yet by its age, either.
    assert files.items() <= blobs_of(airflow).items()
    assert all(Path(file).stat().st_mtime > 1_000_000 for file in files)


def interrupted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, instead: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: instead(original, *args))


def test_a_row_that_was_changed_or_deleted_meanwhile_stays_so(
    airflow: Airflow, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = some_values(airflow)
    at = Coordinates(run.dag_id, run.run_id, "t", "large", -1)

    def meanwhile(replace: Callable[..., list[bool]], *arguments: Any) -> list[bool]:
        # A task of the running run was cleared and has pushed anew, with the new key as it is the first one now.
        row = transfer.save("pushed anew" * 500, at)
        with database.connect(autocommit=True) as other:
            other.execute("UPDATE xcom SET value = %s WHERE key = 'large' AND dag_id = 'b'", [json.dumps(row)])
            other.execute("DELETE FROM xcom WHERE key = 'small' AND dag_id = 'b'")
        return replace(*arguments)

    with monkeypatch.context() as patch:
        interrupted(patch, PostgresMetadataStore, "replace_stored", meanwhile)
        headline = airflow.rotate("new", "old").succeeded().report["headline"]
    assert (headline["values_reencrypted"], headline["values_changed_meanwhile"]) == (8, 2)
    values = airflow.read("new")
    assert values[tuple(at)] == "pushed anew" * 500
    assert (run.dag_id, run.run_id, "t", "small", -1) not in values


def test_a_row_that_somebody_is_changing_is_waited_for_and_stays_as_they_leave_it(
    airflow: Airflow, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement meets an uncommitted change: it waits, looks again, and leaves the row alone."""
    import threading

    some_values(airflow)
    others: list[psycopg.Connection[Any]] = []

    def meanwhile(replace: Callable[..., list[bool]], *arguments: Any) -> list[bool]:
        other = database.connect()
        others.append(other)
        other.execute("UPDATE xcom SET value = '\"theirs\"' WHERE key = 'large' AND dag_id = 'b'")
        threading.Timer(0.5, other.commit).start()
        return replace(*arguments)

    with monkeypatch.context() as patch:
        interrupted(patch, PostgresMetadataStore, "replace_stored", meanwhile)
        headline = airflow.rotate("new", "old").succeeded().report["headline"]
    others[0].close()
    assert (headline["values_reencrypted"], headline["values_changed_meanwhile"]) == (9, 1)
    assert "theirs" in airflow.read("new").values()


@pytest.mark.parametrize("moment", ["before the row", "after the row", "before anything"])
def test_a_rotation_that_is_killed_loses_nothing_and_a_second_one_converges(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    some_values(airflow)
    calls: list[int] = []

    def killed(original: Callable[..., Any], *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) < 2:
            return original(*arguments)
        raise RuntimeError("killed")

    targets: dict[str, tuple[Any, str]] = {
        "before the row": (PostgresMetadataStore, "replace_stored"),
        "after the row": (reseal, "renew"),
        "before anything": (reseal, "reseal"),
    }
    with monkeypatch.context() as patch:
        interrupted(patch, *targets[moment], killed)
        outcome = airflow.rotate("new", "old", batch_rows=4)
    assert "killed" in str(outcome.error)
    assert outcome.report["status"] == "failed"
    assert airflow.pushed.items() <= airflow.read("new", "old").items()
    headline = airflow.rotate("new", "old").succeeded().report["headline"]
    assert headline["values_under_old_keys"] == 0
    assert headline["removable_keys"] == "old"
    assert airflow.pushed.items() <= airflow.read("new").items()


def test_a_task_that_is_tried_again_goes_on_with_the_same_plan(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_values(airflow)
    airflow.configure(encryption_keys=keys("new", "old"))
    conf = {"run_id": "manual__1", "mode": "enforce", "batch_rows": 4}
    planned = airflow.bundle.task(ROTATE, "plan", **conf)
    calls: list[int] = []

    def killed(original: Callable[..., Any], *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("killed")
        return original(*arguments)

    interrupted(monkeypatch, PostgresMetadataStore, "replace_stored", killed)
    with pytest.raises(RuntimeError, match="killed"):
        airflow.bundle.task(ROTATE, "apply", planned, **conf)
    done = airflow.bundle.task(ROTATE, "apply", planned, **conf)
    assert (done["status"], done["values_reencrypted"], done["values_under_old_keys"]) == ("enforced", 10, 0)
    assert airflow.pushed.items() <= airflow.read("new").items()


def test_a_rotation_whose_time_is_up_says_so_and_the_next_one_goes_on(airflow: Airflow) -> None:
    some_values(airflow)
    outcome = airflow.rotate("new", "old", max_minutes=1e-9).succeeded()
    assert outcome.report["headline"]["values_reencrypted"] == 0
    assert outcome.report["headline"]["removable_keys"] is None
    assert "max_minutes" in " ".join(outcome.report["warnings"])
    assert airflow.rotate("new", "old", max_minutes=5).succeeded().report["headline"]["values_reencrypted"] == 10


# -- what is left alone --------------------------------------------------


def test_what_a_missing_key_holds_is_counted_never_touched_and_fails_the_run(airflow: Airflow) -> None:
    run = some_values(airflow)
    airflow.configure(encryption_keys=keys("other"))
    airflow.push(run, LARGE, key="lost")
    airflow.push(run, SMALL, key="lost too")
    held = {at: row for at, row in airflow.rows().items() if at[3].startswith("lost")}
    files = blobs_of(airflow)

    reported = airflow.rotate("new", "old", mode="report").succeeded().report
    assert reported["headline"]["values_under_missing_keys"] == 2
    assert "2 values cannot be read, because the key to decrypt them is not configured: 'other'" in " ".join(
        reported["warnings"]
    )

    outcome = airflow.rotate("new", "old")
    assert type(outcome.error).__name__ == "PartialFailure"
    assert "2 values encrypted with keys that are not configured: 'other'" in str(outcome.error)
    headline = outcome.report["headline"]
    assert (headline["values_reencrypted"], headline["values_under_missing_keys"]) == (10, 2)
    assert {line["key"]: line["used for"] for line in outcome.table("Keys")}["other"] == "NOT CONFIGURED"
    assert {at: row for at, row in airflow.rows().items() if at in held} == held
    assert files.items() <= blobs_of(airflow).items()
    assert airflow.rotate("new", "other").succeeded().report["headline"]["values_under_missing_keys"] == 0
    assert airflow.pushed.items() <= airflow.read("new").items()


def test_a_blob_that_was_swapped_or_tampered_with_is_not_made_to_look_genuine(airflow: Airflow) -> None:
    run = airflow.history.run("a", 3)
    for key in ("one", "two", "three"):
        airflow.push(run, [LARGE, key], key=key)
    rows = airflow.rows()
    two, three = (rows[run.dag_id, run.run_id, "t", key, -1] for key in ("two", "three"))
    # Somebody with access to the database lets a row refer to another's blob, and one with access to the bucket changes
    # a blob so that its checksum fits.
    airflow.history.connection.execute("UPDATE xcom SET value = %s WHERE key = 'one'", [json.dumps(two)])
    from xcom_blob_backend import header

    file = Path(three["__data__"]["uri"].removeprefix("file://"))
    packed, _, payload = header.split(file.read_bytes(), "")
    file.write_bytes(header.join(packed, bytes(payload[:-1]) + bytes([payload[-1] ^ 1])))

    outcome = airflow.rotate("new", "old")
    assert type(outcome.error).__name__ == "PartialFailure"
    why = {line["reason"]: line["values"] for line in outcome.table("Values that could not be re-encrypted")}
    assert why == {"it was written for another XCom": 1, "it cannot be decrypted with its key": 1}
    assert outcome.report["headline"]["values_reencrypted"] == 1
    assert outcome.report["headline"]["removable_keys"] is None
    airflow.configure(encryption_keys=keys("new", "old"))
    found = airflow.rows()
    with pytest.raises(BlobMisplaced):
        transfer.load(found[run.dag_id, run.run_id, "t", "one", -1], Coordinates(run.dag_id, run.run_id, "t", "one"))
    with pytest.raises(BlobUndecryptable):
        transfer.load(found[run.dag_id, run.run_id, "t", "three", -1], None)


def test_no_key_may_be_removed_while_there_is_a_value_that_cannot_be_looked_at(airflow: Airflow, folder: Path) -> None:
    some_values(airflow)
    cut, gone = files_in(folder)[:2]
    cut.write_bytes(b"")
    gone.unlink()
    outcome = airflow.rotate("new", "old", "other", mode="report").succeeded()
    headline = outcome.report["headline"]
    assert (headline["values_of_unknown_key"], headline["values_whose_blob_is_gone"]) == (1, 1)
    assert headline["removable_keys"] is None
    cut.unlink()
    assert airflow.rotate("new", "old", "other").succeeded().report["headline"]["removable_keys"] == "old, other"


def test_without_encryption_the_report_says_so_and_nothing_is_changed(airflow: Airflow) -> None:
    airflow.configure(encryption_keys="", encrypt_inline="false")
    airflow.push(airflow.history.run("a", 1), LARGE)
    rows, blobs = airflow.contents(), blobs_of(airflow)
    for mode in ("report", "enforce"):
        outcome = airflow.rotate(mode=mode).succeeded()
        assert "none is configured ([xcom_blob_backend] encryption_keys)" in " ".join(outcome.report["warnings"])
        assert outcome.report["headline"]["values_not_encrypted"] == 1
    assert (airflow.contents(), blobs_of(airflow)) == (rows, blobs)


def test_without_the_backend_the_report_says_so(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__XCOM_BLOB_BACKEND__PATH")
    for mode in ("report", "enforce"):
        outcome = airflow.rotate("new", mode=mode).succeeded()
        assert "xcom_blob_backend is not configured" in " ".join(outcome.report["warnings"])


def test_keys_that_cannot_be_read_are_an_error_that_does_not_show_them(airflow: Airflow) -> None:
    airflow.configure(encryption_keys="old:open-sesame")
    outcome = airflow.bundle.run(ROTATE)
    assert type(outcome.error).__name__ == "AirflowFailException"
    assert "[xcom_blob_backend] encryption_keys: the key 'old'" in str(outcome.error)
    assert "sesame" not in outcome.path(".json").read_text() + outcome.markdown


def test_a_missing_right_is_named_before_anything_is_changed(airflow: Airflow) -> None:
    some_values(airflow)
    airflow.history.connection.execute(f"REVOKE UPDATE (value) ON xcom FROM {ROLE}")
    blobs = blobs_of(airflow)
    airflow.rotate("new", "old", mode="report").succeeded()
    outcome = airflow.rotate("new", "old")
    assert f'run: GRANT UPDATE (value) ON xcom TO "{ROLE}"' in str(outcome.error)
    assert blobs_of(airflow) == blobs


def test_with_the_optional_right_no_other_column_can_be_changed(airflow: Airflow, database: Database) -> None:
    with database.connect(user=ROLE, autocommit=True) as role, pytest.raises(psycopg.errors.InsufficientPrivilege):
        role.execute("UPDATE xcom SET key = 'x'")


@pytest.mark.parametrize("value", [LARGE, SMALL], ids=["blob", "row"])
@pytest.mark.parametrize(
    ("key", "key_of_row"), [("100%25", "100%"), ("a/b%2Fc", "a/b/c"), ("%41", "A"), ("a%2525", "a%25")]
)
def test_a_key_that_airflow_stores_under_another_name_does_not_keep_its_value_from_being_rotated(
    airflow: Airflow, key: str, key_of_row: str, value: Any
) -> None:
    run = airflow.history.run("a", 3)
    row = transfer.save(value, Coordinates(run.dag_id, run.run_id, "t", key, -1))
    airflow.history.xcom(run, row, age_days=3, key=key_of_row)
    headline = airflow.rotate("new", "old").succeeded().report["headline"]
    assert headline["removable_keys"] == ["old"] or "old" in str(headline["removable_keys"])
    airflow.configure(encryption_keys=keys("new"))
    [changed] = airflow.rows().values()
    for asked in (key, key_of_row, None):
        assert transfer.load(changed, Coordinates(run.dag_id, run.run_id, "t", asked, -1)) == value
    with pytest.raises(BlobMisplaced):
        transfer.load(changed, Coordinates(run.dag_id, run.run_id, "t", "another", -1))
