"""How work gives way to others: it pauses, backs off while the database is busy, and stops when time is up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.metadata.ports.shared import BusyMetadata, Pressure
from include.xcom_maintenance.settings.common import CommonSettings

#: Seconds between two checks of the database; the checks must not become a load themselves.
_LOOK_EVERY = 1.0
#: Seconds of the first and of the longest wait; each is twice the one before.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
#: Seconds after which the rest is left for the next run if the database stays busy.
_PATIENCE = 600.0


def deadline_of(settings: CommonSettings) -> datetime | None:
    """When work that begins now has to stop (UTC); None: when all is done."""
    minutes = settings.max_minutes
    return None if minutes is None else datetime.now(UTC) + timedelta(minutes=minutes)


@dataclass
class Courtesy:
    """Decides between batches whether to go on.

    :param deadline: when to stop (UTC); None: when all is done.
    """

    settings: CommonSettings
    metadata: BusyMetadata
    log: logging.Logger
    deadline: datetime | None
    sleep: Callable[[float], None] = time.sleep
    #: Seconds spent waiting for others.
    waited: float = 0.0
    #: Why the work stopped early; empty if it did not.
    stopped: str = ""
    _last_look: float = float("-inf")

    def go_on(self) -> bool:
        """Wait while the database is busy; False if the rest must be left for the next run."""
        if self.settings.batch_pause_seconds:
            self.sleep(self.settings.batch_pause_seconds)
        if self._time_is_up():
            return False
        if time.monotonic() - self._last_look < _LOOK_EVERY:
            return True
        return self._wait_for_others()

    def _time_is_up(self) -> bool:
        if self.deadline is not None and datetime.now(UTC) >= self.deadline:
            self.stopped = self.stopped or "the time budget (max_minutes) is used up"
        return bool(self.stopped)

    def _wait_for_others(self) -> bool:
        settings = self.settings
        if settings.max_lock_waits is None and settings.max_replication_lag_seconds is None:
            return True
        wait, waited = _FIRST_WAIT, 0.0
        while busy := self._busy(self.metadata.pressure()):
            if waited >= _PATIENCE:
                self.stopped = f"the database stayed busy: {busy}"
                self.log.warning("Stopping: %s", self.stopped)
                return False
            self.log.info("Waiting %.1f s: %s", wait, busy)
            self.sleep(wait)
            waited += wait
            self.waited += wait
            wait = min(2 * wait, _LONGEST_WAIT)
            if self._time_is_up():
                return False
        self._last_look = time.monotonic()
        return True

    def _busy(self, pressure: Pressure) -> str:
        """What is above its limit, in words; empty if nothing is."""
        lock_limit, lag_limit = self.settings.max_lock_waits, self.settings.max_replication_lag_seconds
        if lock_limit is not None and pressure.lock_waits > lock_limit:
            return f"{counted(pressure.lock_waits, 'lock wait')} (max_lock_waits: {lock_limit})"
        lag = pressure.replication_lag_seconds
        if lag_limit is not None and lag is not None and lag > lag_limit:
            return f"replication lag of {lag:.0f} s (max_replication_lag_seconds: {lag_limit:g})"
        return ""
