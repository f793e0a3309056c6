"""Rows that this project's own backend wrote in the Postgres adapter: which there are, and how one is replaced.

Runs are walked in pages, so that no transaction is open for long, and of large values only the beginning is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.values import StoredRow
from include.xcom_maintenance.metadata.postgres import rows as sql
from include.xcom_maintenance.metadata.postgres.base import Connected

_RUNS_AT_ONCE = 200
#: Rows that a cursor hands over at a time; each is as long as what is read of it, below.
_ROWS_AT_ONCE = 500

_RUNS = "SELECT id FROM dag_run WHERE id > %(after)s ORDER BY id LIMIT %(limit)s"

#: What the backend wrote instead of a value. Both are longer than this, and no smaller value has to be read.
_OURS = f"""pg_column_size(x.value) > 100
  AND {{value}} ->> '__classname__' IN ({sql.BLOB_REFERENCE}, {sql.SEALED_VALUE})"""

#: Of a sealed value its beginning: the longest header has 32 KB, which are 43,736 characters in base64.
_START = f"""CASE WHEN {{value}} ->> '__classname__' = {sql.SEALED_VALUE}
     THEN jsonb_build_object('__classname__', {{value}} ->> '__classname__', '__data__',
                             jsonb_build_object('sealed', left({{value}} #>> '{{{{__data__,sealed}}}}', 43736)))
     ELSE {{value}} END::text"""

_OF_RUNS = f"""
SELECT {sql.PLACE}, pg_column_size(x.value),
       {_START.format(value="x.value")}
FROM xcom x WHERE x.dag_run_id = ANY(%(runs)s) AND {_OURS.format(value="x.value")}"""

_ASIDE = f"""
SELECT {{dag_id}}, pg_column_size(x.value), {_START} FROM {{table}} x WHERE {_OURS}"""

_AT = f"""
SELECT {sql.PLACE}, pg_column_size(x.value), x.value::text
FROM {sql.ROWS_BY_KEY}
WHERE x.value IS NOT NULL"""

#: Waits for whoever is changing a row, then looks again: only what is still the same is replaced.
_REPLACE = f"""
UPDATE xcom x SET value = c.new::jsonb
FROM {sql.BY_KEY.format(more=", %(old)s::text[], %(new)s::text[]", names=", old, new")}
WHERE {sql.SAME_KEY}
  AND x.value = c.old::jsonb
RETURNING c.number"""


def _row(found: Sequence[Any]) -> StoredRow:
    *columns, size, text = found
    place = ValuePlace(*columns)
    return StoredRow(place, place.dag_id, size, text)


def _key_of(row: StoredRow) -> ValuePlace:
    if row.place is None:
        raise ValueError("nothing is changed in a table that holds rows aside")
    return row.place


def _key(row: StoredRow) -> tuple[int, str, int, str]:
    place = _key_of(row)
    return place.dag_run_id, place.task_id, place.map_index, place.key


class RotationQueries(Connected):
    """Rows that this project's own XCom backend wrote."""

    def stored_rows(self) -> Iterator[StoredRow]:
        for table, columns, _ in self._session.rows(sql.ARCHIVE_TABLES, {}):
            kind = dict(columns)["value"]
            if kind in {"json", "jsonb"}:  # others are older than the backend
                yield from self._aside(table, "x.value" if kind == "jsonb" else "x.value::jsonb", dict(columns))
        after = -1
        while runs := [row[0] for row in self._session.rows(_RUNS, {"after": after, "limit": _RUNS_AT_ONCE})]:
            with closing(self._session.stream(_OF_RUNS, {"runs": runs}, fetch=_ROWS_AT_ONCE)) as found:
                yield from map(_row, found)
            after = runs[-1]

    def _aside(self, table: str, value: str, columns: dict[str, str]) -> Iterator[StoredRow]:
        dag_id = "x.dag_id::text" if "dag_id" in columns else "''"
        statement = _ASIDE.format(dag_id=dag_id, value=value, table=table.replace("%", "%%"))
        with closing(self._session.stream(statement, {}, fetch=_ROWS_AT_ONCE)) as found:
            for dag_id, size, text in found:
                yield StoredRow(None, dag_id, size, text)

    def stored_rows_at(self, places: Sequence[ValuePlace]) -> list[StoredRow]:
        return [_row(found) for found in self._session.rows(_AT, sql.primary_keys(places))]

    def replace_stored(self, changes: Sequence[tuple[StoredRow, str]]) -> list[bool]:
        # In the order of the key, so that two who change the same rows wait for each other: no deadlock.
        order = sorted(range(len(changes)), key=lambda i: _key(changes[i][0]))
        parameters = {
            **sql.primary_keys([_key_of(changes[i][0]) for i in order]),
            "old": [changes[i][0].text for i in order],
            "new": [changes[i][1] for i in order],
        }

        def work(cursor: Any) -> set[int]:
            cursor.execute(_REPLACE, parameters)
            return {order[number - 1] for (number,) in cursor.fetchall()}

        replaced = self._session.change(work)
        return [i in replaced for i in range(len(changes))]
