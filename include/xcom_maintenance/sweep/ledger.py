"""Lists of the blobs that were actually deleted; a kill loses no entry.

A list is closed after many batches, and an open list may be lost. So before a batch is deleted, its blobs are written
to a file of their own, which is removed when the list is closed. After an interruption the next attempt reads that
file, checks which of the blobs are gone, and writes the missing list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count, islice
from types import TracebackType
from typing import Any

from include.xcom_maintenance.core.errors import UnreadableManifest
from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.reports.place import ManifestWriter, ReportPlace

#: A list is closed at this many lines, so that there is little more than that to look up after an interruption.
LINES = 50_000
#: Blobs looked up at a time.
_AT_ONCE = 1_000


class Ledger:
    """What one task of a run deletes, over all its attempts: a context manager around the deletions.

    :param part: the task, if there are several; each has its own lists.
    :param header: the first line of each list. Its ``plan_id`` distinguishes them from those of an earlier plan.
    :param line: the line for a deleted blob: ``kind``, ``key``, ``bytes``, ``version``, and more.
    :param look: finds the blobs that exist among some keys.
    """

    def __init__(
        self,
        place: ReportPlace,
        part: str,
        *,
        header: dict[str, Any],
        line: Callable[[Blob], dict[str, Any]],
        look: Callable[[Sequence[str]], Iterator[Blob]],
    ) -> None:
        self._place, self._header, self._line, self._look = place, header, line, look
        self._prefix = f"{part}." if part else ""
        #: How many blobs were deleted, and their bytes, by kind of line; earlier attempts included.
        self.blobs: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        #: How many blobs went in earlier attempts.
        self.earlier = 0
        self._number = 0
        self._batches = 0
        self._list: ManifestWriter | None = None
        self._files = ExitStack()

    def __enter__(self) -> Ledger:
        """Count what earlier attempts deleted, and write the list of one that was interrupted."""
        for self._number in count(1):
            batches = next(n for n in count() if not self._place.has_lines(self._intention(n + 1)))
            if batches and not self._is_closed():
                self._reconstruct(batches)
            elif not batches and not self._place.has_lines(self._name):
                break
            self._add_up()
            self._forget(batches)
        self.earlier = self.blobs.total()
        return self

    @property
    def goes_on(self) -> bool:
        """Whether earlier attempts deleted anything."""
        return self.earlier > 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._close()
        else:
            # The interrupted batch may have deleted more than it recorded, so this list stays open and does not count.
            self._files.__exit__(kind, error, trace)

    def intend(self, blobs: Iterable[Blob]) -> None:
        """Write down what is about to be deleted, if nothing changes by then."""
        if self._list is not None and self._list.lines > LINES:
            self._close()
        self._batches += 1
        with self._place.write_lines(self._intention(self._batches), lasting=True) as lines:
            lines.add(**self._header)
            for blob in blobs:
                lines.add(**self._line(blob))
        if self._list is None:
            self._list = self._files.enter_context(self._place.write_lines(self._name, lasting=True))
            self._list.add(**self._header)

    def add(self, blob: Blob) -> None:
        """Write down that an intended blob was deleted."""
        assert self._list is not None  # noqa: S101 - every deletion is intended first
        line = self._line(blob)
        self._list.add(**line)
        self.blobs[line["kind"]] += 1
        self.bytes[line["kind"]] += blob.size

    # -- files --------------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"{self._prefix}deleted-{self._number}"

    def _intention(self, batch: int) -> str:
        return f"{self._prefix}deleting-{self._number}-{batch}"

    def _close(self) -> None:
        if self._list is not None:
            self._files.close()
            self._forget(self._batches)
            self._list, self._number, self._batches = None, self._number + 1, 0

    def _forget(self, batches: int) -> None:
        for batch in range(batches, 0, -1):  # the first one last: batches are found by counting from it
            self._place.drop_lines(self._intention(batch))

    # -- what earlier attempts left -----------------------------------------------------------------------------------

    def _is_closed(self) -> bool:
        try:
            return self._place.has_lines(self._name) and all(True for _ in self._place.read_lines(self._name))
        except UnreadableManifest:
            return False

    def _add_up(self) -> None:
        lines = self._place.read_lines(self._name)
        if next(lines, {}).get("plan_id") == self._header["plan_id"]:
            for line in lines:
                self.blobs[line["kind"]] += 1
                self.bytes[line["kind"]] += line["bytes"]

    def _reconstruct(self, batches: int) -> None:
        """Write the list again: the intended blobs that are gone."""
        with self._place.write_lines(self._name, lasting=True) as found:
            for batch in range(1, batches + 1):
                lines = _as_far_as_it_goes(self._place.read_lines(self._intention(batch)))
                header = next(lines, None)
                if batch == 1:
                    found.add(**(header or self._header))
                while some := list(islice(lines, _AT_ONCE)):
                    there = {blob.key: blob.version for blob in self._look([line["key"] for line in some])}
                    for line in some:
                        if line["key"] not in there or there[line["key"]] != line["version"]:
                            found.add(**line)


def _as_far_as_it_goes(lines: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The readable lines. A batch whose file was cut short deleted nothing: all its blobs will still be found."""
    try:
        yield from lines
    except UnreadableManifest:
        return
