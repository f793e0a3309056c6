"""What Airflow calls when something has failed for good. Cheap to import, since every DAG file does."""

from __future__ import annotations

from typing import Any


def on_failure(context: Any) -> None:
    """A task has had its last try: tell the configured notifier, from the worker."""
    from include.xcom_maintenance.flow import news

    news.tell_failure(context)


def on_run_failure(context: Any) -> None:
    """A run has failed: tell the notifier from the DAG processor, if no task could.

    Airflow calls nothing for a task whose process was killed, for instance for want of memory, but for its run.
    """
    from include.xcom_maintenance.flow import news

    news.tell_run_failure(context)
