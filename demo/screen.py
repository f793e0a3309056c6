"""What the demo shows: plain lines with the seconds since its start, and one table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence


class Screen:
    """Prints progress; every line says how long the demo has been running."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def heading(self, text: str) -> None:
        print(f"\n{self._elapsed()} == {text}", flush=True)

    def line(self, text: str) -> None:
        print(f"{self._elapsed()}    {text}", flush=True)

    def detail(self, text: str) -> None:
        print(f"{'':8}      {text}", flush=True)

    def block(self, text: str) -> None:
        """Text of several lines, indented."""
        for line in text.splitlines():
            self.detail(line)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """The first column to the left, the others to the right."""
        lines = [list(columns), *map(list, rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
        lines.insert(1, ["-" * width for width in widths])
        print()
        for first, *others in lines:
            cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            print("  ".join(["   ", first.ljust(widths[0]), *cells]))
        print(flush=True)

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._start:6.1f} s"
