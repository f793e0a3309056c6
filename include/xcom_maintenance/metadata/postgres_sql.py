"""The statements of the Postgres adapter: policy as text that a database administrator can read."""

from __future__ import annotations

#: The runs of a batch that may lose rows at this moment. Planning, measuring and deleting share this text, so that a
#: report tells the truth and the condition stands in the DELETE itself.
_LIVE = """
live AS MATERIALIZED (
    SELECT d.id, d.cutoff, d.keep_latest, r.logical_date
    FROM unnest(%(ids)s::int[], %(cutoffs)s::timestamptz[], %(keep_latest)s::boolean[])
         AS d(id, cutoff, keep_latest)
    JOIN dag_run r ON r.id = d.id
    WHERE r.state = ANY(%(run_states)s)
      AND NOT EXISTS (
          SELECT FROM task_instance t
          WHERE t.dag_id = r.dag_id AND t.run_id = r.run_id
            AND (t.state IS NULL OR NOT t.state = ANY(%(task_states)s)))
    {lock}
)"""

#: The rows of those runs that go.
_DOOMED = """
    FROM live l
    JOIN xcom x ON x.dag_run_id = l.id AND x.timestamp < l.cutoff
    WHERE {not_latest}"""

#: For {not_latest}, where a run keeps its latest values: a row goes only if xcom_pull(include_prior_dates=True) would
#: prefer another. It takes rows of runs without a logical date first, then the latest logical date, then the latest
#: push. Elsewhere the condition is left out: the planner takes it for expensive and would not read in parallel.
NOT_LATEST = """(NOT l.keep_latest OR EXISTS (
        SELECT FROM xcom n JOIN dag_run nr ON nr.id = n.dag_run_id
        WHERE n.dag_id = x.dag_id AND n.task_id = x.task_id AND n.map_index = x.map_index AND n.key = x.key
          AND (nr.logical_date IS NULL) = (l.logical_date IS NULL)
          AND (coalesce(nr.logical_date, '-infinity'), n.timestamp, n.dag_run_id)
            > (coalesce(l.logical_date, '-infinity'), x.timestamp, x.dag_run_id)))"""

#: OFFSET 0 keeps the values themselves out of whatever sorts or hashes the rows.
MEASURE = f"""
WITH {_LIVE}
SELECT id, count(*), coalesce(sum(size), 0)
FROM (SELECT x.dag_run_id AS id, pg_column_size(x.value) AS size {_DOOMED} OFFSET 0) doomed
GROUP BY id"""

#: Only short strings can be references (a key of S3 has 1,024 bytes at most), so large values are never read from
#: TOAST: CASE keeps the order of the tests.
DOOMED_REFERENCES = f"""
WITH {_LIVE}
SELECT x.dag_id, x.run_id, x.task_id, x.map_index, x.key, x.timestamp, pg_column_size(x.value), x.value #>> '{{{{}}}}'
{_DOOMED}
  AND CASE WHEN pg_column_size(x.value) <= 1500 AND jsonb_typeof(x.value) = 'string'
           THEN position(%(marker)s IN x.value #>> '{{{{}}}}') > 0 END"""

#: {lock}: locking the runs makes a concurrent clear wait for this short transaction, or this statement for the clear.
DELETE = f"""
WITH {_LIVE},
doomed AS (SELECT x.ctid {_DOOMED} LIMIT %(limit)s),
gone AS (
    DELETE FROM xcom x USING doomed WHERE x.ctid = doomed.ctid
    RETURNING pg_column_size(x.value) AS size
)
SELECT count(*), coalesce(sum(size), 0) FROM gone"""

LOCK_RUNS = "ORDER BY r.id FOR SHARE OF r"

RUNS = """
SELECT r.id, r.dag_id, r.run_id, coalesce(r.state, ''), r.run_after, coalesce(u.tasks, 0)
FROM dag_run r
LEFT JOIN (
    SELECT dag_id, run_id, count(*) AS tasks FROM task_instance
    WHERE state IS NULL OR NOT state = ANY(%(task_states)s)
    GROUP BY dag_id, run_id
) u ON u.dag_id = r.dag_id AND u.run_id = r.run_id
ORDER BY r.dag_id, r.run_after DESC, r.id DESC"""

UNFINISHED_RUNS = """
SELECT r.dag_id, r.run_id
FROM unnest(%(dag_ids)s::text[], %(run_ids)s::text[]) AS c(dag_id, run_id)
JOIN dag_run r ON r.dag_id = c.dag_id AND r.run_id = c.run_id
WHERE r.state IS NULL OR NOT r.state = ANY(%(run_states)s)
   OR EXISTS (SELECT FROM task_instance t
              WHERE t.dag_id = r.dag_id AND t.run_id = r.run_id
                AND (t.state IS NULL OR NOT t.state = ANY(%(task_states)s)))"""

#: One source of references: {columns} hold where the row is, {value} its value as JSON text. Every JSON string that
#: contains the base path is taken whole, and cut at white space and quotes too, so that a path in a sentence counts.
_REFERENCES_OF = """
SELECT {columns}, t.size, t.token, t.ref, t.ref = t.token AND t.top_level,
       substr(t.ref, position(%(marker)s IN t.ref) + length(%(marker)s)) AS blob_key
FROM (
    SELECT s.*, piece.ref
    FROM (
        SELECT x.*, coalesce(pg_column_size(x.value), 0) AS size,
               ('"' || (string)[1] || '"')::jsonb #>> '{{}}' AS token,
               left({value}, 1) = '"' AS top_level
        FROM {table} x
        CROSS JOIN LATERAL regexp_matches({value}, '"((?:[^"\\\\]|\\\\.)*)"', 'g') AS string
        WHERE position(%(marker)s IN {value}) > 0 AND position(%(marker)s IN (string)[1]) > 0
    ) s
    CROSS JOIN LATERAL (
        SELECT s.token AS ref
        UNION
        SELECT rtrim(substring(word FROM '[A-Za-z][A-Za-z0-9+.-]*://.*$'), '.,;:)]}}')
        FROM regexp_split_to_table(s.token, '[\\s"''<>]+') AS word
        WHERE s.token ~ '[\\s"''<>]'
    ) piece
    WHERE position(%(marker)s IN piece.ref) > 0
) t"""

_ROW_COLUMNS = "dag_id", "run_id", "task_id", "map_index", "key", "timestamp"


def references_of(table: str, columns: dict[str, str]) -> str:
    """The references in one table.

    :param table: its name, quoted.
    :param columns: the types of its columns by name; archive tables of older versions lack some.
    """
    kind = columns["value"]
    value = {"jsonb": "x.value::text", "json": "x.value::jsonb::text"}.get(
        kind,
        "to_json(encode(x.value, 'escape'))::text" if kind == "bytea" else "to_json(x.value::text)::text",
    )
    defaults = {"map_index": "-1", "timestamp": "NULL::timestamptz"}
    picked = [
        f"t.{name}" if name in columns else f"{defaults.get(name, quote_literal(''))} AS {name}"
        for name in _ROW_COLUMNS
    ]
    listed = ", ".join([f"{quote_literal(table)}::text AS source", *picked])
    return _REFERENCES_OF.format(columns=listed, table=table, value=value)


def quote_literal(text: str) -> str:
    """A string constant for a statement whose parameters the driver formats, hence the doubled percent sign."""
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"


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
    },
    "task_instance": {
        "dag_id": "character varying",
        "run_id": "character varying",
        "state": "character varying",
    },
    "dag": {"dag_id": "character varying"},
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
