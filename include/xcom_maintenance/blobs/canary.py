"""Whether a store really honours the condition of a delete: asked of the store itself, with an object of no worth.

An endpoint's name says nothing about it. AWS honours an ETag for each object of a DeleteObjects call; other servers of
the same API ignore it there and honour it in single deletes, or ignore it everywhere and delete what was written again.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable

#: Beside the owner marker, and like it of no backend's layout.
CANARY_PREFIX = ".xcom-maintenance-canary-"
CANARY = b"Probes whether deletes honour conditions. It can be deleted.\n"
#: What a canary holds that could not be deleted: the next probe takes its name, so that they do not add up.
LEFT = b"Left here by a probe of whether deletes honour conditions, which may not delete it. It can be deleted.\n"
#: Times that a delete is tried where the store asks for patience: about half a minute in all.
ATTEMPTS = 9


def canary_key() -> str:
    """A name for one probe, so that tasks that probe at the same time do not disturb each other."""
    return f"{CANARY_PREFIX}{uuid.uuid4().hex}"


def honours_conditions(
    *, put: Callable[[], str | None], refused: Callable[[str], bool], is_there: Callable[[], bool], wrong: str
) -> bool:
    """Whether a delete with a wrong version is refused, and one with the right version deletes.

    :param put: writes the canary; returns its version.
    :param refused: asks for its deletion on condition of a version; whether the store said that it does not hold.
    :param is_there: what the store says matters less than what it does.
    :param wrong: a well-formed version that the canary does not have.
    """
    version = put()
    if version is None or version == wrong:
        return False
    return refused(wrong) and is_there() and not refused(version) and not is_there()


def pause(attempt: int) -> None:
    """Wait before the next attempt, the longer the more there were, up to 10 s; at random, so that tasks spread out."""
    time.sleep(min(10.0, 0.2 * 2**attempt) * random.uniform(0.5, 1))  # noqa: S311 - nothing to guess here
