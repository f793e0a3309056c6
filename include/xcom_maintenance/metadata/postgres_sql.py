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

#: One source of references: {columns} hold where the row is, {value} its value as JSON text. Every JSON string that
#: contains the base path is taken whole, and cut at white space and quotes too, so that a path in a sentence counts.
#: What is carried on is short, however long the value: no row of the result is longer than a path can be.
_REFERENCES_OF = r"""
SELECT {columns}, t.size, left(t.ref, 4096), t.entire, t.entire AND t.top_level,
       substr(left(t.ref, 4096), position(%(marker)s IN t.ref) + length(%(marker)s)) AS blob_key
FROM (
    SELECT {inner_columns}, s.size, s.top_level, piece.ref, piece.entire
    FROM (
        SELECT {inner_columns}, coalesce(pg_column_size(x.value), 0) AS size,
               ('"' || (string)[1] || '"')::jsonb #>> '{{}}' AS token,
               left({value}, 1) = '"' AS top_level
        FROM {table} x
        CROSS JOIN LATERAL regexp_matches({value}, '"((?:[^"\\]|\\.)*)"', 'g') AS string
        WHERE position(%(marker)s IN {value}) > 0 AND position(%(marker)s IN (string)[1]) > 0
    ) s
    CROSS JOIN LATERAL (
        SELECT s.token AS ref, true AS entire
        UNION ALL
        SELECT rtrim(substring(word FROM '[A-Za-z][A-Za-z0-9+.-]*://.*$'), '.,;:)]}}'), false
        FROM regexp_split_to_table(s.token, '[\s"''<>]+') AS word
        WHERE s.token ~ '[\s"''<>]' AND position(%(marker)s IN word) > 0
    ) piece
    WHERE position(%(marker)s IN piece.ref) > 0
) t"""

_ROW_COLUMNS = "dag_id", "run_id", "task_id", "map_index", "key", "timestamp"


def references_of(table: str, columns: dict[str, str]) -> str:
    """The references in one table.

    :param table: its name, quoted.
    :param columns: the types of its columns by name; archive tables of older versions lack some.
    """
    defaults = {"map_index": "-1", "timestamp": "NULL::timestamptz"}
    picked = [
        name if name in columns else f"{defaults.get(name, quote_literal(''))} AS {name}" for name in _ROW_COLUMNS
    ]
    return _REFERENCES_OF.format(
        columns=", ".join([f"{quote_literal(table)}::text AS source", *(f"t.{name}" for name in _ROW_COLUMNS)]),
        inner_columns=", ".join(picked),
        table=table.replace("%", "%%"),
        value=_json_text(columns["value"]),
    )


def names_in(table: str, columns: dict[str, str], pattern: str) -> str:
    """The unique parts of blob names that occur in one table and are among ``%(names)s``.

    Anywhere in a value, however it is written or packed; LIKE is quick to pass over what has nothing of this form.
    """
    kind = columns["value"]
    text = "encode(x.value, 'escape')" if kind == "bytea" else "x.value::text"
    return f"""
SELECT lower((found)[1]) AS name
FROM {table.replace("%", "%%")} x CROSS JOIN LATERAL regexp_matches({text}, '{pattern}', 'gi') AS found
WHERE {text} LIKE '%%-4___-____-____________%%' AND lower((found)[1]) = ANY(%(names)s::text[])"""


def _json_text(kind: str) -> str:
    """The value of a column of a type, as JSON text."""
    return {"jsonb": "x.value::text", "json": "x.value::jsonb::text"}.get(
        kind, "to_json(encode(x.value, 'escape'))::text" if kind == "bytea" else "to_json(x.value::text)::text"
    )


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
