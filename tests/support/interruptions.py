"""What happens to a job at a chosen moment: it is killed, or something else goes down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest


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
