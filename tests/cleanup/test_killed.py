"""A cleanup that is killed, or loses its database, at any moment and goes on or runs again ends as one that was not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.cleanup import delete_rows
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import SharesFailed, StoreUnavailable
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.place import ReportPlace
from tests.conftest import Database
from tests.support.cleanups import Cleanup
from tests.support.history import History
from tests.support.interruptions import Killed, interrupted_at, kill, killed_at, run_until_killed

pytestmark = pytest.mark.slow

#: Every call that reads or changes something outside the process.
CALLS = [
    *((PostgresMetadataStore, name) for name in ("check", "measure", "delete", "referenced", "unfinished_runs")),
    *((FileBlobStore, name) for name in ("_stat", "_delete")),
    *((ReportPlace, name) for name in ("write", "write_part", "mark_pending", "clear_pending")),
]
PHASES = ("plan", "share_out", "delete_rows", "finish")
#: Of the moments of a run, one in so many is tried as a second attempt at the same run, and one as another run.
STRIDE = 4


class Deployment:
    """Some history with blobs, which can be laid out again and compared."""

    def __init__(self, database: Database, history: History, folder: Path) -> None:
        self.database, self.history, self.folder = database, history, folder
        self.base = folder / "blobs"
        self.base.mkdir(exist_ok=True)
        self.settings = Settings(
            mode="enforce", batch_rows=2, shard_rows=2, archive_path=f"file://{folder}/archive", retry_seconds=20
        )

    def lay_out(self) -> None:
        self.history.connection.execute("DELETE FROM xcom; DELETE FROM task_instance; DELETE FROM dag_run")
        for age in (30, 20, 10, 1):
            run = self.history.run("a", age, run_id=f"run_{age}", state="running" if age == 20 else "success")
            for key in ("x", "y"):
                name = f"11111111-2222-4333-8444-{age:010}0{int(key == 'x')}"
                blob = self.base / "a" / run.run_id / "t" / name
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_text("x")
                os.utime(blob, (1_700_000_000, 1_700_000_000))
                self.history.xcom(run, f"file://{blob}", age_days=age, key=key)

    def state(self) -> tuple[object, object]:
        return self.history.rows(), {str(p.relative_to(self.base)) for p in self.base.rglob("*") if p.is_file()}

    def cleanup(self, run_id: str) -> Cleanup:
        base = BasePath.parse(f"file://{self.base}", setting="blob_base_path")
        return Cleanup(
            lambda: self.database.store(retry_seconds=self.settings.retry_seconds),
            self.folder / "reports",
            self.settings,
            FileBlobStore(base, setting="blob_base_path"),
            run_id,
        )

    def values(self) -> set[tuple[Any, ...]]:
        """Every row with its value and its timestamp."""
        found = self.history.connection.execute(
            "SELECT run_id, task_id, map_index, key, value::text, extract(epoch FROM timestamp) FROM xcom"
        )
        return {(*row[:4], json.loads(row[4]), float(row[5])) for row in found}

    def archived(self) -> set[tuple[Any, ...]]:
        """What the complete files of the archive hold, as ``values`` names it."""
        from airflow.sdk import ObjectStoragePath

        archives = Archives(ObjectStoragePath(self.settings.archive_path or ""))
        found = set()
        for folder in (self.folder / "archive").glob("*/*"):
            if not any(folder.glob("*.jsonl.gz")):
                continue
            for file in archives.find(f"file://{folder}"):
                for batch in file.batches(max_rows=100, max_bytes=2**20):
                    for row in batch:
                        raw = json.loads(row.line)["row"]
                        when = self.history.connection.execute(
                            "SELECT extract(epoch FROM %s::timestamptz)", (raw["timestamp"],)
                        ).fetchone()
                        assert when is not None
                        place = (row.run_id, row.task_id, row.map_index, row.key)
                        found.add((*place, raw["value"], float(when[0])))
                assert not file.cut_short
        return found


@pytest.fixture
def deployment(database: Database, history: History, tmp_path: Path) -> Deployment:
    return Deployment(database, history, tmp_path)


def test_killed_at_every_moment_and_run_again_it_ends_in_the_same_state(deployment: Deployment) -> None:
    deployment.lay_out()
    reached: dict[str, range] = {}
    with interrupted_at(None, CALLS, kill) as moments:
        whole = deployment.cleanup("whole")
        for phase in PHASES:
            first = moments() + 1
            getattr(whole, phase)()
            reached[phase] = range(first, moments() + 1)
    assert len(whole.shards) == 2
    assert all(len(those) >= 4 for those in reached.values()), reached
    expected = deployment.state()
    # The batches and the blobs are where it matters: there, every moment; elsewhere, the first ones and one in a few.
    chosen = {*reached["delete_rows"], *(those[i] for those in reached.values() for i in (0, 1))}
    chosen |= set(range(1, moments() + 1, STRIDE))
    for moment in sorted(chosen):
        deployment.lay_out()
        before = deployment.values()
        with killed_at(moment, CALLS), pytest.raises(Killed):
            deployment.cleanup(f"killed_{moment}").run()
        # Airflow tries the same run again, or the next scheduled run comes along.
        deployment.cleanup(f"killed_{moment}" if moment % 2 else f"after_{moment}").run()
        assert deployment.state() == expected, f"killed at moment {moment}"
        assert before - deployment.values() <= deployment.archived(), f"killed at moment {moment}"


# -- a real kill --------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, psycopg
from pathlib import Path
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from tests.cleanup import test_killed as t

conninfo, folder, phase, moment, run_id = sys.argv[1:]

class There:
    def store(self, **options):
        return PostgresMetadataStore(
            lambda: psycopg.connect(conninfo), setting="x", lock_timeout=5, statement_timeout=60, **options)

cleanup = t.Deployment(There(), None, Path(folder)).cleanup(run_id)
for before in t.PHASES[: t.PHASES.index(phase)]:
    getattr(cleanup, before)()
with t.interrupted_at(int(moment), t.CALLS, lambda: os.kill(os.getpid(), signal.SIGKILL)):
    getattr(cleanup, phase)()
"""


