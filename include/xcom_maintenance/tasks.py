"""What every task of the DAGs does around its job: settings, report, stores, and errors that people can read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from include.xcom_maintenance import metrics, notify, stores
from include.xcom_maintenance import settings as configuration
from include.xcom_maintenance.core.errors import (
    ConfigurationError,
    FailedBefore,
    ImplausiblePlan,
    MaintenanceError,
    SharesFailed,
    ThresholdBreached,
)
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.news import tell
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.enforcement import WARNING, enforcement_of
from include.xcom_maintenance.reports.markdown import figure, label
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.run_context import fallback_place, params_of, planned_by, planned_report, resolve, run_of
from include.xcom_maintenance.settings import RestoreSettings, Settings

log = logging.getLogger("xcom_maintenance")
_T = TypeVar("_T")


def run_plan(
    step: Callable[[Job], None],
    *,
    may_delete: bool = True,
    may_insert: bool = False,
    may_update: bool = False,
    needs_blobs: bool | None = True,
    kind: type[Settings] = Settings,
) -> dict[str, Any]:
    """Run the first step of a DAG in the current task.

    :param may_delete: whether the DAG deletes rows when it enforces.
    :param may_insert: whether it inserts rows then.
    :param may_update: whether it replaces values in rows then.
    :param needs_blobs: whether the DAG looks at blobs at all; None: if it can, and else does without.
    :param kind: the settings that the DAG has.
    :returns: a small summary: status, mode, the headline, the paths of the report and of the manifest.
    :raises AirflowFailException: for what only a person can mend, so that it is not tried again.
    """
    rights = {"may_delete": may_delete, "may_insert": may_insert, "may_update": may_update}
    return _run(step, planned=None, **rights, needs_blobs=needs_blobs, kind=kind)


def publish(asset: Any, summary: Mapping[str, Any]) -> None:
    """Send the headline of a report along with the event of an asset that the current task updates.

    :param asset: one of the task's outlets.
    :param summary: what ``run_plan`` returned.
    """
    from airflow.sdk import get_current_context

    events: Any = get_current_context().get("outlet_events")
    if events is not None:
        events[asset].extra = {**events[asset].extra, **summary}


def run_apply(
    step: Callable[[Job], None],
    planned: Mapping[str, Any],
    *,
    may_delete: bool = True,
    may_insert: bool = False,
    may_update: bool = False,
    needs_blobs: bool | None = True,
    kind: type[Settings] = Settings,
) -> dict[str, Any]:
    """Run the step that carries out what the first one planned, and ends the run.

    :param planned: the summary of the first step.
    :param may_delete: whether it deletes rows.
    :param needs_blobs: whether it looks at blobs by our own adapters.
    :returns: a small summary, as ``run_plan``.
    :raises AirflowSkipException: if the mode is report, or was when the plan was made: such a plan has passed no guard.
    """
    rights = {"may_delete": may_delete, "may_insert": may_insert, "may_update": may_update}
    return _run(step, planned=planned, **rights, needs_blobs=needs_blobs, kind=kind)


def run_part(
    step: Callable[[Job], _T], planned: Mapping[str, Any], *, may_delete: bool = True, reports: bool = False
) -> _T:
    """Run a step between the two, perhaps beside others of its kind, which leaves the report to the last one.

    :param planned: the summary of the first step.
    :param may_delete: whether it deletes rows.
    :param reports: whether the step changes nothing, so that it is run in both modes.
    :returns: what the step does.
    :raises AirflowSkipException: as ``run_apply``, or if the plan was rejected.
    """
    results: list[_T] = []
    _run(
        lambda job: results.append(step(job)),
        planned=planned,
        may_delete=may_delete,
        needs_blobs=True,
        ends=False,
        reports=reports,
    )
    return results[0]


def run_decide(step: Callable[[Job], None], planned: Mapping[str, Any]) -> dict[str, Any]:
    """Run the step that ends a plan which several tasks have made, in both modes; it changes nothing.

    :param planned: the summary of the first step.
    :returns: a small summary, as ``run_plan``.
    """
    return _run(step, planned=planned, may_delete=False, needs_blobs=True, reports=True)


def run_finish(
    step: Callable[[Job], None], planned: Mapping[str, Any] | None, *, begun: bool, may_delete: bool = True
) -> dict[str, Any]:
    """Run the last step, whatever became of those before it.

    :param planned: the summary of the first step; None if it failed.
    :param begun: whether the plan began to be carried out.
    :param may_delete: whether it deletes rows.
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
    return run_apply(step, planned, may_delete=may_delete)


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
    *,
    planned: Mapping[str, Any] | None,
    may_delete: bool,
    may_insert: bool = False,
    may_update: bool = False,
    needs_blobs: bool | None = True,
    kind: type[Settings] = Settings,
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
        resolved = resolve(params_of(context), kind)
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
            _begin(report, place, settings)
        # Of a reconciliation the settings say whether it deletes rows, too.
        deletes = may_delete or (report.dag_id == "xcom_orphan_reconciliation" and settings.delete_dangling_rows)
        # And of a restore whether it puts back blobs instead of rows.
        inserts = may_insert and not (isinstance(settings, RestoreSettings) and settings.quarantine is not None)
        wanted = {"may_delete": deletes, "may_insert": inserts, "may_update": may_update}
        rights = {right: needed and mode == "enforce" for right, needed in wanted.items()}
        with _a_job(resolved, report, place, is_first=planned is None, needs_blobs=needs_blobs, rights=rights) as job:
            step(job)
            breaches = job.breaches
        if not ends:
            return {}
        idle = _look_back(report, place, settings) if may_delete else None
        place.write(report)
    except AirflowSkipException:
        raise
    except Exception as error:
        place = _record(report, error, place, context)
        metrics.emit(report, before)
        if isinstance(error, ImplausiblePlan):
            _tell(notify.PLAN_REFUSED, str(error), report, place, context)
        if isinstance(error, ConfigurationError | ImplausiblePlan | SharesFailed):
            raise AirflowFailException(str(error)) from None
        raise
    metrics.emit(report, before)
    if idle is not None:
        _tell(notify.NOT_ENFORCED, idle, report, place, context)
    if breaches:
        _breached(breaches, report, place, settings, context)
    return _summary(report, place)


