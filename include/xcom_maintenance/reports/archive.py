"""The archive of deleted rows: ``<archive path>/<dag_id>/<run_id>/*.jsonl.gz``, on any path ObjectStoragePath takes.

A file holds what one transaction deleted: a header, a line for each row just as the database wrote it, and an end that
counts them. It has its name only when it is whole and durable, and no file ever takes the place of another.
"""

from __future__ import annotations

import json
import os
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Protocol

from include.xcom_maintenance.core.errors import ConfigurationError, StoreUnavailable
from include.xcom_maintenance.reports.archive_file import FORMAT, SUFFIX, ArchiveFile
from include.xcom_maintenance.reports.paths import make_folder, path_errors, stem_of, storage_path

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: Bytes compressed at once, each block a gzip member of its own.
_BLOCK = 1024 * 1024
_AS_GZIP = 31
_LEVEL = 1  # the quickest but for none
#: How many folders an error lists.
_SHOWN = 20


class Archives:
    """All archives below one path.

    :param root: the archive path; None if none is configured, in which case only addresses can be read.
    """

    def __init__(self, root: ObjectStoragePath | None) -> None:
        self.root = root

    # -- writing --------------------------------------------------

    @contextmanager
    def write(self, name: str, *, database: str, dag_id: str, run_id: str) -> Iterator[ArchiveSink]:
        """Write one file; it is whole and durable when the context is left, and not there at all after an exception.

        :param name: of the file, without its suffix; where a file has it already, ``-2`` and so on is appended.
        :param database: which database the rows come from (``DatabaseIdentity.owner``).
        :raises ConfigurationError: if there is no archive path, or it cannot be written.
        :raises StoreUnavailable: if another attempt wrote a file of the same name meanwhile.
        """
        if self.root is None:
            raise ConfigurationError("No archive path is set", setting="archive_path", remedy="Set archive_path")
        setting = "archive_path"
        with path_errors(self.root, "written", setting=setting):
            local = self.root.protocol in {"file", "local"}
            folder = self.root / dag_id / stem_of(run_id)
            output: _Output = _LocalOutput(folder, name) if local else _ObjectOutput(folder, name)
        try:
            sink = ArchiveSink(output, self.root)
            sink.add_header(database, dag_id, run_id)
            yield sink
            sink.finish()
            with path_errors(self.root, "written", setting=setting):
                sink.path = output.commit()
        except BaseException:
            with suppress(Exception):  # what stopped us is the error to report
                output.discard()
            raise

    # -- reading --------------------------------------------------

    def find(self, text: str | None) -> list[ArchiveFile]:
        """The files of a folder, or one file.

        :param text: an address (``scheme://...``), or a path below the archive path.
        :raises ConfigurationError: if there is none; it says what there is.
        """
        if not text:
            raise self._nothing("No archive was chosen to restore from")
        path = storage_path(text, setting="archive") if "://" in text else self._below_root(text)
        with path_errors(path, "read", setting="archive"):
            fs: Any = path.fs
            fs.invalidate_cache()
            if fs.isfile(path.path):
                return [ArchiveFile(fs, path.path, path.name)]
            folder = path.path.rstrip("/") + "/"
            names = sorted(found.removeprefix(folder) for found in fs.find(path.path))
        archives = [name for name in names if name.endswith(SUFFIX)]
        if not archives:
            raise self._nothing(f"There is no archive at {path}")
        return [ArchiveFile(fs, folder + name, name) for name in archives]

    def _below_root(self, text: str) -> ObjectStoragePath:
        if self.root is None:
            raise ConfigurationError(
                f"The archive {text!r} is relative to archive_path, which is not set",
                setting="archive_path",
                remedy="Set archive_path, or give the full URL, such as s3://conn_id@bucket/archive/xcom_cleanup",
            )
        parts = text.rstrip("/").split("/")
        if {"", ".", ".."} & set(parts):
            raise self._nothing(f"The archive {text!r} is neither a URL nor a path below {self.root}")
        return self.root.joinpath(*parts)

    def _nothing(self, problem: str) -> ConfigurationError:
        remedy = "Give the URL of a folder or a file, such as s3://conn_id@bucket/archive/xcom_cleanup"
        if self.root is not None:
            with path_errors(self.root, "read", setting="archive_path"):
                there = list(_folders(self.root))
            shown = ", ".join(there[-_SHOWN:]) + (f" and {len(there) - _SHOWN:,} more" * (len(there) > _SHOWN))
            remedy = f"Available below {self.root}: {shown or 'nothing'}"
        return ConfigurationError(problem, setting="archive", remedy=remedy)


