"""The callbacks for final failures. Cheap to import, because every DAG file does."""

from __future__ import annotations

from typing import Any


def on_failure(context: Any) -> None:
    """A task has failed for good: notify, from the worker."""
    from include.xcom_maintenance.flow import news

    news.tell_failure(context)


def on_run_failure(context: Any) -> None:
    """A run has failed: notify from the DAG processor if no task could.

    If the process of a task was killed (out of memory, say), Airflow only calls the callback of the run.
    """
    from include.xcom_maintenance.flow import news

    news.tell_run_failure(context)
