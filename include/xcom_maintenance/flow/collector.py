"""Python's collector of cycles, kept out of the way of long work."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's collector of cycles, which takes half the time of a plan.

    What many runs allocate has no cycles, and each look for them goes through all that Airflow has imported.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def heap_set_aside() -> Iterator[None]:
    """Let the collector pass over what is there already, which is all that Airflow has imported.

    Unlike ``uncollected`` for work of any length: the few cycles that clients of stores leave are still collected.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
