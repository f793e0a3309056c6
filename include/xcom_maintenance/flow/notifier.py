"""Notifies people through any Airflow notifier: mail, chat, pager.

The settings ``notifier`` and ``notifier_kwargs`` configure it. Its arguments may hold a secret, such as a webhook URL,
so neither they nor the text of its errors are ever shown.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.settings.common import CommonSettings

log = logging.getLogger("xcom_maintenance")

PLAN_REFUSED = "plan_refused"
WAITING_APPROVAL = "waiting_approval"
FAILURE = "failure"
NOT_ENFORCED = "not_enforced"
AUDIT_BREACH = "audit_breach"


@dataclass(frozen=True, slots=True)
class News:
    """A notification; the notifier's templates see it as ``xcom_maintenance``."""

    event: str
    dag_id: str
    run_id: str
    #: One or two sentences for people, without any value of an XCom.
    message: str
    #: The summary of a task, if one got that far: status, mode, figures, path of the report.
    summary: Mapping[str, Any] = field(default_factory=dict)

    def for_templates(self) -> dict[str, Any]:
        told = {"event": self.event, "dag_id": self.dag_id, "run_id": self.run_id, "message": self.message}
        return {"status": "failed", "mode": "", "report": None, **self.summary, **told}


def check(settings: CommonSettings) -> None:
    """Make sure the notifier works before there is something to report.

    :raises ConfigurationError: if the notifier cannot be created.
    """
    if settings.notifier is not None:
        _make(settings.notifier, settings.notifier_kwargs)


def send(news: News, *, settings: CommonSettings, context: Mapping[str, Any]) -> str | None:
    """Notify, if a notifier is configured. Never raises: a notification must not fail a run.

    :param context: of the task or of its callback.
    :returns: a warning for the report if it could not be sent.
    """
    if settings.notifier is None:
        return None
    try:
        notifier = _make(settings.notifier, settings.notifier_kwargs)
        seen = {**context, "xcom_maintenance": news.for_templates()}
        seen.update((name, getattr(notifier, name, None)) for name in notifier.template_fields)
        # Calling it would log the text of an error, which may contain a webhook URL.
        notifier.render_template_fields(seen)
        notifier.notify(seen)
    except Exception as error:  # noqa: BLE001 - as many kinds as there are notifiers
        why = error.problem if isinstance(error, ConfigurationError) else type(error).__name__
        warning = f"The notification {news.event} could not be sent: {why} (settings: notifier, notifier_kwargs)."
        log.warning("%s", warning)
        return warning
    log.info("Sent the notification %s through %s", news.event, settings.notifier)
    return None


def _make(path: str, arguments: Mapping[str, Any]) -> Any:
    from airflow.sdk import BaseNotifier

    remedy = "Give the full path of a class, such as airflow.providers.smtp.notifications.smtp.SmtpNotifier"
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # noqa: BLE001 - a module may raise anything when it is imported
        raise ConfigurationError(
            f"The notifier {path} cannot be imported: {type(error).__name__}",
            setting="notifier",
            remedy=f"{remedy}, and install its provider on the workers and the DAG processor",
        ) from None
    if not (isinstance(found, type) and issubclass(found, BaseNotifier)):
        raise ConfigurationError(f"{path} is not an Airflow notifier", setting="notifier", remedy=remedy)
    _mask(arguments)
    try:
        inspect.signature(found).bind(**arguments)
        return found(**copy.deepcopy(dict(arguments)))
    except Exception as error:  # noqa: BLE001 - a constructor may raise anything, and quote anything
        given = ", ".join(sorted(arguments)) or "none"
        raise ConfigurationError(
            f"The notifier {path} does not accept these arguments ({given}): {type(error).__name__}",
            setting="notifier_kwargs",
            remedy=f"It accepts {_parameters(found)}",
        ) from None


def _parameters(notifier: type) -> str:
    named = [
        p for p in inspect.signature(notifier).parameters.values() if p.kind not in {p.VAR_KEYWORD, p.VAR_POSITIONAL}
    ]
    needed = [p.name for p in named if p.default is p.empty]
    optional = [p.name for p in named if p.default is not p.empty and p.name != "context"]
    return (
        "; ".join(
            [
                *([f"required: {', '.join(needed)}"] if needed else []),
                *([f"optional: {', '.join(optional)}"] if optional else []),
            ]
        )
        or "no arguments"
    )


def _mask(arguments: Mapping[str, Any]) -> None:
    """Have Airflow mask URLs in its logs: the URL of a webhook is its password."""
    from airflow.sdk.log import mask_secret

    for text in _texts(arguments):
        if "://" in text and "{{" not in text:
            mask_secret(text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
