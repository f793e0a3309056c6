"""Random histories, small and nasty, for hypothesis; and how they are written into a real metadata database."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import strategies as st

from tests.support.history import has_column, insert_dag

FINISHED_RUN = {"success", "failed"}
FINISHED_TASK = {"success", "failed", "skipped", "upstream_failed", "removed"}
DAGS = ("a1", "a2", "b1", "c")
TASKS = ("load", "train_x", "Load")
KEYS = ("return_value", "k", "metrics")
TAGS = ("ml", "etl", "m")

#: Half days, and never quite one of them: no row lies on a cutoff.
_days = st.integers(0, 60).map(lambda halves: halves / 2 + 0.1)


@dataclass(frozen=True)
class Row:
    task_id: str
    map_index: int
    key: str
    age_days: float
    value: Any = 1


@dataclass(frozen=True)
class WorldRun:
    dag_id: str
    #: From 1; later ones were written later.
    dag_run_id: int
    state: str | None
    #: When it was due; a backfill was due long before it was made.
    due_days: float
    #: Unknown to Airflow 3.1, whatever is given here.
    created_days: float | None
    logical: bool
    #: Task and map index -> state.
    tasks: dict[tuple[str, int], str | None]
    rows: tuple[Row, ...]

    @property
    def run_id(self) -> str:
        return f"run_{self.dag_run_id}"

    def group(self, row: Row) -> tuple[Row, ...]:
        """The rows that go together with this one or not at all: those of all instances of a mapped task."""
        if row.map_index < 0:
            return (row,)
        return tuple(
            other
            for other in self.rows
            if (other.task_id, other.key) == (row.task_id, row.key) and other.map_index >= 0
        )

    @property
    def state_is_final(self) -> bool:
        return self.state in FINISHED_RUN

    @property
    def finished(self) -> bool:
        return self.state_is_final and all(state in FINISHED_TASK for state in self.tasks.values())


@dataclass(frozen=True)
class World:
    runs: tuple[WorldRun, ...]
    tags: dict[str, frozenset[str]] = field(default_factory=dict)
    #: When the next scheduled run of a DAG is due, in days from now.
    next_run: dict[str, float] = field(default_factory=dict)
    deleted_dags: frozenset[str] = frozenset()

    def rows(self) -> set[tuple[int, str, int, str]]:
        """Every row, as (dag_run_id, task_id, map_index, key)."""
        return {(run.dag_run_id, row.task_id, row.map_index, row.key) for run in self.runs for row in run.rows}


@st.composite
def _runs(draw: st.DrawFn, dag_run_id: int) -> WorldRun:
    created = draw(st.one_of(st.none(), _days, _days))
    due = draw(_days) if created is None or draw(st.integers(0, 3)) == 0 else created
    places = draw(
        st.lists(
            st.tuples(st.sampled_from(TASKS), st.sampled_from((-1, 0, 1)), st.sampled_from(KEYS)),
            max_size=4,
            unique=True,
        )
    )
    oldest = 30.1 if created is None else created
    rows = tuple(Row(*place, max(0.01, oldest - draw(st.sampled_from((0, 0, 0.5, 3, 10))))) for place in places)
    final = st.sampled_from(sorted(FINISHED_TASK))
    any_state = st.sampled_from([None, "queued", "running", "up_for_retry", "restarting", "deferred", "zzz", ""])
    calm = draw(st.integers(0, 3)) > 0
    states = final if calm else st.one_of(final, any_state)
    tasks = {(task_id, map_index): draw(states) for task_id, map_index, _ in places} or {("load", -1): draw(states)}
    state = draw(st.sampled_from(["success", "success", "success", "failed", "running", "queued"]))
    return WorldRun(
        draw(st.sampled_from(DAGS)), dag_run_id, state, due, created, draw(st.booleans()), tasks, rows
    )  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn, max_runs: int = 12) -> World:
    count = draw(st.integers(1, max_runs))
    return World(
        tuple(draw(_runs(number)) for number in range(1, count + 1)),
        draw(st.dictionaries(st.sampled_from(DAGS), st.frozensets(st.sampled_from(TAGS), min_size=1), max_size=3)),
        draw(st.dictionaries(st.sampled_from(DAGS), _days.map(lambda days: days - 5), max_size=2)),
        draw(st.frozensets(st.sampled_from(DAGS), max_size=1)),
    )


def write(connection: psycopg.Connection[Any], world: World) -> datetime:
    """Put a world in the place of what there is; returns the moment from which its ages count."""
    now = datetime.now(UTC)

    def ago(days: float | None) -> datetime | None:
        return None if days is None else now - timedelta(days=days)

    with connection.transaction(), connection.cursor() as cursor:
        for table in ("xcom", "task_instance", "dag_run", "dag_tag", "dag"):
            cursor.execute(f"DELETE FROM {table}")
        for dag_id in DAGS:
            if dag_id not in world.deleted_dags:
                insert_dag(connection, dag_id, next_dagrun=ago(world.next_run.get(dag_id)))
        cursor.executemany(
            "INSERT INTO dag_tag (dag_id, name) VALUES (%s, %s)",
            [(dag, tag) for dag, tags in world.tags.items() if dag not in world.deleted_dags for tag in tags],
        )
        cursor.executemany(
            """INSERT INTO dag_run (id, dag_id, run_id, run_type, state, run_after, logical_date)
               VALUES (%s, %s, %s, 'manual', %s, %s, %s)""",
            [
                (run.dag_run_id, run.dag_id, run.run_id, run.state, ago(run.due_days), logical_date(run, now))
                for run in world.runs
            ],
        )
        if has_column(connection, "dag_run", "created_at"):
            cursor.executemany(
                "UPDATE dag_run SET created_at = %s WHERE id = %s",
                [(ago(run.created_days), run.dag_run_id) for run in world.runs],
            )
        cursor.executemany(
            """INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, state, try_number, pool, pool_slots)
               VALUES (%s, %s, %s, %s, %s, %s, 1, 'default_pool', 1)""",
            [
                (uuid.uuid4(), task_id, run.dag_id, run.run_id, map_index, state)
                for run in world.runs
                for (task_id, map_index), state in run.tasks.items()
            ],
        )
        cursor.executemany(
            """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
               VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb, %s)""",
            [
                (run.dag_run_id, run.dag_id, run.run_id, row.task_id, row.map_index, row.key, json.dumps(row.value),
                 ago(row.age_days))
                for run in world.runs
                for row in run.rows
            ],
        )  # fmt: skip
    return now


def logical_date(run: WorldRun, now: datetime) -> datetime | None:
    """Unique in a DAG, as Airflow wants it."""
    return now - timedelta(days=run.due_days, seconds=run.dag_run_id) if run.logical else None


def rows_left(connection: psycopg.Connection[Any]) -> set[tuple[int, str, int, str]]:
    """Every row that is there, as ``World.rows`` names them."""
    return set(connection.execute("SELECT dag_run_id, task_id, map_index, key FROM xcom").fetchall())


def latest_values(world: World, now: datetime) -> set[tuple[int, str, int, str]]:
    """What a pull of prior dates would take, for any caller that there is or will be."""
    found = set()
    for dag_id in DAGS:
        runs = [run for run in world.runs if run.dag_id == dag_id]
        dates = {run.dag_run_id: logical_date(run, now) or now - timedelta(days=run.due_days) for run in runs}
        callers = [now + timedelta(days=36_500)] + [dates[run.dag_run_id] for run in runs if not run.finished]
        if dag_id in world.next_run and dag_id not in world.deleted_dags:
            callers.append(now - timedelta(days=world.next_run[dag_id]))
        for caller in callers:
            best: dict[tuple[object, ...], tuple[datetime, float, int]] = {}
            for run in runs:
                if not run.finished or dates[run.dag_run_id] > caller:
                    continue
                for row in run.rows:
                    key = (row.task_id, row.map_index, row.key, run.logical)
                    # Without a logical date only the push counts.
                    order = dates[run.dag_run_id] if run.logical else now
                    rank = (order, -row.age_days, run.dag_run_id)
                    best[key] = max(best.get(key, rank), rank)
            found |= {(rank[2], *key[:3]) for key, rank in best.items()}
    return found  # type: ignore[return-value]
