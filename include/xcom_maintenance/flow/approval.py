"""Asks somebody in the Airflow UI to approve or reject a plan above a limit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from include.xcom_maintenance.reports.report import Approval, Report

if TYPE_CHECKING:
    from include.xcom_maintenance.reports.place import ReportPlace
    from include.xcom_maintenance.settings.common import CommonSettings

log = logging.getLogger("xcom_maintenance")


class ApproveLargePlan(ApprovalOperator):  # type: ignore[misc]
    """Waits for an answer if the plan needs approval; "Reject", or no answer in time, means nothing is deleted.

    :param planned: the summary of the task that planned.
    """

    template_fields = (*ApprovalOperator.template_fields, "planned")

    def __init__(self, *, planned: Any, **kwargs: Any) -> None:
        self.planned = planned
        super().__init__(subject="Carry out the plan?", defaults=[self.REJECT], **kwargs)

    def execute(self, context: Any) -> Any:
        if self.planned["approval"] != Approval.NEEDED:
            log.info("No approval needed: the plan is within its limits, or the mode is report.")
            return None
        with _final_errors():
            question = ask(context, self.planned)
        if question is None:
            log.info("This plan has already been approved.")
            return None
        self.subject, self.body, timeout = question
        # The first releases of the operator only have the task's timeout, and would wait forever.
        setattr(self, "response_timeout" if hasattr(self, "response_timeout") else "execution_timeout", timeout)
        return super().execute(context)

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> Any:
        given = not event.get("error") and event.get("chosen_options") == [self.APPROVE]
        timed_out = event.get("timedout") or event.get("error_type") == "timeout"
        user = event.get("responded_by_user")
        name = user.get("name") if isinstance(user, Mapping) else getattr(user, "name", None)
        rejected = Approval.TIMED_OUT if timed_out else Approval.REJECTED
        with _final_errors():
            answered(context, self.planned, Approval.GIVEN if given else rejected, name)
        return super().execute_complete(context, dict(event))


@contextmanager
def _final_errors() -> Iterator[None]:
    """Fail the task at once, without retries, on errors that only a person can fix."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    from include.xcom_maintenance.core.errors import ConfigurationError

    try:
        yield
    except ConfigurationError as error:
        raise AirflowFailException(str(error)) from None


def ask(context: Any, planned: Mapping[str, Any]) -> tuple[str, str, timedelta] | None:
    """Note in the report that the plan awaits approval, and notify.

    :param planned: the summary of the task that planned.
    :returns: subject and text of the question (Markdown), and how long to wait; None if the plan was approved before,
        as when the task is cleared: then it may be under way, or carried out, and the report must not forget that.
    """
    from include.xcom_maintenance.flow import notifier
    from include.xcom_maintenance.flow.news import tell
    from include.xcom_maintenance.reports.markdown import render

    place, report, settings = _planned(context, planned)
    if report.approval and report.approval.startswith(Approval.GIVEN):
        return None
    report.status, report.finished_at = "waiting", None
    question, hours = str(report.question), settings.approval_timeout_hours
    warning = tell(
        notifier.WAITING_APPROVAL,
        f"{question} {report.objections[0]['problem']}. Without an answer within {hours:g} h the plan is rejected.",
        context=context,
        summary=planned,
    )
    report.warnings += [warning] if warning else []
    place.write(report)
    return question, render(report, short=True), timedelta(hours=hours)


def answered(context: Any, planned: Mapping[str, Any], approval: Approval, who: str | None) -> None:
    """Put the answer into the report."""
    from include.xcom_maintenance.flow import metrics

    place, report, _ = _planned(context, planned)
    report.approval = f"{approval} by {who}" if who else str(approval)
    report.finish("planned" if approval is Approval.GIVEN else "rejected")
    log.info("The plan was %s", report.approval)
    place.write(report)
    if approval is not Approval.GIVEN:  # no later task of the run will report it
        metrics.emit(report, metrics.Before.of(report))


def _planned(context: Any, planned: Mapping[str, Any]) -> tuple[ReportPlace, Report, CommonSettings]:
    """The report that the first step of this run wrote, where it lies, and the settings of both."""
    from include.xcom_maintenance.flow.run_context import place_of, planned_report, some_settings

    settings = some_settings(context, "report_path", "approval_timeout_hours")
    place = place_of(context, settings)
    return place, planned_report(place, planned), settings
