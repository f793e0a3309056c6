"""The layouts in which known XCom backends name their blobs.

Only a key of a known layout can be an orphan; everything else under the base path is left alone.
"""

from __future__ import annotations

import re
from typing import Protocol

from include.xcom_maintenance.core.records import Coordinates

#: What makes a blob's name unique in every known layout. Wherever it stands in a value, the blob may be meant.
UNIQUE_PART = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


class Layout(Protocol):
    """How one backend names its blobs."""

    name: str

    def match(self, key: str) -> Coordinates | None:
        """The task instance that a key (relative to the base path) belongs to, or None if it is not of this layout."""


class ObjectStorageLayout:
    """``<dag_id>/<run_id>/<task_id>/<uuid4>[.<compression>]``: XComObjectStorageBackend of the common.io provider.

    Source: ``airflow.providers.common.io.xcom.backend.XComObjectStorageBackend.serialize_value``, which names the file
    with ``uuid.uuid4()`` and appends the suffix that fsspec lists for the configured compression.
    """

    name = "XComObjectStorageBackend"
    _KEY = re.compile(
        r"(?P<dag>[^/]+)/(?P<run>[^/]+)/(?P<task>[^/]+)/"
        rf"{UNIQUE_PART}(?:\.[a-z0-9]{{1,8}})?"
    )

    def match(self, key: str) -> Coordinates | None:
        found = self._KEY.fullmatch(key) if key.isprintable() else None
        if found is None or {".", ".."} & set(found.group("dag", "run", "task")):
            return None
        return Coordinates(found["dag"], found["run"], found["task"])


LAYOUTS: tuple[Layout, ...] = (ObjectStorageLayout(),)


def coordinates_of(key: str) -> Coordinates | None:
    """The task instance that a key belongs to, by the first layout that knows it; None if no layout does."""
    return next((found for layout in LAYOUTS if (found := layout.match(key)) is not None), None)


def unique_part(key: str) -> str | None:
    """The part of a blob's key that no other blob shares; None for a key of no known layout."""
    found = re.search(UNIQUE_PART, key.rsplit("/", 1)[-1])
    return found.group() if found and coordinates_of(key) is not None else None


def belongs_to(key: str, owner: Coordinates, *, ignored_prefixes: tuple[str, ...] = ()) -> bool:
    """Whether a blob is one that a known backend wrote for this task instance.

    A row may hold the path of anything; only what a backend wrote for that very row goes when the row goes.
    """
    return coordinates_of(key) == owner and not key.startswith(ignored_prefixes)
