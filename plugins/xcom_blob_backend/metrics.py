"""Figures of pushes and pulls, through whatever metrics Airflow is configured with. ``docs/backend.md`` lists them."""

from __future__ import annotations

import contextlib
from datetime import timedelta


def emit(what: str, *, store: str, seconds: float, raw_bytes: int, stored_bytes: int) -> None:
    """Tell of a push or a pull. Never raises: a value is worth more than its metrics.

    :param what: ``push`` or ``pull``.
    :param store: ``inline``, or the scheme of the store that the blob is in.
    :param raw_bytes: of the value as JSON.
    :param stored_bytes: as it is stored, compressed and encrypted.
    """
    with contextlib.suppress(Exception):
        try:
            from airflow.sdk.observability.stats import Stats
        except ImportError:  # Airflow before 3.2
            from airflow.stats import Stats

        name, tags = f"xcom_blob_backend.{what}", {"store": store}
        # As a duration, since clients disagree on the unit of a bare number.
        Stats.timing(f"{name}.{'inline' if store == 'inline' else 'blob'}", timedelta(seconds=seconds), tags=tags)
        Stats.incr(f"{name}.raw_bytes", raw_bytes, tags=tags)
        Stats.incr(f"{name}.stored_bytes", stored_bytes, tags=tags)
