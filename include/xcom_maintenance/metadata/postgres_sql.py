"""The statements of the Postgres adapter: policy as text that a database administrator can read."""

from __future__ import annotations

#: A run that may still pull: {run} is an alias of dag_run.
UNFINISHED = """({run}.state IS NULL OR NOT {run}.state = ANY(%(run_states)s) OR EXISTS (
        SELECT FROM task_instance t
        WHERE t.dag_id = {run}.dag_id AND t.run_id = {run}.run_id
          AND (t.state IS NULL OR NOT t.state = ANY(%(task_states)s))))"""

UNFINISHED_RUNS = f"""
SELECT r.dag_id, r.run_id
FROM unnest(%(dag_ids)s::text[], %(run_ids)s::text[]) AS c(dag_id, run_id)
JOIN dag_run r ON r.dag_id = c.dag_id AND r.run_id = c.run_id
WHERE {UNFINISHED.format(run="r")}"""

#: Which of some rows are there.
EXISTING_ROWS = """
SELECT c.number
FROM unnest(%(dag_ids)s::text[], %(task_ids)s::text[], %(run_ids)s::text[], %(map_indexes)s::int[], %(keys)s::text[])
     WITH ORDINALITY AS c(dag_id, task_id, run_id, map_index, key, number)
WHERE EXISTS (SELECT FROM xcom x
              WHERE x.dag_id = c.dag_id AND x.task_id = c.task_id AND x.run_id = c.run_id
                AND x.map_index = c.map_index AND x.key = c.key)"""

#: Tables that hold XCom rows aside: what `airflow db clean` archives, and what migrations moved out of the way.
ARCHIVE_TABLES = r"""
SELECT quote_ident(c.relname), jsonb_object_agg(a.attname, format_type(a.atttypid, NULL)),
       pg_total_relation_size(c.oid)
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p')
  AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('xcom'))
  AND (c.relname LIKE '\_airflow\_deleted\_\_xcom\_\_%%' OR c.relname LIKE '\_airflow\_moved\_\_%%xcom%%'
       OR c.relname = '_xcom_archive')
GROUP BY c.oid, c.relname
HAVING bool_or(a.attname = 'value')
ORDER BY c.relname"""

GROUP_SIZES = """
SELECT dag_id, task_id, key, count(*), sum(stored), min(timestamp), max(timestamp), {bands}
FROM (
    SELECT dag_id, task_id, key, timestamp, coalesce(pg_column_size(value), 0) AS stored, {logical} AS logical
    FROM xcom
) x
GROUP BY dag_id, task_id, key"""

#: Only what is compressed has to be read in full to know how long it is as text.
LOGICAL_SIZE = """CASE WHEN value IS NULL THEN 0
    WHEN pg_column_compression(value) IS NULL THEN pg_column_size(value)
    ELSE octet_length(value::text) END"""

LARGEST = """
SELECT dag_id, run_id, task_id, map_index, key, coalesce(pg_column_size(value), 0) AS stored, timestamp
FROM xcom ORDER BY stored DESC, dag_id, run_id, task_id, map_index, key LIMIT %(limit)s"""

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

HEALTH = """
SELECT pg_relation_size(c.oid), coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0),
       pg_indexes_size(c.oid), pg_total_relation_size(c.oid),
       coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0),
       greatest(s.last_vacuum, s.last_autovacuum), greatest(s.last_analyze, s.last_autoanalyze),
       pg_database_size(current_database())
FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.oid = to_regclass('xcom')"""

#: What the bundle reads and writes; a database without it is not one that this code was written for.
REQUIRED_COLUMNS = {
    "xcom": {
        "dag_run_id": "integer",
        "task_id": "character varying",
        "map_index": "integer",
        "key": "character varying",
        "dag_id": "character varying",
        "run_id": "character varying",
        "value": "jsonb",
        "timestamp": "timestamp with time zone",
    },
    "dag_run": {
        "id": "integer",
        "dag_id": "character varying",
        "run_id": "character varying",
        "state": "character varying",
        "logical_date": "timestamp with time zone",
        "run_after": "timestamp with time zone",
        "created_at": "timestamp with time zone",
    },
    "task_instance": {
        "dag_id": "character varying",
        "run_id": "character varying",
        "state": "character varying",
    },
    "dag": {"dag_id": "character varying", "next_dagrun": "timestamp with time zone"},
    "dag_tag": {"dag_id": "character varying", "name": "character varying"},
    "alembic_version": {"version_num": "character varying"},
}

COLUMNS = """
SELECT c.relname, jsonb_object_agg(a.attname, format_type(a.atttypid, NULL))
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)
GROUP BY c.relname"""

#: Alembic heads of the Airflow versions that the bundle knows, from ``airflow.utils.db._REVISION_HEADS_MAP``.
KNOWN_REVISIONS = {
    "cc92b33c6709": "3.1",
    "509b94a1042d": "3.1.8",
    "1d6611b6ab7c": "3.2",
    "d2f4e1b3c5a7": "3.3",
}
