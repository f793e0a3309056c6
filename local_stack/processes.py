"""Child processes that never outlive the Python process that started them.

Every server runs in a session of its own, for two reasons: a Ctrl-C in the terminal reaches only Python,
which then stops the servers in the right order; and the session finds whatever a server has forked, even the
process groups that Airflow opens for its tasks. A *guardian* process covers the ends that no ``finally`` sees
(SIGTERM, SIGKILL, a crash): it waits for its standard input to close, which happens however the parent dies,
and then clears up.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

# The kernel hands out ports from 32768 up to outgoing connections; a server that takes seconds to bind must
# not lose its port to one of them.
_SERVER_PORTS = range(15_000, 30_000)


class StackError(RuntimeError):
    """A server did not start, did not answer in time, or refused what was asked of it."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at the moment."""
    for _ in range(100):
        port = random.choice(_SERVER_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise StackError("No free TCP port found on 127.0.0.1")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment without what would steer Airflow, boto3, rclone, libpq or Python elsewhere."""
    unwanted = ("AIRFLOW", "_AIRFLOW", "AWS_", "RCLONE_", "PG", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    kept["NO_PROXY"] = kept["no_proxy"] = "127.0.0.1,localhost"
    return kept | dict(extra or {})


def wait_until(condition: Callable[[], bool], *, timeout: float, what: str, interval: float = 0.1) -> None:
    """Poll ``condition`` until it is true; ``StackError`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise StackError(f"{what}: not within {timeout:.0f} s")
        time.sleep(interval)


def accepts_connections(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Stoppable(ABC):
    """What runs until it is stopped, at the latest at the end of a ``with``."""

    @abstractmethod
    def stop(self) -> None:
        """May be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ChildProcess(Stoppable):
    """One server: its own session, its output in one log file, stopped together with all that it started."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        *,
        log_file: Path,
        env: Mapping[str, str],
        cwd: Path,
        uid: int | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace: float = 10.0,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._stop_signal = stop_signal
        self._grace = grace
        self._asked_to_stop_at: float | None = None
        self._stopped = False
        guardian = _guardian()
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [os.fspath(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                **as_user(uid),
            )
        guardian.watch_session(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, ready: Callable[[], bool], *, timeout: float) -> None:
        """Poll ``ready``; ``StackError`` with the end of the log if the server ends or takes too long."""

        def ready_or_ended() -> bool:
            if not self.is_running():
                raise StackError(f"it ended with exit code {self._process.returncode}")
            return ready()

        try:
            wait_until(ready_or_ended, timeout=timeout, what="not ready", interval=0.05)
        except StackError as error:
            raise StackError(f"{self.name}: {error}\n{self.log_file}:\n{self.log_tail()}") from None

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def ask_to_stop(self) -> float:
        """Send the stop signal, for servers that should shut down at the same time; returns when it was sent.

        Only once: Airflow takes a second signal as an order to drop everything.
        """
        if self._asked_to_stop_at is None:
            self._process.send_signal(self._stop_signal)
            self._asked_to_stop_at = time.monotonic()
        return self._asked_to_stop_at

    def stop(self) -> None:
        """Ask the server to end, then end what is left of its session. May be called more than once."""
        if self._stopped:
            return
        descendants = _descendants(self.pid)
        deadline = self.ask_to_stop() + self._grace
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        _kill(descendants, self.pid)
        self._process.wait()
        self._stopped = True
        _guardian().forget_session(self.pid)


def as_user(uid: int | None) -> dict[str, Any]:
    """Arguments for ``subprocess`` that run a child under this uid alone, or as the caller if None."""
    return {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}


@contextlib.contextmanager
def private_folder(prefix: str, *, uid: int | None = None) -> Iterator[Path]:
    """A temporary folder for one uid only, removed however this process ends."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    _guardian().watch_folder(path)
    try:
        if uid is not None:
            os.chown(path, uid, uid)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _guardian().forget_folder(path)


def _kill(known: set[psutil.Process], session: int) -> None:
    """Kill what is left of a session: its members, and descendants that opened sessions of their own."""
    for process in known | _descendants(session) | _session_members(session):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _descendants(pid: int) -> set[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return set(psutil.Process(pid).children(recursive=True))
    return set()


def _session_members(session: int) -> set[psutil.Process]:
    members = set()
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(pid) == session:
                members.add(psutil.Process(pid))
    return members


class _Guardian:
    """The parent's side: tells the guardian process what to clear up if the parent dies."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def watch_session(self, session: int) -> None:
        self._tell("watch", "session", session)

    def forget_session(self, session: int) -> None:
        self._tell("forget", "session", session)

    def watch_folder(self, folder: Path) -> None:
        self._tell("watch", "folder", str(folder))

    def forget_folder(self, folder: Path) -> None:
        self._tell("forget", "folder", str(folder))

    def _tell(self, verb: str, kind: str, value: int | str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([verb, kind, value]).encode() + b"\n")
        self._process.stdin.flush()


_guardians: dict[int, _Guardian] = {}


def _guardian() -> _Guardian:
    """This process's guardian, started when first needed. A forked child gets one of its own."""
    if os.getpid() not in _guardians:
        _guardians[os.getpid()] = _Guardian()
    return _guardians[os.getpid()]


def _guard(orders: IO[bytes]) -> None:
    """The guardian process: note what to watch until the parent is gone, then end and remove what is left."""
    watched: dict[tuple[str, int | str], None] = {}
    for line in orders:
        verb, kind, value = json.loads(line)
        if verb == "watch":
            watched[kind, value] = None
        else:
            watched.pop((kind, value), None)
    _end_sessions([int(value) for kind, value in watched if kind == "session"])
    for kind, value in watched:
        if kind == "folder":
            shutil.rmtree(str(value), ignore_errors=True)


def _end_sessions(leaders: Iterable[int], grace: float = 5.0) -> None:
    """Ask only the leaders: a server ends its own children in its own order. Then kill whoever is left."""
    running = []
    for leader in leaders:
        with contextlib.suppress(psutil.NoSuchProcess):
            running.append(psutil.Process(leader))
    descendants = {process.pid: _descendants(process.pid) for process in running}
    for process in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(running, timeout=grace)
    for process in running:
        _kill(descendants[process.pid], process.pid)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _guard(sys.stdin.buffer)
