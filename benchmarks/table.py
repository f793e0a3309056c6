"""A large ``xcom`` table to measure on: a million rows, most of them old, made by SQL in the database itself."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import psycopg

#: A run has twenty tasks, each of which pushes its return value and one more key.
TASKS, KEYS = 20, 2
ROWS_PER_RUN = TASKS * KEYS
#: Different values; a prime, so that each task pushes values of every size.
SAMPLES = 1_009


@dataclass(frozen=True)
class Shape:
    """How the table looks: ``rows`` in all, of which ``old_share`` were pushed 30 days ago and earlier."""

    rows: int = 1_000_000
    old_share: float = 0.7
    dags: int = 100


def _value(number: int) -> dict[str, object]:
    """The same value for the same number: records of a query, about half of which compresses away."""
    chance = random.Random(20260101 + number)
    share = number % 100
    lowest, highest = (30, 300) if share < 35 else (300, 1_900) if share < 95 else (4_000, 20_000)
    if share == 99:
        lowest, highest = 50_000, 300_000
    size = chance.randint(lowest, highest)
    value: dict[str, object] = {"status": "ok"}
    records: list[dict[str, object]] = []
    while (missing := size - len(json.dumps(value))) > 0:
        value["records"] = records
        records += [
            {"id": chance.randrange(10**9), "name": chance.randbytes(8).hex(), "amount": chance.random()}
            for _ in range(max(1, missing // 80))
        ]
    return value


def fill(connection: psycopg.Connection[Any], shape: Shape) -> None:
    """Fill a migrated, empty metadata database.

    The values are JSON objects, and their sizes those of a team that returns what it has at hand: 35% are below 300
    bytes, 60% between 300 and 1,900, 4% between 4 and 20 KB, and 1% between 50 and 300 KB, which is most of the bytes.
    """
    samples = [(json.dumps(_value(number)),) for number in range(SAMPLES)]
    runs = shape.rows // ROWS_PER_RUN
    old = int(runs * shape.old_share)
    connection.execute("CREATE TEMP TABLE sample (id serial, value jsonb)")
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO sample (value) VALUES (%s::jsonb)", samples)
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
        f"""INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, key, value, timestamp)
           SELECT r.id, r.dag_id, r.run_id, 'task_' || t, 'key_' || k, s.value, r.run_after
           FROM dag_run r, generate_series(1, %(tasks)s) t, generate_series(1, %(keys)s) k, sample s
           WHERE s.id = 1 + (r.id * 7919 + t * 31 + k) %% {SAMPLES} ORDER BY r.id""",
        {"tasks": TASKS, "keys": KEYS},
    )
    connection.execute("DROP TABLE sample")
    connection.execute("VACUUM (ANALYZE) xcom, dag_run, task_instance")
