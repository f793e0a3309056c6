"""The statements of the size audit. They only read, take no lock but a reader's, and run on a replica."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.core.sizes import CUTS, NULL_CLASS
from include.xcom_maintenance.core.table_figures import (
    Entry,
    GroupKind,
    LogicalGroup,
    LogicalSizes,
    SizeGroup,
)
from include.xcom_maintenance.metadata.ports.size_audit import LongRun, StoredValue
from include.xcom_maintenance.metadata.postgres import references as refs
from include.xcom_maintenance.metadata.postgres.base import Connected
from include.xcom_maintenance.metadata.postgres.rows import ADDRESS, IS_SHORT
from include.xcom_maintenance.metadata.postgres.states import STATES

_STORED = "pg_column_size(value)"
#: A value that takes more than this is not read to learn how long its text is; it counts with what is stored of it.
_LARGEST_READ = 16 * 1024 * 1024
#: Below it a share of the pages is no sample: Postgres takes whole pages.
_SMALLEST_SHARE = 0.0001


def _class(size: str) -> str:
    """The class of a size, as ``core.sizes.class_of``: a chain of comparisons, since most values are small."""
    steps = [f"WHEN {size} < {cut} THEN {number}" for number, cut in enumerate(CUTS[1:])]
    return f"CASE {' '.join(steps)} WHEN {size} IS NULL THEN {NULL_CLASS} ELSE {len(CUTS) - 1} END"


def _moment(column: str) -> str:
    """A moment that every driver can read, infinity too; NULL stays NULL."""
    return (
        f"CASE WHEN {column} IS NOT NULL THEN "
        f"least(greatest({column}, '0001-01-02 UTC'::timestamptz), '9999-12-30 UTC'::timestamptz) END"
    )


#: The day of a row, in UTC; all those before the window are one, so that the groups stay few.
_DAY = """CASE WHEN timestamp >= %(since)s
    THEN floor(date_part('epoch', least(timestamp, %(until)s)) / 86400)::int END"""

#: One pass over the table, which Postgres shares out between processes, and nothing is read from TOAST. What it groups
#: is folded again by the server, so that what the client gets is as large as the DAGs and days, whatever the keys.
#: Sums of int and float8, which are exact up to 2^53, are much quicker than those of bigint, which are numeric.
_SIZES = f"""
WITH g AS MATERIALIZED (
    SELECT dag_id, task_id, key, {_class(_STORED)} AS class, {_DAY} AS day, count(*)::int AS n,
           coalesce(sum({_STORED}), 0)::float8 AS stored, max(map_index) + 1 AS fan_out,
           min(timestamp) AS oldest
    FROM xcom GROUP BY 1, 2, 3, 4, 5
),
keys AS MATERIALIZED (
    SELECT dag_id, task_id, key, sum(n) AS n, sum(stored) AS stored, max(fan_out) AS fan_out,
           min(oldest) AS oldest
    FROM g GROUP BY 1, 2, 3
),
tasks AS MATERIALIZED (
    SELECT dag_id, task_id, sum(n) AS n, sum(stored) AS stored, max(fan_out) AS fan_out,
           min(oldest) AS oldest
    FROM keys GROUP BY 1, 2
),
found AS (
    SELECT 'key' AS kind, dag_id, task_id, key, NULL::int AS number, n, stored, fan_out, oldest FROM (
        (SELECT * FROM keys ORDER BY stored DESC, n DESC, dag_id, task_id, key LIMIT %(top)s)
        UNION
        SELECT k.* FROM keys k JOIN unnest(%(dag_ids)s::text[], %(task_ids)s::text[], %(keys)s::text[])
            AS wanted(dag_id, task_id, key) ON wanted.dag_id = k.dag_id AND wanted.task_id = k.task_id
            AND wanted.key = k.key
    ) largest_keys
    UNION ALL
    SELECT 'task', dag_id, task_id, '', NULL, n, stored, fan_out, oldest FROM (
        (SELECT * FROM tasks ORDER BY stored DESC, n DESC, dag_id, task_id LIMIT %(top)s)
        UNION
        SELECT t.* FROM tasks t JOIN unnest(%(dag_ids)s::text[], %(task_ids)s::text[])
            AS wanted(dag_id, task_id) ON wanted.dag_id = t.dag_id AND wanted.task_id = t.task_id
    ) largest_tasks
    UNION ALL
    (SELECT 'mapped', dag_id, task_id, '', NULL, n, stored, fan_out, oldest
     FROM tasks WHERE fan_out > 0 ORDER BY fan_out DESC, n DESC, dag_id, task_id LIMIT %(top)s)
    UNION ALL
    (SELECT 'busy day', dag_id, task_id, '', day, sum(n), sum(stored), max(fan_out), min(oldest)
     FROM g WHERE day IS NOT NULL GROUP BY dag_id, task_id, day
     ORDER BY sum(n) DESC, day DESC, dag_id, task_id LIMIT %(top)s)
    UNION ALL
    SELECT 'day', dag_id, '', '', day, sum(n), sum(stored), max(fan_out), min(oldest)
    FROM g GROUP BY dag_id, day
    UNION ALL
    SELECT 'class', dag_id, '', '', class, sum(n), sum(stored), max(fan_out), min(oldest)
    FROM g GROUP BY dag_id, class
    UNION ALL
    SELECT 'tasks', '', '', '', NULL, count(*), 0, 0, NULL FROM tasks
    UNION ALL
    SELECT 'keys', '', '', '', NULL, count(*), 0, 0, NULL FROM keys
)
SELECT kind, dag_id, task_id, key, number, n::bigint, stored::bigint, coalesce(fan_out, 0),
       {_moment("oldest")}