def _breached(
    breaches: list[str], report: Report, place: ReportPlace, settings: Settings, context: Mapping[str, Any]
) -> None:
    """Tell what has crossed its threshold, and fail the run if that is what the settings say.

    :raises AirflowFailException: it was not for want of trying, so that it is not tried again.
    """
    from airflow.providers.common.compat.sdk import AirflowFailException

    _tell(notify.AUDIT_BREACH, "; ".join(breaches), report, place, context)
    try:
        if settings.fail_on_breach:
            raise ThresholdBreached(
                "; ".join(breaches), setting="fail_on_breach", remedy=f"See the report: {place.file('.md')}"
            )
    except ThresholdBreached as error:
        log.error("%s", error)
        raise AirflowFailException(str(error)) from None


def _begin(report: Report, place: ReportPlace, settings: Settings) -> None:
    """Prove, before any work, that the report can be written and that somebody can be told."""
    place.write(report)
    notify.check(settings)
    if settings.notifier is not None:
        place.file(".told").unlink(missing_ok=True)  # by a run that was cleared and runs again


@contextmanager
def _a_job(
    resolved: configuration.Resolved,
    report: Report,
    place: ReportPlace,
    *,
    is_first: bool,
    needs_blobs: bool | None,
    rights: dict[str, bool],
) -> Iterator[Job]:
    """Open the stores, and check them."""
    with stores.open_metadata(resolved.settings) as metadata:
        with report.phase("check" if is_first else "check again"):
            if needs_blobs is None:
                configured = _blobs_if_possible(resolved, report)
            else:
                configured = stores.open_blobs(resolved) if needs_blobs else None
            identity = metadata.check(**rights, reads_references=configured is not None and needs_blobs is True)
            if configured is not None and needs_blobs:
                configured.store.check()
                if is_first:
                    report.warnings += stores.doubts(resolved, configured)
        yield Job(
            settings=resolved.settings,
            metadata=metadata,
            identity=identity,
            blobs=configured.store if configured else None,
            quarantine=configured.quarantine if configured else None,
            ignored_prefixes=configured.ignored_prefixes if configured else (),
            report=report,
            place=place,
            archives=Archives(stores.archive_root(resolved.settings)),
            log=log,
        )


def _blobs_if_possible(resolved: configuration.Resolved, report: Report) -> stores.ConfiguredBlobs | None:
    """The blob store if it can be read; else a warning."""
    try:
        configured = stores.open_blobs(resolved)
        if configured is not None:
            configured.store.check()
        return configured
    except MaintenanceError as error:
        report.warnings.append(f"Blobs are left out: {error}")
        return None


def _look_back(report: Report, place: ReportPlace, settings: configuration.Settings) -> str | None:
    """Remember a run that enforced; at the end of a plan, warn if it has been long since there was one."""
    now = datetime.now(UTC)
    report.warnings = [warning for warning in report.warnings if not warning.startswith(WARNING)]
    known = enforcement_of(place, now=now, enforced=report.status == "enforced")
    warning = known.warning(now=now, limit_days=settings.warn_not_enforced_days, mode=report.mode)
    report.warnings += [warning] if warning else []
    return warning


def _tell(event: str, message: str, report: Report, place: ReportPlace | None, context: Mapping[str, Any]) -> None:
    """As ``tell``; that it could not be told goes into the report, which was written before."""
    warning = tell(event, message, context=context, summary=_figures(report, place) if place else None)
    if warning and place is not None:
        report.warnings.append(warning)
        with suppress(MaintenanceError):
            place.write(report)


def _record(report: Report, error: Exception, place: ReportPlace | None, context: Any) -> ReportPlace | None:
    """Put what stopped the run into the report, and the report wherever it can still be written; returns where."""
    known = isinstance(error, MaintenanceError)
    report.error = {
        "type": type(error).__name__,
        # The text of an unknown error could quote a value; its type and the task log say where to look.
        "message": str(error) if known else f"{type(error).__name__}; see the task log",
        "setting": getattr(error, "setting", None),
        "remedy": getattr(error, "remedy", None),
    }
    report.finish("refused" if isinstance(error, ImplausiblePlan) else "failed")
    log.error("%s", report.error["message"])
    try:
        place = place or fallback_place(context)
        place.write(report)
    except MaintenanceError as second:
        log.error("The report could not be written either: %s", second)
        return None
    return place


def _summary(report: Report, place: ReportPlace) -> dict[str, Any]:
    log.info("Status: %s (mode: %s)", report.status, report.mode)
    for name, value in report.headline.items():
        log.info("  %s: %s", label(name), figure(name, value))
    log.info("Report: %s, the same with charts: %s", place.file(".md"), place.file(".html"))
    return _figures(report, place)


def _figures(report: Report, place: ReportPlace) -> dict[str, Any]:
    return {
        "status": report.status,
        "mode": report.mode,
        **report.headline,
        "report": str(place.file(".json")),
        "html": str(place.file(".html")),
        "manifest": report.manifest,
        "plan_id": report.plan_id,
        "approval": report.approval,
    }
