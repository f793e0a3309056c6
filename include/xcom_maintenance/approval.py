"""Asks a person in the Airflow UI whether a plan above a limit is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from include.xcom_maintenance.reports.report import Approval

#: Written into the field of the same name, so that a task that was not asked says so.
_NOT_NEEDED = "The plan is within its limits, or its mode is report: nobody is asked."


class ApproveLargePlan(ApprovalOperator):  # type: ignore[misc]
    """Waits for an answer if the plan asks for approval; no answer in time, or "Reject", deletes nothing.

    :param planned: the summary of the task that planned.
    """

    template_fields = (*ApprovalOperator.template_fields, "planned")

    def __init__(self, *, planned: Any, **kwargs: Any) -> None:
        self.planned = planned
        super().__init__(subject="Carry out the plan?", defaults=[self.REJECT], **kwargs)

    def execute(self, context: Any) -> Any:
        from include.xcom_maintenance import tasks

        if self.planned["approval"] != Approval.NEEDED:
            self.log.info(_NOT_NEEDED)
            return None
        self.subject, self.body, self.response_timeout = tasks.ask(self.planned)
        return super().execute(context)

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> Any:
        from include.xcom_maintenance import tasks

        given = not event.get("error") and event.get("chosen_options") == [self.APPROVE]
        timed_out = event.get("timedout") or event.get("error_type") == "timeout"
        approval = Approval.TIMED_OUT if timed_out else Approval.REJECTED
        user = event.get("responded_by_user")
        name = (user.get("name") if isinstance(user, Mapping) else getattr(user, "name", None)) if user else None
        tasks.answered(self.planned, Approval.GIVEN if given else approval, name)
        return super().execute_complete(context, dict(event))
