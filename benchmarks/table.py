"""A large ``xcom`` table to measure on: a million rows, most of them old, made by SQL in the database itself."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import psycopg

#: A run has four tasks, each of which pushes five keys.
TASKS, KEYS = 4, 5
ROWS_PER_RUN = TASKS * KEYS


@dataclass(frozen=True)
class Shape:
    """How the table looks: ``rows`` in all, of which ``old_share`` were pushed 30 days ago and earlier."""

    rows: int = 1_000_000
    old_share: float = 0.7
    dags: int = 100


def fill(connection: psycopg.Connection[Any], shape: Shape) -> None:
    """Fill a migrated, empty metadata database. Values are 1 to 2 KB of text that hardly compresses, 2% are 20 KB."""
    chance = random.Random(20260101)
    samples = [
        (chance.randbytes(10_000 if number % 50 == 0 else chance.randint(600, 950)).hex(),) for number in range(1_000)
    ]
    runs = shape.rows // ROWS_PER_RUN
    old = int(runs * shape.old_share)
    connection.execute("CREATE TEMP TABLE sample (id serial, value jsonb)")
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO sample (value) VALUES (to_jsonb(%s::text))", samples)
    connection.execute("INSERT INTO dag_bundle (name) VALUES ('benchmark')")
    connection.execute(
        """INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, timetable_type, partition_mapper_info,
                            max_active_tasks, max_consecutive_failed_dag_runs, has_task_concurrency_limits)
           SELECT 'dag_' || n, false, false, 'benchmark', 'none', '{}', 16, 0, false
           FROM generate_series(0, %s - 1) n""",
        (shape.dags,),
    )
    # Old runs first, as they were made first: an hour apart, ending 30 days ago; the young ones end now.
    connection.execute(
        """INSERT INTO dag_run (dag_id, run_id, run_type, state, run_after, logical_date, created_at)
           SELECT 'dag_' || n %% %(dags)s, 'scheduled__' || n, 'scheduled', 'success', t, t, t
           FROM (SELECT n, CASE WHEN n < %(old)s THEN now() - interval '30 days' - (%(old)s - n) * interval '1 minute'
                                ELSE now() - (%(runs)s - n) * interval '1 second' * 7 END AS t
                 FROM generate_series(0, %(runs)s - 1) n) runs ORDER BY n""",
        {"dags": shape.dags, "old": old, "runs": runs},
    )
    connection.execute(
        """INSERT INTO task_instance (id, task_id, dag_id, run_id, state, try_number, pool, pool_slots)
           SELECT gen_random_uuid(), 'task_' || t, dag_id, run_id, 'success', 1, 'default_pool', 1
           FROM dag_run, generate_series(1, %s) t""",
        (TASKS,),
    )
    connection.execute(
        """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, key, value, timestamp)
           SELECT r.id, r.dag_id, r.run_id, 'task_' || t, 'key_' || k, s.value, r.run_after
           FROM dag_run r, generate_series(1, %(tasks)s) t, generate_series(1, %(keys)s) k, sample s
           WHERE s.id = 1 + (r.id * 7919 + t * 31 + k) %% 1000 ORDER BY r.id""",
        {"tasks": TASKS, "keys": KEYS},
    )
    connection.execute("DROP TABLE sample")
    connection.execute("VACUUM (ANALYZE) xcom, dag_run, task_instance")
