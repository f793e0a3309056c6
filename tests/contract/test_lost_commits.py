"""A connection that is lost in the middle of a commit: no row is counted twice, none is left out, none is lost."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import psycopg
import pytest

from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.core.runs import Cut, Doomed
from include.xcom_maintenance.reports.archive import Archives
from tests.conftest import Database
from tests.support.archive import archive_rows
from tests.support.cleanups import Cleanup
from tests.support.history import History, days_ago

pytestmark = pytest.mark.slow


class Flaky(psycopg.Connection[tuple[object, ...]]):
    """Loses itself around some commits that changed something: before the server has done them, or after."""

    #: For each such commit: lost "before", lost "after", or None.
    fates: ClassVar[list[str | None]] = []

    def commit(self) -> None:
        found = self.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()
        fate = Flaky.fates.pop(0) if found and found[0] is not None and Flaky.fates else None
        if fate == "after":
            super().commit()
        if fate is not None:
            self.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        super().commit()


def flaky(database: Database) -> Flaky:
    return Flaky.connect(database.server.url(database.name))


@pytest.mark.parametrize("fates", [["after"], ["before"], ["before", None, "after"], ["after", "before", "before"]])
def test_no_batch_is_miscounted_when_the_connection_is_lost_in_its_commit(
    database: Database, history: History, tmp_path: Path, fates: list[str | None]
) -> None:
    history.run("a", 1)
    for age in (30, 31, 32):
        history.xcom(history.run("a", age), age_days=age)
    settings = Settings(mode="enforce", batch_rows=1, retry_seconds=20)
    cleanup = Cleanup(lambda: database.store(lambda: flaky(database), retry_seconds=20), tmp_path, settings)
    cleanup.plan()
    cleanup.share_out()
    Flaky.fates = list(fates)
    cleanup.delete_rows()
    assert not Flaky.fates
    cleanup.finish()
    assert cleanup.report.headline["rows_deleted"] == 3
    assert history.rows() == set()


@pytest.mark.parametrize("fate", ["after", "before"])
def test_no_restored_row_is_miscounted_when_the_connection_is_lost_in_its_commit(
    database: Database, history: History, tmp_path: Path, fate: str
) -> None:
    history.xcom(history.run("a", 30), {"value": 1}, age_days=30)
    [file] = Archives(None).find(archive_rows(history, f"file://{tmp_path}/archive"))
    [rows] = file.batches(max_rows=10, max_bytes=10**6)
    history.connection.execute("DELETE FROM xcom")
    with database.store(lambda: flaky(database), retry_seconds=20) as store:
        store.now()  # only a connection that once was is tried again
        Flaky.fates = [fate]
        assert store.restore(rows, archived_at=None) == 1
    assert not Flaky.fates
    assert len(history.rows()) == 1


def test_a_transaction_that_the_server_does_not_know_is_not_taken_for_committed(
    database: Database, history: History
) -> None:
    """As after a crash before anything of it was written down: then its number is still to be given out."""
    run = history.run("a", 30)
    history.xcom(run, age_days=30)
    with database.store() as store:
        [(number,)] = store._session.rows("SELECT (pg_current_xact_id()::text::bigint + 1000)::text")
        assert not store._session._was_committed(number)
        assert store.delete(Doomed((Cut(days_ago(7)),), [run.dag_run_id], [0])).rows == 1


def test_what_an_earlier_attempt_left_does_not_speak_for_a_task_that_was_killed(
    database: Database, history: History, tmp_path: Path
) -> None:
    history.run("a", 1)
    for age in (30, 31):
        history.xcom(history.run("a", age), age_days=age)
    settings = Settings(mode="enforce", batch_rows=1, shard_rows=1)
    first = Cleanup(database.store, tmp_path, settings, run_id="r")
    first.plan()
    first.share_out()
    first.shards = first.shards[1:]  # the first task is killed before it has written anything
    first.delete_rows()
    again = Cleanup(database.store, tmp_path, settings, run_id="r")
    report = again.run()
    assert report.headline["rows_deleted"] == 1
    parts = sorted(path.name for path in (tmp_path / "xcom_cleanup").glob("r.shard-*.figures"))
    assert parts == ["r.shard-1.figures"]
