"""Logs the progress of long work from time to time."""

from __future__ import annotations

import logging
import time


class Progress:
    """Logs the progress of long work from time to time.

    :param every: seconds between two log lines.
    """

    def __init__(self, log: logging.Logger, what: str, *, total: int | None = None, every: float = 10) -> None:
        self._log = log
        self._what = what
        self._total = total
        self._every = every
        self._start = self._last = time.monotonic()
        self.done = 0

    def add(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            of = f" of {self._total:,}" if self._total is not None else ""
            self._log.info("%s: %s%s after %.0f s", self._what, f"{self.done:,}", of, now - self._start)
