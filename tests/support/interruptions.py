"""What happens to a job at a chosen moment: it is killed, or something else goes down."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from airflow.sdk.io.store import _STORE_CACHE
from s3fs import S3FileSystem


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
    """Run a script in a process of its own, which must end by a SIGKILL that it sends to itself.

    A fork of this one: to import Airflow anew takes seconds, and is no part of what is tried.
    """
    with tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            try:
                sys.argv = ["script", *map(str, arguments)]
                _STORE_CACHE.clear()  # clients of S3 do not outlive a fork, and say so
                S3FileSystem.clear_instance_cache()
                exec(compile(script, "script", "exec"), {"__name__": "__main__"})
            except BaseException:  # noqa: BLE001 - nothing of the parent's may run here
                traceback.print_exc(file=errors)
                errors.flush()
            finally:
                os._exit(1)
        deadline = time.monotonic() + 300
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                pytest.fail("the process neither ended nor was killed")
            time.sleep(0.01)  # waitpid has no time limit of its own
        errors.seek(0)
        assert os.waitstatus_to_exitcode(ended[1]) == -signal.SIGKILL, errors.read()[-2000:]
