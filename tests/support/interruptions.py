"""What happens to a job at a chosen moment: it is killed, or something else goes down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


class Killed(BaseException):
    """Not an Exception: no handler of the bundle sees it, as none would see a kill."""


def kill() -> None:
    raise Killed


@contextmanager
def interrupted_at(
    moment: int | None, calls: Sequence[tuple[type, str]], how: Callable[[], None]
) -> Iterator[Callable[[], int]]:
    """Do something before (odd moments) or after (even) the n-th of these calls; None: never.

    Yields a count of the moments there were.
    """
    moments = 0

    def count() -> None:
        nonlocal moments
        moments += 1
        if moments == moment:
            how()

    def wrap(original: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            count()
            result = original(*args, **kwargs)
            count()
            return result

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in calls:
            patch.setattr(owner, name, wrap(getattr(owner, name)))
        yield lambda: moments


def killed_at(moment: int, calls: Sequence[tuple[type, str]]) -> AbstractContextManager[Callable[[], int]]:
    """Kill before (odd moments) or after (even) the n-th of these calls; 0: never."""
    return interrupted_at(moment, calls, kill)


def run_until_killed(script: str, *arguments: object) -> None:
    """Run a script in a process of its own, which must end by a SIGKILL that it sends to itself."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
