"""One file of an archive, read as a stream."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

from include.xcom_maintenance.core.errors import ConfigurationError, StoreUnavailable
from include.xcom_maintenance.core.records import ArchivedRow

FORMAT = 1
SUFFIX = ".jsonl.gz"
#: The longest line that is read: Postgres takes no longer text.
_LONGEST_LINE = 2**30
#: A value above this many characters is no reference: a key of S3 has 1,024 bytes at most.
_LONGEST_REFERENCE = 4_096
_HEADER = b'{"kind":"header",'
_ROW = re.compile(r'\{"kind":"row","sql_null":(?:true|false),"row":\{')
_END = re.compile(rb'\{"kind":"end","rows":(\d+)\}\n')
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_SCALAR = re.compile(rf"{_STRING}|[^,\[\]{{}}\"\s]+", re.DOTALL)
_TOKEN = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)
_PLACE = ("dag_id", "run_id", "task_id", "map_index", "key")


@dataclass(frozen=True, slots=True)
class ArchiveHeader:
    """Where the rows of a file come from."""

    #: As ``DatabaseIdentity.owner``.
    database: str
    dag_id: str
    run_id: str
    #: ISO 8601, UTC.
    archived_at: str


class ArchiveFile:
    """One file of an archive. Memory is bounded by a batch, or by a single row that is larger.

    :param fs: the fsspec file system.
    :param path: of the file, as the file system names it.
    :param name: for people and manifests: relative to the folder that was asked for.
    """

    def __init__(self, fs: Any, path: str, name: str) -> None:
        self._fs = fs
        self._path = path
        self.name = name
        #: Rows that ``batches`` has read so far, those that were not wanted included.
        self.rows = 0
        #: Known when ``batches`` has come to its end: whether the file ended before its end line.
        self.cut_short = False

    def header(self) -> ArchiveHeader | None:
        """Where the rows come from; None if the file is cut short before it says so.

        :raises ConfigurationError: if it is no such file.
        """
        with self._lines() as lines:
            return self._header(lines)

    def batches(
        self, *, max_rows: int, max_bytes: int, wanted: Callable[[str, str, str], bool] | None = None
    ) -> Iterator[list[ArchivedRow]]:
        """The rows, in batches that reach neither limit; a row above ``max_bytes`` comes alone.

        Of a file that is cut short, or damaged further on, all rows come that can be read.

        :param max_bytes: of text.
        :param wanted: asked by (dag_id, run_id, task_id); rows that are not wanted are left out.
        :raises ConfigurationError: if it is no such file.
        """
        self.rows, self.cut_short = 0, False
        batch: list[ArchivedRow] = []
        size, complete = 0, False
        with self._lines() as lines:
            if self._header(lines) is not None:
                while line := self._next(lines):
                    if end := _END.fullmatch(line):
                        complete = int(end[1]) == self.rows
                        break
                    if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                        break  # the end of a file whose writer died
                    row = self._row(line)
                    self.rows += 1
                    if wanted is not None and not wanted(row.dag_id, row.run_id, row.task_id):
                        continue
                    if batch and (len(batch) >= max_rows or size + len(line) > max_bytes):
                        yield batch
                        batch, size = [], 0
                    batch.append(row)
                    size += len(line)
        if batch:
            yield batch
        self.cut_short = not complete

    def _header(self, lines: IO[bytes]) -> ArchiveHeader | None:
        line = self._next(lines, first=True)
        if not line.endswith(b"\n") and _HEADER.startswith(line[: len(_HEADER)]):
            return None
        try:
            if not line.startswith(_HEADER):
                raise ValueError
            fields = json.loads(line)
            version = fields["format"]
            header = ArchiveHeader(*(str(fields[name]) for name in ("database", "dag_id", "run_id", "archived_at")))
        except (ValueError, KeyError):
            raise self._wrong("is not an archive of deleted rows: it has no header") from None
        if version != FORMAT:
            raise self._wrong("has an unknown format; a newer version of the bundle may be able to read it")
        return header

    def _row(self, line: bytes) -> ArchivedRow:
        try:
            return parse_row(line.decode())
        except (ValueError, KeyError, IndexError):
            # What is wrong with it could quote a value.
            raise self._wrong(f"is not an archive of deleted rows: line {self.rows + 2:,} is not a row") from None

    def _next(self, lines: IO[bytes], *, first: bool = False) -> bytes:
        """The next line; empty at the end, be it the real one or where the file was cut or damaged."""
        try:
            return lines.readline(_LONGEST_LINE)
        except gzip.BadGzipFile:
            if first:
                raise self._wrong("is not gzip-compressed") from None
            return b""
        except (EOFError, zlib.error):
            return b""

    @contextmanager
    def _lines(self) -> Iterator[IO[bytes]]:
        with ExitStack() as stack:
            try:
                raw = stack.enter_context(self._fs.open(self._path, "rb"))
            except FileNotFoundError:
                raise self._wrong("no longer exists") from None
            except Exception as error:  # noqa: BLE001 - as many kinds as fsspec knows file systems
                raise self._wrong(f"cannot be read: {type(error).__name__}") from None
            yield stack.enter_context(gzip.open(_Readable(raw, self.name), "rb"))  # type: ignore[call-overload]

    def _wrong(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"The file {self.name} {what}",
            setting="archive",
            remedy="Choose an archive that a cleanup wrote below archive_path",
        )


class _Readable:
    """A file whose failures can be told from an end: a store that fails to answer has not cut the file short."""

    def __init__(self, raw: Any, name: str) -> None:
        self._raw = raw
        self._name = name

    def read(self, size: int = -1) -> bytes:
        try:
            return self._raw.read(size)  # type: ignore[no-any-return]
        except Exception as error:  # noqa: BLE001 - every file system that fsspec knows raises its own errors
            raise StoreUnavailable(
                f"The file {self._name} could not be read to the end: {type(error).__name__}",
                setting="archive",
                remedy="Rows restored so far are kept; another run continues from there",
            ) from None

    def seekable(self) -> bool:
        return False


def parse_row(line: str) -> ArchivedRow:
    """Read where a row belongs, and its value only if that is a short text; the rest is the database's to read.

    :raises ValueError, KeyError, IndexError: if it is no row.
    """
    begin = _ROW.match(line)
    if begin is None:
        raise ValueError
    found: dict[str, str] = {}
    at = begin.end()
    while line[at - 1] != "}" and not (found.keys() >= {*_PLACE, "value"}):
        name = _SCALAR.match(line, at)
        if name is None or line[name.end()] != ":":
            raise ValueError
        column, start = json.loads(name.group()), name.end() + 1
        nested = line[start] in "[{"
        if nested and column == "value" and found.keys() >= set(_PLACE):
            break
        at = _end_of(line, start)
        found[column] = "" if nested else line[start:at]
        if line[at] not in ",}":
            raise ValueError
        at += 1
    value = found.get("value", "")
    short = value.startswith('"') and len(value) <= _LONGEST_REFERENCE
    dag_id, run_id, task_id, map_index, key = (json.loads(found[name]) for name in _PLACE)
    names = (dag_id, run_id, task_id, key)
    if not isinstance(map_index, int) or not all(isinstance(name, str) for name in names):
        raise ValueError
    return ArchivedRow(dag_id, run_id, task_id, map_index, key, json.loads(value) if short else None, line)


def _end_of(line: str, start: int) -> int:
    """Where the JSON value that starts here ends; in a loop, since values nest deeper than Python recurses."""
    if line[start] not in "[{":
        scalar = _SCALAR.match(line, start)
        if scalar is None:
            raise ValueError
        return scalar.end()
    depth = 0
    for token in _TOKEN.finditer(line, start):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group()[:1], 0)
        if depth == 0:
            return token.end()
    raise ValueError
