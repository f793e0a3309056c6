"""Cleanups beside writers that push, re-push, clear and delete as fast as they can: nothing live is lost."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from include.xcom_maintenance.bundle.settings import Settings
from tests.conftest import Database
from tests.support.cleanups import Cleanup
from tests.support.history import History, SeededRun, days_ago

pytestmark = pytest.mark.slow

SECONDS = 6.0
#: What a statement may take beside the wait for a batch, on a machine with other work.
TOLERANCE = 2.0
OLD_RUNS = 120


class Writer(threading.Thread):
    """Does one thing again and again on a connection of its own, and remembers the slowest."""

    def __init__(self, database: Database, what: Callable[[psycopg.Connection[Any], random.Random], None]) -> None:
        super().__init__()
        self._database, self._what = database, what
        self.stop = threading.Event()
        self.slowest = 0.0
        self.times = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        chance = random.Random(self._what.__name__)
        try:
            with self._database.connect(autocommit=True) as connection:
                while not self.stop.is_set():
                    started = time.monotonic()
                    self._what(connection, chance)
                    self.slowest = max(self.slowest, time.monotonic() - started)
                    self.times += 1
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error


class Airflow:
    """What the writers have committed and the cleanup must not take."""

    def __init__(self, history: History) -> None:
        self.live = [history.run("busy", 0.01 * n, state="running", task_state="running") for n in range(4)]
        #: Old, finished and full of rows: what the cleanup is after.
        self.old = [history.run("busy", 30 + n) for n in range(OLD_RUNS)]
        for run in self.old:
            for map_index in range(5):
                history.xcom(run, "old", age_days=30, map_index=map_index)
        #: The last committed value of each row of the live runs.
        self.pushed: dict[tuple[str, str], str] = {}
        #: Old runs that were cleared, and the rows that each had when its clear was committed.
        self.cleared: dict[int, int] = {}

    def push(self, connection: psycopg.Connection[Any], chance: random.Random) -> None:
        """Push to a running run, as the API server does: an earlier value of the same key is replaced."""
        run, value = chance.choice(self.live), uuid.uuid4().hex
        key = f"{threading.current_thread().name}_{chance.randrange(200)}"
        connection.execute(
            """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
               VALUES (%s, %s, %s, 't', -1, %s, %s::jsonb, now())
               ON CONFLICT (dag_run_id, task_id, map_index, key)
               DO UPDATE SET value = EXCLUDED.value, timestamp = EXCLUDED.timestamp""",
            (run.dag_run_id, run.dag_id, run.run_id, key, json.dumps(value)),
        )
        self.pushed[run.run_id, key] = value

    def clear(self, connection: psycopg.Connection[Any], chance: random.Random) -> None:
        """Clear an old run, as the UI does; what it has then is its tasks' to pull."""
        run: SeededRun = chance.choice(self.old)
        if run.dag_run_id in self.cleared:
            time.sleep(0.001)
            return
        with connection.transaction():
            connection.execute(
                "UPDATE task_instance SET state = NULL WHERE dag_id = %s AND run_id = %s", (run.dag_id, run.run_id)
            )
            connection.execute("UPDATE dag_run SET state = 'queued' WHERE id = %s", (run.dag_run_id,))
        # Counted after the commit: a batch that was under way has ended by then, since the clear waits for its lock.
        found = connection.execute("SELECT count(*) FROM xcom WHERE dag_run_id = %s", (run.dag_run_id,)).fetchone()
        assert found is not None
        self.cleared[run.dag_run_id] = found[0]
        time.sleep(0.05)


def test_no_live_value_is_lost_and_no_writer_waits_longer_than_a_batch(
    database: Database, history: History, tmp_path: Path
) -> None:
    airflow = Airflow(history)
    writers = [Writer(database, airflow.push), Writer(database, airflow.push), Writer(database, airflow.clear)]
    for writer in writers:
        writer.start()
    settings = Settings(mode="enforce", batch_rows=20, shard_rows=200, min_runs=0, max_runs=1, max_lock_waits=None)
    deadline, longest, deleted = time.monotonic() + SECONDS, 0.0, 0
    try:
        while time.monotonic() < deadline:
            report = Cleanup(database.store, tmp_path, settings).run()
            longest = max(longest, report.headline["longest_transaction_seconds"])
            deleted += report.headline["rows_deleted"]
            for run in random.sample(airflow.old, 10):  # so that there is always something to do
                history.connection.execute(
                    """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
                       SELECT %s, %s, %s, 't', n, 'return_value', '1'::jsonb, %s FROM generate_series(0, 4) n
                       ON CONFLICT DO NOTHING""",
                    (run.dag_run_id, run.dag_id, run.run_id, days_ago(30)),
                )
    finally:
        for writer in writers:
            writer.stop.set()
        for writer in writers:
            writer.join()
    assert [writer.error for writer in writers] == [None] * len(writers)
    assert deleted > OLD_RUNS
    assert all(writer.times > 10 for writer in writers)
    left = history.connection.execute("SELECT run_id, key, value #>> '{}' FROM xcom WHERE dag_run_id = ANY(%s)",
                                      ([run.dag_run_id for run in airflow.live],)).fetchall()  # fmt: skip
    assert {(run_id, key): value for run_id, key, value in left} == airflow.pushed
    for dag_run_id, rows in airflow.cleared.items():
        found = history.connection.execute("SELECT count(*) FROM xcom WHERE dag_run_id = %s", (dag_run_id,)).fetchone()
        assert found is not None
        assert found[0] >= rows, "rows of a cleared run went after its clear was committed"
    assert max(writer.slowest for writer in writers) < longest + TOLERANCE