def _folders(root: ObjectStoragePath) -> Iterator[str]:
    """``<dag_id>/<run_id>`` for every run that left an archive."""
    fs: Any = root.fs
    fs.invalidate_cache()
    with suppress(FileNotFoundError):
        for dag in sorted(_folders_in(fs, root.path)):
            for run in sorted(_folders_in(fs, dag)):
                yield "/".join(run.rstrip("/").split("/")[-2:])


def _folders_in(fs: Any, path: str) -> list[str]:
    return [found["name"] for found in fs.ls(path, detail=True) if found["type"] == "directory"]


class ArchiveSink:
    """Takes the lines of rows, one by one."""

    def __init__(self, output: _Output, root: ObjectStoragePath) -> None:
        self._output = output
        self._root = root
        #: Lines of the next block, which are put together once, and how many bytes they are.
        self._lines: list[bytes | memoryview] = []
        self._size = 0
        #: Rows so far.
        self.rows = 0
        #: The file's address; None until the context was left.
        self.path: str | None = None

    def add(self, line: bytes | memoryview) -> None:
        """Append the line of a row, with its end; it does not change any more."""
        self.rows += 1
        self._write(line)

    def add_header(self, database: str, dag_id: str, run_id: str) -> None:
        now = datetime.now(UTC).isoformat()
        origin = {"database": database, "dag_id": dag_id, "run_id": run_id, "archived_at": now}
        self._mark({"kind": "header", "format": FORMAT, **origin})

    def finish(self) -> None:
        """Write the end, and all that is still pending."""
        self._mark({"kind": "end", "rows": self.rows})
        self._compress()

    def _mark(self, line: dict[str, Any]) -> None:
        self._write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _write(self, line: bytes | memoryview) -> None:
        self._lines.append(line)
        self._size += len(line)
        if self._size >= _BLOCK:
            self._compress()

    def _compress(self) -> None:
        lines, self._lines, self._size = self._lines, [], 0
        compressed = zlib.compress(b"".join(lines), _LEVEL, _AS_GZIP)
        with path_errors(self._root, "written", setting="archive_path"):
            self._output.write(compressed)


class _Output(Protocol):
    """A file that comes into being as a whole or not at all."""

    def write(self, data: bytes) -> object: ...

    def commit(self) -> str:
        """Make it durable under its name; returns its address."""

    def discard(self) -> None: ...


def _names(name: str) -> Iterator[str]:
    return chain([name + SUFFIX], (f"{name}-{number}{SUFFIX}" for number in count(2)))


class _LocalOutput:
    """On a file system: written under another name, flushed to the disk, then linked to a name that nobody has."""

    def __init__(self, folder: ObjectStoragePath, name: str) -> None:
        self._folder, self._name = folder.path, name
        is_new = not os.path.isdir(self._folder)
        make_folder(folder)
        if is_new:
            for above in (folder.parent, folder.parent.parent):
                _sync(above.path)
        self._temporary = os.path.join(self._folder, f".{name}.{uuid.uuid4().hex}.partial")
        self._file = open(self._temporary, "xb")  # noqa: SIM115 - closed by commit or discard
        self.write = self._file.write

    def commit(self) -> str:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        for name in _names(self._name):
            final = os.path.join(self._folder, name)
            try:
                os.link(self._temporary, final)
            except FileExistsError:
                continue
            except OSError:  # a file system without links
                if os.path.exists(final):
                    continue
                os.rename(self._temporary, final)
            break
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)
        _sync(self._folder)
        return f"file://{final}"

    def discard(self) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)


def _sync(folder: str) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _ObjectOutput:
    """On an object store: an upload, of which nothing is to be seen until it is completed."""

    def __init__(self, folder: ObjectStoragePath, name: str) -> None:
        make_folder(folder)
        self._path = next(path for path in (folder / name for name in _names(name)) if not path.exists())
        # Not the path's own open(): that hides what it takes to abort an upload.
        self._file: Any = self._path.fs.open(self._path.path, "wb")
        self.write = self._file.write

    def commit(self) -> str:
        if self._buffered and self._path.exists():
            raise StoreUnavailable(
                f"Another attempt has written the archive {self._path} in the meantime",
                setting="archive_path",
                remedy="Nothing in this batch was changed; the task is retried",
            )
        self._file.close()
        return str(self._path)

    def discard(self) -> None:
        if self._buffered:
            self._file.discard()
            self._file.closed = True  # or it would complete the upload when it is closed for good
        else:
            self._file.close()
            self._path.unlink(missing_ok=True)

    @property
    def _buffered(self) -> bool:
        """Whether it is an upload in fsspec's sense (``AbstractBufferedFile``), not a file that is there at once."""
        return hasattr(self._file, "discard") and hasattr(self._file, "forced")
