"""Tells the configured notifier what needs a person, from tasks and from the callbacks of the DAGs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from include.xcom_maintenance.core.errors import (
    ConfigurationError,
    FailedBefore,
    ImplausiblePlan,
    MaintenanceError,
    ThresholdBreached,
)
from include.xcom_maintenance.flow import notifier
from include.xcom_maintenance.flow.run_context import fallback_place, run_of, some_settings
from include.xcom_maintenance.settings.common import CommonSettings

log = logging.getLogger("xcom_maintenance")


def tell(
    event: str, message: str, *, context: Mapping[str, Any], summary: Mapping[str, Any] | None = None
) -> str | None:
    """Tell the configured notifier, if there is one, what needs a person. Never raises.

    :param event: one of the events of ``notify``.
    :param message: one or two sentences, without any value of an XCom.
    :param context: of the task, or of its callback.
    :param summary: what a task of the run returned.
    :returns: a warning for the report if it could not be told.
    """
    shown = {**summary, "report": str(summary["report"]).removesuffix(".json") + ".md"} if summary else {}
    try:
        news = notifier.News(event, *run_of(context), message, shown)
        settings = notifier_settings(context)
    except Exception as error:  # noqa: BLE001 - reading a Variable asks a server
        why = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
        log.warning("The notifier could not be told of %s: %s", event, why)
        return f"The notifier could not be told of {event}: {why}"
    return notifier.send(news, settings=settings, context=context)


def notifier_settings(context: Mapping[str, Any]) -> CommonSettings:
    """Whom to tell."""
    return some_settings(context, "notifier", "notifier_kwargs")


def tell_failure(context: Mapping[str, Any]) -> None:
    """Tell the notifier that a task has failed for good, unless that is no news.

    It is none if it was told already, that the guard refused or that a threshold was crossed, or if the task only
    failed because one before it did: that one has told, or was killed, and then the run tells.
    """
    from airflow.providers.common.compat.sdk import AirflowFailException

    error: Any = context.get("exception")
    # That `_run` raised it "from None" hides its cause from the log, not from us.
    cause = error.__context__ if isinstance(error, BaseException) else None
    if isinstance(cause, FailedBefore):
        log.info("A task before this one has failed, which is not told again")
        return
    if isinstance(cause, ImplausiblePlan | ThresholdBreached):
        _remember_told(context)
        return
    task_id = getattr(context.get("ti"), "task_id", "?")
    if isinstance(error, MaintenanceError | AirflowFailException):
        why = str(error)
    elif isinstance(error, BaseException):  # its text could quote a value
        why = f"{type(error).__name__}; see the task log"
    else:
        why = "it was killed or lost; see the logs of its worker and of the scheduler"
    if tell(notifier.FAILURE, f"The task {task_id} has failed: {why}", context=context) is None:
        _remember_told(context)


def tell_run_failure(context: Mapping[str, Any]) -> None:
    """Tell the notifier that a run has failed, unless one of its tasks lived long enough to tell."""
    with suppress(Exception):  # what cannot be read has told nobody
        if _told_of(context).exists():
            log.info("A task has told that run %s failed", run_of(context)[1])
            return
    message = "The run has failed and no task could say why: one was killed or lost; see the logs of tasks and workers"
    tell(notifier.FAILURE, message, context=context)


def _remember_told(context: Mapping[str, Any]) -> None:
    with suppress(Exception):  # then it is told twice, which is better than not at all
        if notifier_settings(context).notifier is not None:
            _told_of(context).write_text("The failure of this run has been told.\n", encoding="utf-8")


def _told_of(context: Mapping[str, Any]) -> Any:
    """The file that says that a task of this run has told of its failure."""
    return fallback_place(context).file(".told")
