"""The ``xcom`` table as a whole: how busy its database is, how large and healthy it is, and VACUUM."""

from __future__ import annotations

from dataclasses import replace

from include.xcom_maintenance.core.table_figures import ArchiveTable, TableHealth
from include.xcom_maintenance.metadata.ports.shared import Pressure
from include.xcom_maintenance.metadata.postgres.base import Connected
from include.xcom_maintenance.metadata.postgres.rows import ARCHIVE_TABLES

#: pg_locks is open to everyone; the lag of a replica is NULL to a role without pg_monitor.
PRESSURE = """
SELECT (SELECT count(*) FROM pg_locks
        WHERE NOT granted AND (database IS NULL OR database = (SELECT oid FROM pg_database
                                                               WHERE datname = current_database()))),
       (SELECT extract(epoch FROM max(replay_lag)) FROM pg_stat_replication)"""


#: The owner may, and from Postgres 17 on whoever has the right MAINTAIN.
MAY_VACUUM = """
SELECT pg_has_role(c.relowner, 'USAGE')
    OR (current_setting('server_version_num')::int >= 170000
        AND coalesce((SELECT bool_or(privilege_type = 'MAINTAIN' AND (grantee = 0 OR pg_has_role(grantee, 'USAGE')))
                      FROM aclexplode(c.relacl)), false))
FROM pg_class c WHERE c.oid = to_regclass('xcom')"""


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


class TableQueries(Connected):
    """The table, and what it shares with others."""

    def pressure(self) -> Pressure:
        [(waits, lag)] = self._session.rows(PRESSURE)
        return Pressure(waits, None if lag is None else float(lag))

    def may_see_replication(self) -> bool:
        return bool(self._session.rows("SELECT pg_has_role('pg_read_all_stats', 'USAGE')")[0][0])

    def may_vacuum(self) -> bool:
        return bool(self._session.rows(MAY_VACUUM)[0][0])

    def vacuum(self) -> None:
        self._session.outside_transactions("VACUUM (ANALYZE) xcom")

    def row_count_estimate(self) -> int:
        [(estimate,)] = self._session.rows("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass('xcom')", {})
        if estimate > 100_000:
            return int(estimate)
        # Never analysed (-1) or small enough to count.
        [(exact,)] = self._session.rows("SELECT count(*) FROM xcom", {})
        return int(exact)

    def table_health(self) -> TableHealth:
        [health] = self._session.rows(_HEALTH)
        sizes = {name: int(size) for name, _, size in self._session.rows(ARCHIVE_TABLES, {})}
        rows = dict(self._session.rows(_ROWS_OF, {"names": list(sizes)})) if sizes else {}
        archives = [ArchiveTable(name, size, rows.get(name)) for name, size in sizes.items()]
        return replace(TableHealth(*health), archive_tables=archives)