FROM found"""

#: As long as the value is as JSON text, which is what the threshold of a backend is compared with. OFFSET 0 keeps
#: Postgres from writing the text once for every place where its length is used.
_LOGICAL = f"""
WITH g AS MATERIALIZED (
    SELECT dag_id, task_id, key, {_class("logical")} AS class, day, count(*) AS n,
           coalesce(sum(stored), 0) AS stored, coalesce(sum(logical), 0) AS logical, max(logical) AS largest
    FROM (
        SELECT dag_id, task_id, key, {_DAY} AS day, {_STORED} AS stored,
               CASE WHEN {_STORED} > {_LARGEST_READ} THEN {_STORED} ELSE octet_length(value::text) END AS logical
        FROM xcom {{sample}} OFFSET 0
    ) x
    GROUP BY 1, 2, 3, 4, 5
)
SELECT 'key', dag_id, task_id, key, NULL::int, sum(n)::bigint, sum(stored)::bigint, sum(logical)::bigint, NULL::int
FROM g JOIN unnest(%(dag_ids)s::text[], %(task_ids)s::text[], %(keys)s::text[]) AS wanted(dag_id, task_id, key)
    USING (dag_id, task_id, key) GROUP BY 2, 3, 4
UNION ALL
SELECT 'task', g.dag_id, g.task_id, '', NULL, sum(n)::bigint, sum(stored)::bigint, sum(logical)::bigint, NULL
FROM g WHERE (g.dag_id, g.task_id) IN (SELECT * FROM unnest(%(dags_of_tasks)s::text[], %(tasks)s::text[]))
GROUP BY 2, 3
UNION ALL
SELECT 'day', '', '', '', day, sum(n)::bigint, sum(stored)::bigint, sum(logical)::bigint, NULL
FROM g GROUP BY day
UNION ALL
SELECT 'class', dag_id, '', '', class, sum(n)::bigint, sum(stored)::bigint, sum(logical)::bigint, max(largest)
FROM g GROUP BY dag_id, class"""

_LARGEST = f"""
SELECT dag_id, run_id, task_id, map_index, key, coalesce({_STORED}, 0) AS stored, {_moment("timestamp")}
FROM xcom ORDER BY stored DESC, dag_id, run_id, task_id, map_index, key LIMIT %(limit)s"""

_LENGTH = """
SELECT octet_length(value::text) FROM xcom
WHERE dag_id = %(dag_id)s AND task_id = %(task_id)s AND run_id = %(run_id)s AND map_index = %(map_index)s
  AND key = %(key)s"""


#: The rows of each run by the primary key, which is as much work as those runs hold.
_LONG_RUNS = """
SELECT r.dag_id, r.run_id, coalesce(r.state, ''), coalesce(r.start_date, r.run_after), x.rows, x.size
FROM dag_run r
CROSS JOIN LATERAL (
    SELECT count(*) AS rows, coalesce(sum(pg_column_size(value)), 0)::bigint AS size FROM xcom WHERE dag_run_id = r.id
) x
WHERE (r.state IS NULL OR NOT r.state = ANY(%(run_states)s)) AND coalesce(r.start_date, r.run_after) < %(before)s
ORDER BY x.size DESC, x.rows DESC, 4, r.dag_id, r.run_id"""

#: A column of a later version may be missing in an older one.
_DAGS = "SELECT d.dag_id, coalesce((to_jsonb(d) ->> 'is_stale')::boolean, false) FROM dag d"

#: Values that may as a whole refer to a blob below the base path, sorted by its key. CASE keeps the order of the tests.
WHOLE_REFERENCES = f"""
SELECT dag_id, run_id, task_id, map_index, key, {_moment("timestamp")}, size, value::text
FROM (
    SELECT x.*, pg_column_size(x.value) AS size, CASE WHEN {IS_SHORT} THEN {ADDRESS} END AS address
    FROM xcom x
) found
WHERE position(%(marker)s IN address) > 0
ORDER BY substr(address, position(%(marker)s IN address)) COLLATE "C"
"""


def _window(since: datetime) -> dict[str, datetime]:
    """A row may have been pushed by a clock that is ahead, but days are small numbers."""
    return {"since": since, "until": datetime.now(UTC) + timedelta(days=1)}


def _keys(names: Sequence[tuple[str, str, str]]) -> dict[str, list[str]]:
    return {
        "dag_ids": [name[0] for name in names],
        "task_ids": [name[1] for name in names],
        "keys": [name[2] for name in names],
    }


class AuditQueries(Connected):
    """Sizes of rows and values, and what is kept of one."""

    def sizes(self, top: int, *, since: datetime, wanted: Sequence[tuple[str, str, str]] = ()) -> Iterator[SizeGroup]:
        parameters = {"top": top, **_window(since), **_keys(wanted)}
        for kind, *rest in self._session.rows(_SIZES, parameters):
            yield SizeGroup(GroupKind(kind), *rest)

    def logical_sizes(
        self,
        share: float,
        *,
        since: datetime,
        seconds: float,
        tasks: Sequence[tuple[str, str]] = (),
        keys: Sequence[tuple[str, str, str]] = (),
    ) -> LogicalSizes:
        share = 1.0 if share >= 1 else max(share, _SMALLEST_SHARE)
        parameters = {
            **_window(since),
            **_keys(keys),
            "dags_of_tasks": [dag_id for dag_id, _ in tasks],
            "tasks": [task_id for _, task_id in tasks],
            "percent": share * 100,
        }
        sample = "" if share == 1 else "TABLESAMPLE SYSTEM (%(percent)s)"
        found = self._in_time(_LOGICAL.format(sample=sample), parameters, seconds)
        return LogicalSizes(share, [LogicalGroup(GroupKind(kind), *rest) for kind, *rest in found])

    def largest_entries(self, limit: int) -> list[Entry]:
        return [Entry(*row) for row in self._session.rows(_LARGEST, {"limit": limit})]

    def logical_bytes(self, entries: Sequence[Entry], *, seconds: float) -> list[int | None]:
        deadline = time.monotonic() + seconds
        return [self._length_of(entry, deadline - time.monotonic()) for entry in entries]

    def _length_of(self, entry: Entry, seconds: float) -> int | None:
        if seconds <= 0:
            return None
        place = {name: getattr(entry, name) for name in ("dag_id", "task_id", "run_id", "map_index", "key")}
        try:
            found = self._in_time(_LENGTH, place, seconds)
        except MaintenanceError:
            # Its text may have more bytes than Postgres can make of it at all.
            return None
        return found[0][0] if found else None

    def _in_time(self, statement: str, parameters: dict[str, Any], seconds: float) -> list[Any]:
        """The rows of a statement that may take so long; tried once, for it is not worth a second time."""
        with self._session.transaction() as cursor:
            cursor.execute(
                "SELECT set_config('statement_timeout', %(limit)s, true)", {"limit": f"{max(1, int(seconds * 1000))}ms"}
            )
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())

    def long_runs(self, begun_before: datetime) -> list[LongRun]:
        found = self._session.rows(_LONG_RUNS, {**STATES, "before": begun_before})
        return [LongRun(*row) for row in found]

    def dags(self) -> dict[str, bool]:
        return dict(self._session.rows(_DAGS))

    def whole_references(self, base: BasePath) -> Iterator[RowReference]:
        for *place, size, text in self._session.stream(WHOLE_REFERENCES, {"marker": base.marker}):
            found = refs.held(("xcom", *place), text, stored_bytes=size, base=base, formats=self._formats)
            if found is not None and found.whole:
                yield found

    def stored(self, dag_id: str, run_id: str, task_id: str, map_index: int, key: str) -> StoredValue | None:
        place = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index, "key": key}
        found = self._session.rows(STORED, place)
        return StoredValue(*found[0]) if found else None


#: What is kept of one value, and the value if it is a short text, which may be a reference.
STORED = f"""
SELECT coalesce(pg_column_size(x.value), 0), CASE WHEN pg_column_size(x.value) < 4096 THEN {ADDRESS} END
FROM xcom x WHERE x.dag_id = %(dag_id)s AND x.run_id = %(run_id)s AND x.task_id = %(task_id)s
  AND x.map_index = %(map_index)s AND x.key = %(key)s"""
