"""How Postgres writes deleted rows as lines of an archive."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from include.xcom_maintenance.metadata.ports.shared import ArchiveSink

#: For the RETURNING of a statement that deletes from ``xcom x``: the line of a row, with every column, the value with
#: all its digits. In JSON a NULL and a JSON null look the same, hence "sql_null".
RETURNING = """'{"kind":"row","sql_null":' || (x.value IS NULL)::text || ',"row":' || row_to_json(x)::text || '}'"""

#: COPY escapes nothing and quotes only what holds a line break or one of these two characters. No JSON does.
_AS_IT_IS = "(FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01')"


def copy_deleted(cursor: Any, deleting: str, parameters: Mapping[str, Any], sink: ArchiveSink) -> int:
    """Delete rows and write each into a sink as a line; returns their number. In memory is one row at a time.

    Both drivers hand over what the server sent at a time, which is a row.

    :param deleting: a statement that returns ``RETURNING``.
    :raises ValueError: if some rows came otherwise; then the rows must not go.
    """
    statement, before = f"COPY ({deleting}) TO STDOUT {_AS_IT_IS}", sink.rows
    if hasattr(cursor, "copy_expert"):
        cursor.copy_expert(cursor.mogrify(statement, parameters), SimpleNamespace(write=sink.add))
    else:
        with cursor.copy(statement, parameters) as copy:
            for line in copy:
                sink.add(line)
    if sink.rows - before != cursor.rowcount:
        raise ValueError("COPY did not yield a line for each row")
    return sink.rows - before
