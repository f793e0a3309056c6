"""The steps of a DAG: each runs a job in the current task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from include.xcom_maintenance import metrics, notify, stores
from include.xcom_maintenance.core.errors import ConfigurationError, FailedBefore, ImplausiblePlan, SharesFailed
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.run_context import params_of, planned_by, planned_report, resolve, run_of
from include.xcom_maintenance.tasks.ending import look_back, record, summary, tell_of, tell_of_breaches
from include.xcom_maintenance.tasks.needs import Needs
from include.xcom_maintenance.tasks.opening import begin, open_job

_T = TypeVar("_T")


def run_plan(step: Callable[[Job], None], needs: Needs) -> dict[str, Any]:
    """Run the first step of a DAG in the current task.

    :returns: a small summary: status, mode, the headline, the paths of the report and of the manifest.
    :raises AirflowFailException: for what only a person can mend, so that it is not tried again.
    """
    return _run(step, needs, planned=None)


def publish(asset: Any, summary: Mapping[str, Any]) -> None:
    """Send the headline of a report along with the event of an asset that the current task updates.

    :param asset: one of the task's outlets.
    :param summary: what ``run_plan`` returned.
    """
    from airflow.sdk import get_current_context

    events: Any = get_current_context().get("outlet_events")
    if events is not None:
        events[asset].extra = {**events[asset].extra, **summary}


def run_apply(step: Callable[[Job], None], needs: Needs, planned: Mapping[str, Any]) -> dict[str, Any]:
    """Run the step that carries out what the first one planned, and ends the run.

    :param planned: the summary of the first step.
    :returns: a small summary, as ``run_plan``.
    :raises AirflowSkipException: if the mode is report, or was when the plan was made: such a plan has passed no guard.
    """
    return _run(step, needs, planned=planned)


def run_part(step: Callable[[Job], _T], needs: Needs, planned: Mapping[str, Any], *, reports: bool = False) -> _T:
    """Run a step between the two, perhaps beside others of its kind, which leaves the report to the last one.

    :param planned: the summary of the first step.
    :param reports: whether the step changes nothing, so that it is run in both modes.
    :returns: what the step does.
    :raises AirflowSkipException: as ``run_apply``, or if the plan was rejected.
    """
    results: list[_T] = []
    _run(lambda job: results.append(step(job)), needs, planned=planned, ends=False, reports=reports)
    return results[0]


def run_decide(step: Callable[[Job], None], needs: Needs, planned: Mapping[str, Any]) -> dict[str, Any]:
    """Run the step that ends a plan which several tasks have made, in both modes; it changes nothing.

    :param planned: the summary of the first step.
    :returns: a small summary, as ``run_plan``.
    """
    return _run(step, needs, planned=planned, reports=True)


def run_finish(
    step: Callable[[Job], None], needs: Needs, planned: Mapping[str, Any] | None, *, begun: bool
) -> dict[str, Any]:
    """Run the last step, whatever became of those before it.

    :param planned: the summary of the first step; None if it failed.
    :param begun: whether the plan began to be carried out.
    :raises AirflowFailException: if a step before it failed so that there is nothing to finish.
    """
    from airflow.providers.common.compat.sdk import AirflowFailException

    try:
        if planned is None:
            raise FailedBefore(
                "There is nothing to finish, because there is no plan", remedy="See the logs of the tasks"
            )
        if not begun and planned["mode"] == "enforce":
            _why_not_begun(planned)
    except (ConfigurationError, FailedBefore) as error:
        raise AirflowFailException(str(error)) from error
    return run_apply(step, needs, planned)


def _why_not_begun(planned: Mapping[str, Any]) -> None:
    """A plan that was to be enforced was not: no harm if a person decided so.

    :raises FailedBefore: if it is because a task has failed.
    """
    from airflow.sdk import get_current_context

    settings, place, report = planned_by(get_current_context(), planned)
    if report.status == "rejected":
        return
    if settings.mode_of(report.dag_id) == "report":
        report.warnings.append("The mode was set back to report before the plan was carried out.")
        report.finish("reported")
        place.write(report)
        return
    if report.error is None:  # nobody could write it down
        message = "The plan was not carried out, because the task approve or share_out has failed. See its log"
        report.error = {"type": "FailedBefore", "message": message, "setting": None, "remedy": "See its log"}
        report.finish("failed")
        place.write(report)
    raise FailedBefore("Nothing was carried out", remedy=report.error["message"])


def _run(
    step: Callable[[Job], None],
    needs: Needs,
    *,
    planned: Mapping[str, Any] | None,
    ends: bool = True,
    reports: bool = False,
) -> dict[str, Any]:
    """Run a step; one that does not end the run leaves the report alone unless it fails."""
    from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
    from airflow.sdk import get_current_context

    context: Any = get_current_context()
    report, before, idle = Report(*run_of(context)), metrics.Before(), None
    breaches: list[str] = []
    place: ReportPlace | None = None
    try:
        resolved = resolve(params_of(context), needs.settings)
        settings, mode = resolved.settings, resolved.settings.mode_of(report.dag_id)
        if planned is not None and not reports and "report" in (mode, planned["mode"]):
            raise AirflowSkipException("The mode is report, so nothing is changed.")
        place = ReportPlace(stores.report_root(settings), report.dag_id, report.run_id)
        if planned is not None:
            report = planned_report(place, planned)
            if report.status == "rejected":
                raise AirflowSkipException(f"The plan was {report.approval}, so nothing is changed.")
            report.error = None  # of an attempt before this one
            before = metrics.Before.of(report)
        report.mode, report.settings = mode, resolved.described()
        if planned is None:
            begin(report, place, settings)
        with open_job(resolved, report, place, needs, is_first=planned is None) as job:
            step(job)
            breaches = job.breaches
        if not ends:
            return {}
        idle = look_back(report, place, settings) if needs.looks_back else None
        place.write(report)
    except AirflowSkipException:
        raise
    except Exception as error:
        place = record(report, error, place, context)
        metrics.emit(report, before)
        if isinstance(error, ImplausiblePlan):
            tell_of(notify.PLAN_REFUSED, str(error), report, place, context)
        if isinstance(error, ConfigurationError | ImplausiblePlan | SharesFailed):
            raise AirflowFailException(str(error)) from None
        raise
    metrics.emit(report, before)
    if idle is not None:
        tell_of(notify.NOT_ENFORCED, idle, report, place, context)
    if breaches:
        tell_of_breaches(breaches, report, place, settings, context)
    return summary(report, place)