@pytest.mark.parametrize("phase", PHASES)
def test_no_real_kill_in_any_phase_loses_a_value(deployment: Deployment, phase: str) -> None:
    deployment.lay_out()
    deployment.cleanup("whole").run()
    expected = deployment.state()
    deployment.lay_out()
    before = deployment.values()
    database = deployment.database
    moment = "8" if phase == "delete_rows" else "3"
    run_until_killed(SCRIPT, database.server.url(database.name), deployment.folder, phase, moment, "killed")
    deployment.cleanup("killed" if phase in {"plan", "delete_rows"} else "next").run()
    assert deployment.state() == expected
    assert before - deployment.values() <= deployment.archived()


def test_what_a_killed_task_deleted_is_counted_but_for_the_last_seconds(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delete_rows, "KEPT_EVERY", 0.0)
    deployment.settings = deployment.settings.model_copy(update={"shard_rows": 100})
    deployment.lay_out()
    cleanup = deployment.cleanup("killed")
    for phase in ("plan", "share_out"):
        getattr(cleanup, phase)()
    assert len(cleanup.shards) == 1
    written = ReportPlace.write_part

    def dies_at_the_third(self: ReportPlace, name: str, figures: dict[str, Any]) -> None:
        # From then on nothing is written any more, as after a kill.
        if figures["transactions"] < 2:
            written(self, name, figures)

    with monkeypatch.context() as patch:
        patch.setattr(ReportPlace, "write_part", dies_at_the_third)
        cleanup.delete_rows()
    with pytest.raises(SharesFailed, match="killed"):
        cleanup.finish()
    assert cleanup.report.headline["rows_deleted"] == 2  # of four: those of the first batch


@pytest.mark.parametrize("moment", [3, 4])
@pytest.mark.parametrize("phase", PHASES)
def test_no_crash_of_the_database_in_any_phase_loses_a_value_or_a_count(
    deployment: Deployment, phase: str, moment: int
) -> None:
    """What a task does not get over by itself, Airflow tries again."""
    deployment.lay_out()
    deployment.cleanup("whole").run()
    expected = deployment.state()
    deployment.lay_out()
    deployment.history.connection.execute("CHECKPOINT")  # the server of the tests commits without flushing its log
    before = deployment.values()
    run = deployment.cleanup(f"crash_{phase}_{moment}")

    def crash() -> None:
        deployment.database.server.restart(crash=True)

    for name in PHASES:
        if name != phase:
            getattr(run, name)()
            continue
        with interrupted_at(moment, CALLS, crash) as moments:
            try:
                getattr(run, name)()
            except StoreUnavailable:
                getattr(run, name)()
            assert moments() >= moment
    deployment.history.connection.close()
    with deployment.database.connect(autocommit=True) as connection:
        deployment.history.connection = connection
        assert deployment.state() == expected
        assert before - deployment.values() <= deployment.archived()
    assert run.report.status == "enforced"
    assert run.report.headline["rows_deleted"] == len(before) - len(expected[0])  # type: ignore[arg-type]
