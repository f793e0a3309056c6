"""A cleanup gives way to the other users of the database, ends when its time is up, and shares its work out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.cleanup.share_out import shares
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow import courtesy as courtesies
from include.xcom_maintenance.flow.courtesy import Courtesy
from include.xcom_maintenance.metadata.ports.shared import Pressure
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from tests.conftest import Database
from tests.support.archive import archive_rows
from tests.support.bucket import Bucket
from tests.support.bundle import Bundle
from tests.support.history import History

pytestmark = pytest.mark.slow

CLEANUP, RESTORE = "xcom_cleanup", "xcom_restore"
ENFORCE = {"mode": "enforce"}


@pytest.fixture
def old(history: History, bucket: Bucket) -> list[str]:
    """Three old runs with a blob each, and a young one; returns the references."""
    references = []
    for age in (30, 20, 10):
        run = history.run("a", age)
        references.append(bucket.blob(run, age_days=age))
        history.xcom(run, references[-1], age_days=age)
    history.run("a", 1)
    return references


# -- others come first -----------------------------------------------------------------------------------------------


@contextmanager
def waiters(database: Database, count: int) -> Iterator[Callable[[], None]]:
    """Sessions that wait for a lock on a table of their own; yields what lets them go."""
    with database.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE busy ()")
    holder = database.connect()
    holder.execute("LOCK TABLE busy")

    def wait() -> None:
        with database.connect() as connection:
            connection.execute("LOCK TABLE busy")

    threads = [threading.Thread(target=wait) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        with database.connect(autocommit=True) as looking:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                [(waiting,)] = looking.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchall()
                if waiting >= count:
                    break
                time.sleep(0.05)
        yield holder.rollback
    finally:
        holder.close()
        for thread in threads:
            thread.join()


def test_a_cleanup_waits_while_others_wait_for_locks_and_then_goes_on(
    bundle: Bundle, database: Database, history: History, old: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.variable = {"max_lock_waits": 1}
    looks: list[int] = []
    with waiters(database, 2) as let_go:
        look = PostgresMetadataStore.pressure

        def seen(store: PostgresMetadataStore) -> Pressure:
            found = look(store)
            looks.append(found.lock_waits)
            let_go()
            return found

        monkeypatch.setattr(PostgresMetadataStore, "pressure", seen)
        outcome = bundle.run(CLEANUP, **ENFORCE).succeeded()
    assert history.rows() == set()
    [share] = outcome.table("Rows deleted, by task")
    assert looks == [2, 0]
    assert share["seconds waiting"] == 0.5
    assert (share["rows"], share["rows left"], share["stopped"]) == (3, 0, "")


def test_waiters_within_the_limit_are_not_waited_for(
    bundle: Bundle, database: Database, history: History, old: list[str]
) -> None:
    bundle.variable = {"max_lock_waits": 2}
    with waiters(database, 2):
        outcome = bundle.run(CLEANUP, **ENFORCE).succeeded()
    assert outcome.table("Rows deleted, by task")[0]["seconds waiting"] == 0
    assert history.rows() == set()


def test_a_database_that_stays_busy_is_left_for_the_next_run(
    bundle: Bundle, database: Database, history: History, old: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.variable = {"max_lock_waits": 0}
    monkeypatch.setattr(courtesies, "_PATIENCE", 0.4)
    with waiters(database, 1):
        outcome = bundle.run(CLEANUP, **ENFORCE).succeeded()
    assert len(history.rows()) == outcome.report["headline"]["rows_left"] == 3
    assert any("the database stayed busy: 1 lock wait (" in text for text in outcome.report["warnings"])
    bundle.run(CLEANUP, **ENFORCE).succeeded()
    assert history.rows() == set()


def test_a_restore_gives_way_too_and_says_that_it_is_not_done(
    bundle: Bundle, database: Database, history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.xcom(history.run("a", 30), {"value": 1}, age_days=30)
    archive = archive_rows(history, f"file://{tmp_path}/archive")
    bundle.variable = {"max_lock_waits": 0, "archive_path": f"file://{tmp_path}/archive"}
    monkeypatch.setattr(courtesies, "_PATIENCE", 0.4)
    with waiters(database, 1):
        outcome = bundle.run(RESTORE, mode="enforce", archive=archive)
    assert "the database stayed busy: 1 lock wait (" in outcome.report["error"]["message"]
    assert history.rows() == set()
    bundle.run(RESTORE, mode="enforce", archive=archive).succeeded()
    assert len(history.rows()) == 1


class Busy:
    """A database that is busy for so many looks."""

    def __init__(self, *pressures: Pressure) -> None:
        self.pressures = list(pressures)

    def pressure(self) -> Pressure:
        return self.pressures.pop(0) if self.pressures else Pressure(0, None)


def courteous(*pressures: Pressure, deadline: datetime | None = None, **settings: Any) -> tuple[Courtesy, list[float]]:
    import logging

    slept: list[float] = []
    store = cast("Any", Busy(*pressures))
    made = Courtesy(Settings(**settings), store, logging.getLogger("test"), deadline, sleep=slept.append)
    return made, slept


def test_the_waits_become_longer_and_the_looks_rarer() -> None:
    courtesy, slept = courteous(*[Pressure(11, None)] * 8)
    assert courtesy.go_on()
    assert slept == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert courtesy.waited == sum(slept)
    assert courtesy.go_on()
    assert len(slept) == 8


def test_a_replica_that_lags_is_waited_for_only_if_a_limit_is_set() -> None:
    lags = [Pressure(0, 90.0), Pressure(0, 20.0)]
    courtesy, slept = courteous(*lags, max_replication_lag_seconds=60)
    assert courtesy.go_on()
    assert slept == [0.5]
    courtesy, slept = courteous(*lags)
    assert courtesy.go_on()
    assert slept == []


def test_nobody_is_waited_for_longer_than_there_is_time() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.05)
    courtesy, _ = courteous(*[Pressure(11, None)] * 8, deadline=soon)
    courtesy.sleep = lambda _: time.sleep(0.1)
    assert not courtesy.go_on()
    assert "max_minutes" in courtesy.stopped


def test_a_cleanup_pauses_between_batches(bundle: Bundle, history: History, old: list[str]) -> None:
    bundle.variable = {"batch_rows": 1, "batch_pause_seconds": 0.2}
    outcome = bundle.run(CLEANUP, **ENFORCE).succeeded()
    assert outcome.table("Rows deleted, by task")[0]["seconds"] >= 0.6
    assert history.rows() == set()


# -- when time is up -------------------------------------------------------------------------------------------------


def test_a_cleanup_whose_time_is_up_stops_and_the_next_run_finishes(
    bundle: Bundle, bucket: Bucket, history: History, old: list[str]
) -> None:
    bundle.variable = {"batch_rows": 1, "batch_pause_seconds": 0.5}
    outcome = bundle.run(CLEANUP, max_minutes=0.9 / 60, **ENFORCE).succeeded()
    headline = outcome.report["headline"]
    left = len(history.rows())
    assert 0 < left < 4
    assert headline["rows_left"] == left
    assert headline["rows_deleted"] == 3 - left
    [warning] = [text for text in outcome.report["warnings"] if "left for the next run" in text]
    assert warning.startswith(
        f"{counted(left, 'row')} left for the next run, because the time budget (max_minutes) is used up"
    )
    assert outcome.path(".pending").exists()
    bundle.variable = {}
    finished = bundle.run(CLEANUP, **ENFORCE).succeeded()
    assert finished.report["headline"]["rows_deleted"] == left
    assert history.rows() == set()
    assert not any(bucket.has(reference) for reference in old)
    assert not outcome.path(".pending").exists()


def test_blobs_that_there_was_no_time_for_are_purged_by_the_next_run(
    bundle: Bundle, bucket: Bucket, history: History, old: list[str]
) -> None:
    planned = bundle.task(CLEANUP, "plan", run_id="r", **ENFORCE)
    shards = bundle.task(CLEANUP, "share_out", planned, run_id="r", **ENFORCE)
    for shard in shards:
        bundle.task(CLEANUP, "delete_rows", planned, shard, run_id="r", **ENFORCE)
    late = [{**shard, "deadline": "2026-01-01T00:00:00+00:00"} for shard in shards]
    finished = bundle.task(CLEANUP, "finish", planned, late, run_id="r", **ENFORCE)
    assert (finished["rows_deleted"], finished["blobs_deleted"]) == (3, 0)
    assert all(bucket.has(reference) for reference in old)
    bundle.variable = {"delete_without_conditions": True}
    again = bundle.run(CLEANUP, **ENFORCE).succeeded()
    assert again.report["headline"]["blobs_deleted_for_earlier_runs"] == 3
    assert not any(bucket.has(reference) for reference in old)


# -- VACUUM ----------------------------------------------------------------------------------------------------------


def test_a_role_that_may_not_vacuum_is_told_what_it_needs(bundle: Bundle, old: list[str]) -> None:
    bundle.variable = {"vacuum": True}
    outcome = bundle.run(CLEANUP, **ENFORCE).succeeded()
    assert any("GRANT MAINTAIN ON xcom" in warning for warning in outcome.report["warnings"])
    assert not [table for table in outcome.report["tables"] if table["title"] == "VACUUM"]


def test_the_owner_vacuums_and_the_report_says_what_that_gave_back(
    bundle: Bundle, database: Database, old: list[str]
) -> None:
    server = database.server
    bundle.connections["airflow_metadata_db"] |= {"login": server.user, "password": server.password}
    bundle.variable = {"vacuum": True}
    outcome = bundle.run(CLEANUP, **ENFORCE).succeeded()
    parts = outcome.table("VACUUM")
    assert [row["part of the table"] for row in parts] == ["rows", "large values (TOAST)", "indexes", "total"]
    assert "vacuum" in [phase["name"] for phase in outcome.report["phases"]]
    with database.connect(autocommit=True) as connection:
        found = connection.execute("SELECT pg_stat_get_vacuum_count('xcom'::regclass)").fetchone()
    assert found == (1,)


# -- shares ----------------------------------------------------------------------------------------------------------


@given(
    weights=st.lists(st.tuples(st.integers(1, 10_000), st.integers(0, 10**8)), max_size=60),
    shard_rows=st.integers(1, 100_000),
    shard_bytes=st.integers(1, 10**10),
    max_shards=st.integers(1, 12),
)
def test_shares_are_about_equal_none_is_empty_and_together_they_are_the_plan(
    weights: list[tuple[int, int]], shard_rows: int, shard_bytes: int, max_shards: int
) -> None:
    shards = shares(weights, shard_rows=shard_rows, shard_bytes=shard_bytes, max_shards=max_shards)
    batches = [position for first, last in shards for position in range(first, last + 1)]
    assert batches == list(range(len(weights)))
    assert all(first <= last for first, last in shards)
    rows, size = sum(w[0] for w in weights), sum(w[1] for w in weights)
    wanted = min(max(1, round(max(rows / shard_rows, size / shard_bytes))), max_shards)
    assert len(shards) <= wanted
    work = [(r / rows + (b / size if size else r / rows)) / 2 for r, b in weights]
    for first, last in shards:
        # A batch is one transaction, so it cannot be divided between two.
        assert sum(work[first : last + 1]) <= 1 / min(wanted, len(weights)) + max(work) + 1e-6


def test_equal_batches_are_shared_out_equally() -> None:
    batches = [(10, 100)] * 12
    thirds, quarters = [(0, 3), (4, 7), (8, 11)], [(0, 2), (3, 5), (6, 8), (9, 11)]
    assert shares(batches, shard_rows=30, shard_bytes=10**9, max_shards=8) == quarters
    assert shares(batches, shard_rows=30, shard_bytes=10**9, max_shards=3) == thirds
    assert shares([], shard_rows=30, shard_bytes=10**9, max_shards=3) == []


def test_few_large_rows_are_shared_out_as_many_small_ones_are() -> None:
    assert len(shares([(1, 10**9)] * 40, shard_rows=300_000, shard_bytes=10**10, max_shards=8)) == 4


def test_every_share_becomes_a_task_and_the_report_adds_them_up(
    bundle: Bundle, history: History, old: list[str]
) -> None:
    bundle.variable = {"batch_rows": 1, "shard_rows": 1, "max_shards": 2}
    outcome = bundle.run(CLEANUP, **ENFORCE).succeeded()
    shares = outcome.table("Rows deleted, by task")
    assert [share["task"] for share in shares] == [1, 2]
    assert sum(share["rows"] for share in shares) == outcome.report["headline"]["rows_deleted"] == 3
    assert sum(share["transactions"] for share in shares) == outcome.report["headline"]["transactions"] == 3
