"""The statements of the Postgres adapter: policy as text that a database administrator can read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from include.xcom_maintenance.core.references import BUCKET_NAMES, KEY_NAMES, OWN_CLASS

#: What this project's own backend writes instead of a value: an object around an address, or around the sealed value.
BLOB_REFERENCE = f"'{OWN_CLASS}'"
SEALED_VALUE = "'xcom_blob_backend.SealedValue'"

IS_BLOB_REFERENCE = f"x.value ->> '__classname__' = {BLOB_REFERENCE}"

#: A row ``x`` that one of our own probes wrote is nobody's value.
IS_NO_CANARY = r"NOT x.key LIKE 'xcom\_maintenance\_canary\_%%'"


def first_of(names: Sequence[str], value: str = "x.value") -> str:
    """The first of some fields of a JSON object that is there and not null, as text."""
    fields = ", ".join(f"{value} ->> '{name}'" for name in names)
    return f"coalesce({fields})"


#: The text of the value of a row ``x`` that can be a reference: NULL for any other. What it refers to says
#: ``core.references`` alone, by the value as a whole; this picks the rows, and sorts them.
ADDRESS = f"""CASE WHEN jsonb_typeof(x.value) = 'string' THEN x.value #>> '{{}}'
                WHEN {IS_BLOB_REFERENCE}
                THEN x.value #>> '{{__data__,uri}}'
                WHEN jsonb_typeof(x.value) = 'object' AND x.value ?| '{{{",".join(BUCKET_NAMES)}}}'::text[]
                THEN {first_of(BUCKET_NAMES)} || '/' || {first_of(KEY_NAMES)} END"""

#: Only short values can be references (a key of S3 has 1,024 bytes at most), so no large one is read from TOAST.
IS_SHORT = "pg_column_size(x.value) <= 2048"


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


#: The columns of a ``ValuePlace``.
PLACE = "x.dag_run_id, x.dag_id, x.run_id, x.task_id, x.map_index, x.key"

#: Some rows by their primary keys, see ``primary_keys``; {more} columns of parameters, and their {names}.
BY_KEY = """unnest(%(runs)s::int[], %(tasks)s::text[], %(maps)s::int[], %(keys)s::text[]{more})
     WITH ORDINALITY AS c(dag_run_id, task_id, map_index, key{names}, number)"""
SAME_KEY = "x.dag_run_id = c.dag_run_id AND x.task_id = c.task_id AND x.map_index = c.map_index AND x.key = c.key"
ROWS_BY_KEY = f"{BY_KEY.format(more='', names='')}\nJOIN xcom x ON {SAME_KEY}"

#: Some rows by the names of where they are, see ``row_names``.
BY_NAME = """unnest(%(dag_ids)s::text[], %(run_ids)s::text[], %(task_ids)s::text[], %(map_indexes)s::int[],
            %(keys)s::text[])
     WITH ORDINALITY AS c(dag_id, run_id, task_id, map_index, key, number)"""


#: An array of JSON texts, from one text that ``in_lines`` made; {name} is that of the parameter. In an array psycopg
#: escapes quote by quote, at about 1 MB of JSON a second.
LINES = "string_to_array(%({name})s::text, chr(10))"


def in_lines(texts: Iterable[str]) -> str:
    """JSON texts, one a line. A line break in JSON is white space between tokens; in a string it is escaped."""
    return "\n".join(text.replace("\n", " ") for text in texts)


class _HasPrimaryKey(Protocol):
    @property
    def dag_run_id(self) -> int: ...
    @property
    def task_id(self) -> str: ...
    @property
    def map_index(self) -> int: ...
    @property
    def key(self) -> str: ...


def primary_keys(places: Sequence[_HasPrimaryKey]) -> dict[str, Any]:
    """The primary keys of some rows, column by column."""
    return {
        "runs": [place.dag_run_id for place in places],
        "tasks": [place.task_id for place in places],
        "maps": [place.map_index for place in places],
        "keys": [place.key for place in places],
    }


def row_names(rows: Iterable[tuple[str, str, str, int, str]]) -> dict[str, Any]:
    """DAG, run, task, map index and key of some rows, column by column."""
    columns = ("dag_ids", "run_ids", "task_ids", "map_indexes", "keys")
    found = list(rows)
    return {column: [row[number] for row in found] for number, column in enumerate(columns)}
