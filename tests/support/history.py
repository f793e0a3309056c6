"""Writes runs and XComs into a real metadata database, with the times and states that a test wants."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from local_stack.postgres import ROLE_FILE

NOW = datetime.now(UTC)


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


@dataclass(frozen=True)
class SeededRun:
    dag_id: str
    run_id: str
    dag_run_id: int


def has_column(connection: psycopg.Connection[Any], table: str, column: str) -> bool:
    """Whether the Airflow that is tested has this column: 3.1 lacks some."""
    found = connection.execute(
        "SELECT FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = %s AND NOT attisdropped",
        (table, column),
    )
    return found.fetchone() is not None


def insert_dag(connection: psycopg.Connection[Any], dag_id: str, *, next_dagrun: datetime | None = None) -> None:
    """A DAG, unless it is there."""
    row: dict[str, object] = {
        "dag_id": dag_id,
        "is_paused": False,
        "is_stale": False,
        "bundle_name": "tests",
        "max_active_tasks": 16,
        "max_consecutive_failed_dag_runs": 0,
        "has_task_concurrency_limits": False,
        "next_dagrun": next_dagrun,
    }
    newer = {"timetable_type": "none", "partition_mapper_info": "{}"}
    row |= {name: value for name, value in newer.items() if has_column(connection, "dag", name)}
    connection.execute(
        f"""INSERT INTO dag ({", ".join(row)}) VALUES ({", ".join(["%s"] * len(row))}) ON CONFLICT DO NOTHING""",
        list(row.values()),
    )


class History:
    """The tables of one Airflow, as far as XComs concern them."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        connection.execute("INSERT INTO dag_bundle (name) VALUES ('tests') ON CONFLICT DO NOTHING")

    def dag(self, dag_id: str) -> None:
        insert_dag(self.connection, dag_id)

    def run(
        self,
        dag_id: str,
        age_days: float,
        *,
        state: str = "success",
        task_state: str | None = "success",
        run_id: str | None = None,
        logical: bool = True,
    ) -> SeededRun:
        """A run that was due ``age_days`` ago, with one task ``t`` in ``task_state``."""
        self.dag(dag_id)
        when = days_ago(age_days)
        run_id = run_id or f"run__{when.isoformat()}"
        found = self.connection.execute(
            """INSERT INTO dag_run (dag_id, run_id, run_type, state, run_after, logical_date)
               VALUES (%s, %s, 'manual', %s, %s, %s) RETURNING id""",
            (dag_id, run_id, state, when, when if logical else None),
        ).fetchone()
        assert found is not None
        run = SeededRun(dag_id, run_id, found[0])
        self.task(run, "t", task_state)
        return run

    def task(self, run: SeededRun, task_id: str, state: str | None = "success", map_index: int = -1) -> None:
        self.connection.execute(
            """INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, state, try_number, pool, pool_slots)
               VALUES (%s, %s, %s, %s, %s, %s, 1, 'default_pool', 1) ON CONFLICT DO NOTHING""",
            (uuid.uuid4(), task_id, run.dag_id, run.run_id, map_index, state),
        )

    def xcom(
        self,
        run: SeededRun,
        value: object = 1,
        *,
        age_days: float,
        key: str = "return_value",
        task_id: str = "t",
        map_index: int = -1,
    ) -> None:
        self.task(run, task_id, map_index=map_index)
        self.connection.execute(
            """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
               VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb, %s)""",
            (run.dag_run_id, run.dag_id, run.run_id, task_id, map_index, key, json.dumps(value), days_ago(age_days)),
        )

    def grant_role(self) -> None:
        """Run the file again that gives the tasks their rights, for tables made since."""
        self.connection.execute(ROLE_FILE.read_bytes())

    def rows(self) -> set[tuple[str, str, str, int, str]]:
        """Every XCom row, as (dag_id, run_id, task_id, map_index, key)."""
        found = self.connection.execute("SELECT dag_id, run_id, task_id, map_index, key FROM xcom")
        return set(found.fetchall())

    def left(self) -> set[tuple[str, str]]:
        """The (dag_id, run_id) that still have rows."""
        return {(dag_id, run_id) for dag_id, run_id, *_ in self.rows()}
