"""How Postgres takes back the rows of an archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.records import ArchivedRow
from include.xcom_maintenance.metadata.ports.restore import Return
from include.xcom_maintenance.metadata.postgres import rows as sql
from include.xcom_maintenance.metadata.postgres.base import Connected

#: Whether a row {row} of a mapped result would come back among rows that were pushed since it was archived.
_PUSHED_ANEW = """({row}.map_index >= 0 AND EXISTS (
        SELECT FROM xcom m
        WHERE m.dag_run_id = r.id AND m.task_id = {row}.task_id AND m.map_index >= 0 AND m.key = {row}.key
          AND m.timestamp > %(archived_at)s::timestamptz))"""

#: What becomes of each archived row, as the name of a ``port.Return``.
RESTORABLE = f"""
SELECT c.number,
       CASE WHEN r.id IS NULL THEN 'NO_RUN'
            WHEN EXISTS (SELECT FROM xcom x
                         WHERE x.dag_run_id = r.id AND x.task_id = c.task_id AND x.map_index = c.map_index
                           AND x.key = c.key) THEN 'EXISTS'
            WHEN NOT EXISTS (SELECT FROM task_instance t
                             WHERE t.dag_id = c.dag_id AND t.task_id = c.task_id AND t.run_id = c.run_id
                               AND t.map_index = c.map_index) THEN 'NO_TASK_INSTANCE'
            WHEN {_PUSHED_ANEW.format(row="c")} THEN 'PUSHED_ANEW'
            ELSE 'POSSIBLE' END
FROM {sql.BY_NAME}
LEFT JOIN dag_run r ON r.dag_id = c.dag_id AND r.run_id = c.run_id"""

#: The columns that both the archive and the table have. What only the table has takes its default.
COLUMNS = """
SELECT quote_ident(a.attname)
FROM pg_attribute a
WHERE a.attrelid = to_regclass('xcom') AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  AND a.attname IN (SELECT json_object_keys(%(line)s::json -> 'row'))
ORDER BY a.attnum"""

#: As ``json`` and not ``jsonb``, so that a line may be longer than the longest value.
_RESTORE = f"""
INSERT INTO xcom ({{columns}})
SELECT {{values}}
FROM unnest({sql.LINES.format(name="lines")}) AS l(line)
CROSS JOIN LATERAL json_populate_record(NULL::xcom, l.line::json -> 'row') AS a
JOIN dag_run r ON r.dag_id = a.dag_id AND r.run_id = a.run_id
WHERE EXISTS (SELECT FROM task_instance t
              WHERE t.dag_id = a.dag_id AND t.task_id = a.task_id AND t.run_id = a.run_id
                AND t.map_index = a.map_index)
  AND NOT {_PUSHED_ANEW.format(row="a")}
ON CONFLICT DO NOTHING"""

#: The run may have been deleted and made again; and a JSON null is read as NULL.
_VALUES = {
    "dag_run_id": "r.id",
    "value": "CASE WHEN (l.line::json ->> 'sql_null')::boolean THEN NULL ELSE coalesce(a.value, 'null'::jsonb) END",
}


def restoring(columns: Sequence[str]) -> str:
    """The statement that puts back the rows of ``%(lines)s``, which are ``in_lines``.

    :param columns: those to fill, quoted.
    """
    columns = [name.replace("%", "%%") for name in columns]
    values = [_VALUES.get(name, f"a.{name}") for name in columns]
    return _RESTORE.format(columns=", ".join(columns), values=", ".join(values))


@contextmanager
def unreadable_rows() -> Iterator[None]:
    """Turn errors about the data itself (class 22) into ours: even their primary message can quote a value."""
    try:
        yield
    except Exception as error:
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        if not state.startswith("22"):
            raise
        raise ConfigurationError(
            f"The database cannot read a row of the archive (error {state})",
            setting="archive",
            remedy="The archive was modified, or comes from another version of Airflow. Nothing in this batch was "
            "changed; leave the row out by dag_ids, run_ids or task_ids",
        ) from None


class RestoreQueries(Connected):
    """Put archived rows back."""

    def restorable(self, rows: Sequence[ArchivedRow], *, archived_at: str | None) -> list[Return]:
        where = sql.row_names((row.dag_id, row.run_id, row.task_id, row.map_index, row.key) for row in rows)
        with unreadable_rows():
            found = dict(self._session.rows(RESTORABLE, {**where, "archived_at": archived_at}))
        return [Return[found[number]] for number in range(1, len(rows) + 1)]

    def restore(self, rows: Sequence[ArchivedRow], *, archived_at: str | None) -> int:
        if not rows:
            return 0

        def work(cursor: Any) -> int:
            with unreadable_rows():
                cursor.execute(COLUMNS, {"line": min((row.line for row in rows), key=len)})
                columns = [name for (name,) in cursor.fetchall()]
                lines = sql.in_lines(row.line for row in rows)
                cursor.execute(restoring(columns), {"lines": lines, "archived_at": archived_at})
                return int(cursor.rowcount)

        return self._session.change(work)
