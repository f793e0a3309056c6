"""What Airflow calls when a task has failed for good. Cheap to import, since every DAG file does."""

from __future__ import annotations

from typing import Any


def on_failure(context: Any) -> None:
    """Tell the configured notifier: after the last try, and also, from the DAG processor, of a worker that was lost."""
    from include.xcom_maintenance import tasks

    tasks.tell_failure(context)
