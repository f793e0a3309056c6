"""The plugin ``xcom_blob_backend`` as the jobs need it.

``mover`` is for the offloading of large values, ``vault`` for the rotation of keys.
"""

from __future__ import annotations

from typing import Any

from include.xcom_maintenance.core.records import ValuePlace


def coordinates(place: ValuePlace) -> Any:
    """The entry of a row, as the plugin names it: its blob is bound to that."""
    from xcom_blob_backend.header import Coordinates

    return Coordinates(place.dag_id, place.run_id, place.task_id, place.key, place.map_index)
