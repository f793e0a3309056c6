"""How Postgres writes deleted rows as lines of an archive.

Row by row the server only turns a row into JSON, which for large values is most of the work there is; the rest of a
line is put around it here. COPY's binary format sends it as it is, where the others look at every character.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from include.xcom_maintenance.metadata.ports.shared import ArchiveSink

#: For the RETURNING of a statement that deletes from ``xcom x``: every column, the value with all its digits. In JSON a
#: NULL and a JSON null look the same, hence the first.
RETURNING = "x.value IS NULL, row_to_json(x)"

_BEGIN = {is_null: f'{{"kind":"row","sql_null":{str(is_null).lower()},"row":'.encode() for is_null in (False, True)}
_END = b"}\n"
#: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": a signature of 11 bytes, flags, and the
#: length of an extension that follows.
_HEADER = struct.Struct(">11s4xi")
_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
#: The number of fields, the length of the first one and itself, and the length of the second one, which follows.
_ROW = struct.Struct(">hi?i")
_FIELDS = struct.Struct(">h")
_NO_MORE = -1


def copy_deleted(cursor: Any, deleting: str, parameters: Mapping[str, Any], sink: ArchiveSink) -> int:
    """Delete rows and write each into a sink as a line; returns their number. In memory is one row at a time.

    :param deleting: a statement that returns ``RETURNING``.
    """
    statement, lines = f"COPY ({deleting}) TO STDOUT (FORMAT binary)", Lines(sink)
    if hasattr(cursor, "copy_expert"):
        cursor.copy_expert(cursor.mogrify(statement, parameters), lines)
    else:
        with cursor.copy(statement, parameters) as copy:
            for data in copy:
                lines.write(data)
    lines.close()
    return lines.rows


class Lines:
    """Takes what a COPY in binary format yields, in pieces of any size, and writes a line for each row."""

    def __init__(self, sink: ArchiveSink) -> None:
        self._sink = sink
        self._buffer = bytearray()
        self._begun = self._ended = False
        self.rows = 0

    def write(self, data: bytes | memoryview) -> int:
        if self._buffer:  # hardly ever: both drivers hand over what the server sent at a time, which is a row
            self._buffer += data
            with memoryview(self._buffer) as view:
                done = self._take(view)
            del self._buffer[:done]
        else:
            view = memoryview(data)
            self._buffer += view[self._take(view) :]
        return len(data)

    def close(self) -> None:
        """:raises ValueError: if it was not all; then the rows must not go."""
        if not self._ended or self._buffer:
            raise ValueError("COPY in binary format did not end as it should")

    def _take(self, view: memoryview) -> int:
        """Write the lines of all rows that are whole; returns how many bytes that took."""
        at = 0
        if not self._begun:
            if len(view) < _HEADER.size:
                return 0
            signature, extension = _HEADER.unpack_from(view)
            if signature != _SIGNATURE:
                raise ValueError("This is no COPY in binary format")
            at = _HEADER.size + extension
            if at > len(view):
                return 0
            self._begun = True
        while not self._ended and at + _FIELDS.size <= len(view):
            if _FIELDS.unpack_from(view, at) == (_NO_MORE,):
                self._ended = True
                return at + _FIELDS.size
            if at + _ROW.size > len(view):
                break
            _, _, is_null, length = _ROW.unpack_from(view, at)
            start, end = at + _ROW.size, at + _ROW.size + length
            if end > len(view):
                break
            row = view[start:end]
            self._sink.add(_BEGIN[is_null], row if row.readonly else row.tobytes(), _END)
            self.rows += 1
            at = end
        return at
