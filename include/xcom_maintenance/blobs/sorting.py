"""Any number of blobs into the byte order of their keys, in constant memory: sorted runs on disk, merged."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import IO

from include.xcom_maintenance.core.byte_order import in_byte_order
from include.xcom_maintenance.core.records import Blob

#: Blobs that are sorted in memory: about 15 MB.
_RUN = 30_000
#: Runs of one size that are merged into one; so many files are open at a time, for each power of it.
_FAN_IN = 64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def sorted_by_key(blobs: Iterable[Blob], *, run: int = _RUN, fan_in: int = _FAN_IN) -> Iterator[Blob]:
    """The same blobs, in the byte order of their keys.

    Nothing is yielded before all have been read. Takes about 150 bytes of temporary disk for each blob.

    :param run: blobs that are held in memory.
    """
    stream = iter(blobs)
    levels: list[list[IO[str]]] = [[]]
    held = _take(stream, run)
    while following := _take(stream, run):
        levels[0].append(_spool(held))
        held = following
        for level, files in enumerate(levels):
            if len(files) == fan_in:
                if level + 1 == len(levels):
                    levels.append([])
                levels[level + 1].append(_spool(_merge(files)))
                files.clear()
    yield from heapq.merge(held, *(_read(file) for files in levels for file in files), key=_order)


def _take(stream: Iterator[Blob], count: int) -> list[Blob]:
    return sorted(islice(stream, count), key=_order)


def _order(blob: Blob) -> str:
    return in_byte_order(blob.key)


def _merge(files: Iterable[IO[str]]) -> Iterator[Blob]:
    return heapq.merge(*(_read(file) for file in files), key=_order)


def _spool(blobs: Iterable[Blob]) -> IO[str]:
    file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - gone when nobody holds it any more
    for blob in blobs:
        modified = blob.last_modified and (blob.last_modified - _EPOCH) // _MICROSECOND
        file.write(json.dumps([blob.key, blob.size, modified, blob.version]) + "\n")
    file.seek(0)
    return file


def _read(file: IO[str]) -> Iterator[Blob]:
    with file:
        for line in file:
            key, size, modified, version = json.loads(line)
            yield Blob(key, size, None if modified is None else _EPOCH + modified * _MICROSECOND, version)
