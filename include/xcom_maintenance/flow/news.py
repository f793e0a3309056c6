"""Sends notifications from tasks and from the callbacks of the DAGs."""

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
    """Send a notification, if a notifier is configured. Never raises.

    :param event: one of the events of ``notifier``.
    :param message: one or two sentences, without any value of an XCom.
    :param context: of the task, or of its callback.
    :param summary: what a task of the run returned.
    :returns: a warning for the report if it could not be sent.
    """
    shown = {**summary, "report": str(summary["report"]).removesuffix(".json") + ".md"} if summary else {}
    try:
        news = notifier.News(event, *run_of(context), message, shown)
        settings = notifier_settings(context)
    except Exception as error:  # noqa: BLE001 - reading a Variable asks a server
        why = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
        log.warning("The notification %s could not be sent: %s", event, why)
        return f"The notification {event} could not be sent: {why}."
    return notifier.send(news, settings=settings, context=context)


def notifier_settings(context: Mapping[str, Any]) -> CommonSettings:
    """The settings of the notifier."""
    return some_settings(context, "notifier", "notifier_kwargs")


def tell_failure(context: Mapping[str, Any]) -> None:
    """Notify that a task has failed for good, unless that is no news.

    It is not if the guard or a crossed threshold has already been reported, or if the task only failed because an
    earlier one did: that one has reported it, or was killed, in which case the callback of the run does.
    """
    from airflow.providers.common.compat.sdk import AirflowFailException

    error: Any = context.get("exception")
    # `_run` raises "from None", which hides the cause from the log but not from us.
    cause = error.__context__ if isinstance(error, BaseException) else None
    if isinstance(cause, FailedBefore):
        log.info("An earlier task of this run failed and has been reported; no second notification")
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
        why = "it was killed or lost; see the worker and scheduler logs"
    if tell(notifier.FAILURE, f"Task {task_id} failed: {why}", context=context) is None:
        _remember_told(context)


def tell_run_failure(context: Mapping[str, Any]) -> None:
    """Notify that a run has failed, unless one of its tasks has already done so."""
    with suppress(Exception):  # if it cannot be read, nobody was notified
        if _told_of(context).exists():
            log.info("A task of run %s has already reported the failure", run_of(context)[1])
            return
    message = "The run failed and no task could report why: one was killed or lost. See the task and worker logs"
    tell(notifier.FAILURE, message, context=context)


def _remember_told(context: Mapping[str, Any]) -> None:
    with suppress(Exception):  # then two notifications go out, which is better than none
        if notifier_settings(context).notifier is not None:
            _told_of(context).write_text("The failure of this run has been reported.\n", encoding="utf-8")


def _told_of(context: Mapping[str, Any]) -> Any:
    """The file that marks a failure of this run as reported."""
    return fallback_place(context).file(".told")
