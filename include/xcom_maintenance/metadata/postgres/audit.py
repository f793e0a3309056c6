"""The statements of the size audit. They only read, take no lock but a reader's, and run on a replica."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.sizes import CUTS, NULL_CLASS
from include.xcom_maintenance.core.table_figures import (
    ArchiveTable,
    Entry,
    GroupKind,
    LogicalGroup,
    LogicalSizes,
    SizeGroup,
    TableHealth,
)
from include.xcom_maintenance.metadata.postgres.rows import ADDRESS, ARCHIVE_TABLES
from include.xcom_maintenance.metadata.postgres.session import Session

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

#: The bloat of the heap is what it takes beyond its rows as the statistics of the columns describe them: a tuple has a
#: header of 24 bytes and a pointer of 4 and is aligned to 8, and a page has a header of 24. That of TOAST is what it
#: takes beyond four chunks a page, which is how many full ones a page holds; there may be more, since the last chunk of
#: a value is shorter. Statistics of rows are written where rows are, so a replica has none.
_HEALTH = """
WITH table_ AS (
    SELECT c.oid, c.relname, c.relnamespace, c.reltuples, c.relfrozenxid, nullif(c.reltoastrelid, 0) AS toast,
           t.reltuples AS chunks, t.relfrozenxid AS toast_frozen,
           coalesce((SELECT option_value::float FROM pg_options_to_table(c.reloptions)
                     WHERE option_name = 'fillfactor'), 100) / 100 AS fill,
           pg_relation_size(c.oid) AS heap_bytes,
           coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0) AS toast_heap_bytes,
           current_setting('block_size')::int AS page
    FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.oid = to_regclass('xcom')
),
width AS (
    SELECT CASE WHEN count(s.avg_width) = count(*) THEN sum(s.avg_width * (1 - s.null_frac)) END AS bytes
    FROM table_ c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_stats s ON s.schemaname = c.relnamespace::regnamespace::name AND s.tablename = c.relname
        AND s.attname = a.attname AND NOT s.inherited
)
SELECT c.heap_bytes, coalesce(pg_total_relation_size(c.toast), 0), pg_indexes_size(c.oid),
       pg_total_relation_size(c.oid), pg_database_size(current_database()),
       CASE WHEN NOT pg_is_in_recovery() AND s.n_live_tup > 0 THEN s.n_live_tup
            WHEN c.reltuples >= 0 THEN c.reltuples::bigint END,
       CASE WHEN NOT pg_is_in_recovery() THEN s.n_dead_tup END,
       greatest(s.last_vacuum, s.last_autovacuum), greatest(s.last_analyze, s.last_autoanalyze), pg_is_in_recovery(),
       greatest(age(c.relfrozenxid), age(c.toast_frozen)), current_setting('autovacuum_freeze_max_age')::int,
       (SELECT CASE WHEN hit + missed >= 1000 THEN (hit / (hit + missed))::float END FROM (
            SELECT coalesce(heap_blks_hit, 0) + coalesce(toast_blks_hit, 0) + coalesce(idx_blks_hit, 0)
                       + coalesce(tidx_blks_hit, 0)::numeric AS hit,
                   coalesce(heap_blks_read, 0) + coalesce(toast_blks_read, 0) + coalesce(idx_blks_read, 0)
                       + coalesce(tidx_blks_read, 0)::numeric AS missed
            FROM pg_statio_all_tables io WHERE io.relid = c.oid) pages),
       CASE WHEN c.reltuples >= 0 AND width.bytes IS NOT NULL
            THEN greatest(0, c.heap_bytes - c.reltuples * (4 + 8 * ceil((24 + width.bytes) / 8))
                             * c.page / (c.page - 24) / c.fill)::bigint END,
       CASE WHEN c.chunks >= 0 THEN greatest(0, c.toast_heap_bytes - ceil(c.chunks / 4) * c.page)::bigint END,
       (SELECT sum(numbackends)::int FROM pg_stat_database), current_setting('max_connections')::int
FROM table_ c CROSS JOIN width LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid"""

_ROWS_OF = """
SELECT quote_ident(c.relname), CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END
FROM pg_class c WHERE c.oid IN (SELECT to_regclass(name) FROM unnest(%(names)s::text[]) AS name)"""

#: A column of a later version may be missing in an older one.
_DAGS = "SELECT d.dag_id, coalesce((to_jsonb(d) ->> 'is_stale')::boolean, false) FROM dag d"

#: Values that are as a whole a path below the base path, sorted. Only short values can be one, so no large value is
#: read: CASE keeps the order of the tests.
WHOLE_REFERENCES = f"""
SELECT dag_id, run_id, task_id, map_index, key, {_moment("timestamp")}, size, address
FROM (
    SELECT x.*, pg_column_size(x.value) AS size, CASE WHEN pg_column_size(x.value) <= 1500 THEN {ADDRESS} END AS address
    FROM xcom x
) found
WHERE position(%(marker)s IN address) > 0
ORDER BY substr(address, position(%(marker)s IN address)) COLLATE "C"
"""


class AuditQueries:
    """What the audit asks, over a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def sizes(self, top: int, *, since: datetime, wanted: Sequence[tuple[str, str, str]]) -> Iterator[SizeGroup]:
        parameters = {"top": top, **_window(since), **_keys(wanted)}
        for kind, *rest in self._session.rows(_SIZES, parameters):
            yield SizeGroup(GroupKind(kind), *rest)

    def logical_sizes(
        self,
        share: float,
        *,
        since: datetime,
        seconds: float,
        tasks: Sequence[tuple[str, str]],
        keys: Sequence[tuple[str, str, str]],
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

    def logical_bytes(self, entry: Entry, *, seconds: float) -> int | None:
        place = {
            "dag_id": entry.dag_id,
            "task_id": entry.task_id,
            "run_id": entry.run_id,
            "map_index": entry.map_index,
            "key": entry.key,
        }
        try:
            found = self._in_time(_LENGTH, place, seconds)
        except MaintenanceError:
            # Its text may have more bytes than Postgres can make of it at all.
            return None
        return found[0][0] if found else None

    def table_health(self) -> TableHealth:
        [health] = self._session.rows(_HEALTH)
        sizes = {name: int(size) for name, _, size in self._session.rows(ARCHIVE_TABLES, {})}
        rows = dict(self._session.rows(_ROWS_OF, {"names": list(sizes)})) if sizes else {}
        archives = [ArchiveTable(name, size, rows.get(name)) for name, size in sizes.items()]
        return replace(TableHealth(*health), archive_tables=archives)

    def dags(self) -> dict[str, bool]:
        return dict(self._session.rows(_DAGS))

    def _in_time(self, statement: str, parameters: dict[str, Any], seconds: float) -> list[Any]:
        """The rows of a statement that may take so long; tried once, for it is not worth a second time."""
        with self._session.transaction() as cursor:
            cursor.execute(
                "SELECT set_config('statement_timeout', %(limit)s, true)", {"limit": f"{max(1, int(seconds * 1000))}ms"}
            )
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())


def _window(since: datetime) -> dict[str, datetime]:
    """A row may have been pushed by a clock that is ahead, but days are small numbers."""
    return {"since": since, "until": datetime.now(UTC) + timedelta(days=1)}


def _keys(names: Sequence[tuple[str, str, str]]) -> dict[str, list[str]]:
    return {
        "dag_ids": [name[0] for name in names],
        "task_ids": [name[1] for name in names],
        "keys": [name[2] for name in names],
    }
