"""What every task of the DAGs does around its job: settings, report, stores, and errors that people can read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Any

from include.xcom_maintenance import metrics, notify, stores
from include.xcom_maintenance import settings as configuration
from include.xcom_maintenance.core.errors import ConfigurationError, ImplausiblePlan, MaintenanceError
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.reports.enforcement import WARNING, enforcement_of
from include.xcom_maintenance.reports.markdown import figure, label
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report

log = logging.getLogger("xcom_maintenance")


def run_plan(step: Callable[[Job], None], *, may_delete: bool = True, needs_blobs: bool = True) -> dict[str, Any]:
    """Run the first step of a DAG in the current task.

    :param may_delete: whether the DAG deletes rows when it enforces.
    :param needs_blobs: whether the DAG looks at blobs at all.
    :returns: a small summary: status, mode, the headline, the paths of the report and of the manifest.
    :raises AirflowFailException: for what only a person can mend, so that it is not tried again.
    """
    return _run(step, planned=None, may_delete=may_delete, needs_blobs=needs_blobs)


def run_apply(step: Callable[[Job], None], planned: Mapping[str, Any], *, may_delete: bool = True) -> dict[str, Any]:
    """Run the second step, which carries out what the first one planned.

    :param planned: the summary of the first step.
    :returns: a small summary, as ``run_plan``.
    :raises AirflowSkipException: if the mode is report, or was when the plan was made: such a plan has passed no guard.
    """
    return _run(step, planned=planned, may_delete=may_delete, needs_blobs=True)


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
        news = notify.News(event, *_run_of(context), message, shown)
        settings = _notifier_settings(_params_of(context))
    except Exception as error:  # noqa: BLE001 - reading a Variable asks a server
        why = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
        log.warning("The notifier could not be told of %s: %s", event, why)
        return f"The notifier could not be told of {event}: {why}"
    return notify.send(news, settings=settings, context=context)


def tell_failure(context: Mapping[str, Any]) -> None:
    """Tell the notifier that a task has failed for good, unless it was told already that the guard refused."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    error: Any = context.get("exception")
    # That `_run` raised it "from None" hides its cause from the log, not from us.
    if isinstance(error, BaseException) and isinstance(error.__context__, ImplausiblePlan):
        _remember_told(context)
        return
    task_id = getattr(context.get("ti"), "task_id", "?")
    if isinstance(error, MaintenanceError | AirflowFailException):
        why = str(error)
    elif isinstance(error, BaseException):  # its text could quote a value
        why = f"{type(error).__name__}; see the task log"
    else:
        why = "it was killed or lost; see the logs of its worker and of the scheduler"
    if tell(notify.FAILURE, f"The task {task_id} has failed: {why}", context=context) is None:
        _remember_told(context)


def tell_run_failure(context: Mapping[str, Any]) -> None:
    """Tell the notifier that a run has failed, unless one of its tasks lived long enough to tell."""
    with suppress(Exception):  # what cannot be read has told nobody
        if _told_of(context).exists():
            log.info("A task has told that run %s failed", _run_of(context)[1])
            return
    message = "The run has failed and no task could say why: one was killed or lost; see the logs of tasks and workers"
    tell(notify.FAILURE, message, context=context)


def _remember_told(context: Mapping[str, Any]) -> None:
    with suppress(Exception):  # then it is told twice, which is better than not at all
        if _notifier_settings(_params_of(context)).notifier is not None:
            _told_of(context).write_text("The failure of this run has been told.\n", encoding="utf-8")


def _told_of(context: Mapping[str, Any]) -> Any:
    """The file that says that a task of this run has told of its failure."""
    return _fallback_place(Report(*_run_of(context)), _params_of(context)).file(".told")


def _run_of(context: Mapping[str, Any]) -> tuple[str, str]:
    """The ids of DAG and run; a callback for a worker that was lost may know no more than the task instance."""
    known: Any = context.get("dag_run") or context.get("ti")
    return known.dag_id, known.run_id


def _params_of(context: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**(context.get("params") or {}), **(getattr(context.get("dag_run"), "conf", None) or {})}


def _notifier_settings(params: Mapping[str, Any]) -> configuration.Settings:
    """Whom to tell; other settings may be wrong, and that may be just what is to be told."""
    values: dict[str, Any] = {}
    for read in _sources(params):
        with suppress(ConfigurationError):
            found = read().values
            values = {**{name: found[name] for name in ("notifier", "notifier_kwargs") if name in found}, **values}
    return configuration.resolve([configuration.Layer("settings", values)]).settings


def _run(
    step: Callable[[Job], None], *, planned: Mapping[str, Any] | None, may_delete: bool, needs_blobs: bool
) -> dict[str, Any]:
    from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
    from airflow.sdk import get_current_context

    context: Any = get_current_context()
    params = _params_of(context)
    report, before = Report(*_run_of(context)), metrics.Before()
    place: ReportPlace | None = None
    try:
        resolved = _resolve(params)
        settings, mode = resolved.settings, resolved.settings.mode_of(report.dag_id)
        if planned is not None and "report" in (mode, planned["mode"]):
            raise AirflowSkipException("The mode is report, so nothing is changed.")
        place = ReportPlace(stores.report_root(settings), report.dag_id, report.run_id)
        if planned is not None:
            report = _planned_report(place, planned)
            before = metrics.Before.of(report)
        report.mode, report.settings = mode, resolved.described()
        if planned is None:
            place.write(report)  # proves, before any work, that it can be written
            notify.check(settings)
            if settings.notifier is not None:
                place.file(".told").unlink(missing_ok=True)  # by a run that was cleared and runs again
        with ExitStack() as stack:
            metadata = stack.enter_context(stores.open_metadata(settings))
            with report.phase("check" if planned is None else "check again"):
                configured = stores.open_blobs(resolved) if needs_blobs else None
                identity = metadata.check(
                    may_delete=may_delete and mode == "enforce", reads_references=configured is not None
                )
                if configured is not None:
                    configured.store.check()
                    if planned is None:
                        report.warnings += stores.doubts(resolved, configured)
            job = Job(
                settings=settings,
                metadata=metadata,
                identity=identity,
                blobs=configured.store if configured else None,
                ignored_prefixes=configured.ignored_prefixes if configured else (),
                report=report,
                place=place,
                log=log,
            )
            step(job)
        idle = _look_back(report, place, settings) if may_delete else None
        place.write(report)
    except AirflowSkipException:
        raise
    except Exception as error:
        place = _record(report, error, place, params)
        metrics.emit(report, before)
        if isinstance(error, ImplausiblePlan):
            _tell(notify.PLAN_REFUSED, str(error), report, place, context)
        if isinstance(error, ConfigurationError | ImplausiblePlan):
            raise AirflowFailException(str(error)) from None
        raise
    metrics.emit(report, before)
    if idle is not None:
        _tell(notify.NOT_ENFORCED, idle, report, place, context)
    return _summary(report, place)


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


def _planned_report(place: ReportPlace, planned: Mapping[str, Any]) -> Report:
    """The report that the first step of this run wrote.

    :raises ConfigurationError: if it is another's: of a second Airflow with the same report path and run ids.
    """
    report = place.read()
    if report is None or report.plan_id != planned["plan_id"]:
        raise ConfigurationError(
            "The plan of this run is not where it was written, or has been overwritten by another Airflow",
            setting="report_path",
            remedy="Give each Airflow a report path of its own that all its workers share, and run the DAG again. "
            "Nothing was changed",
        )
    report.error = None  # of an attempt before this one
    return report


def _resolve(params: Mapping[str, Any]) -> configuration.Resolved:
    return configuration.resolve([*(read() for read in _sources(params)), *stores.airflow_layers()])


def _sources(params: Mapping[str, Any]) -> list[Callable[[], configuration.Layer]]:
    """Where users set settings, the strongest first; each is read when it is called."""
    from airflow.sdk import Variable

    return [
        lambda: configuration.form_layer(params),
        lambda: configuration.variable_layer(Variable.get(configuration.VARIABLE, default=None)),
        configuration.file_layer,
    ]


def _record(
    report: Report, error: Exception, place: ReportPlace | None, params: Mapping[str, Any]
) -> ReportPlace | None:
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
        place = place or _fallback_place(report, params)
        place.write(report)
    except MaintenanceError as second:
        log.error("The report could not be written either: %s", second)
        return None
    return place


def _fallback_place(report: Report, params: Mapping[str, Any]) -> ReportPlace:
    """Where the report goes if the settings are wrong: the report path alone may still be right."""
    path = None
    for read in _sources(params):
        with suppress(ConfigurationError):
            path = path or read().values.get("report_path")
    only = configuration.resolve([configuration.Layer("", {"report_path": path}), *stores.airflow_layers()])
    return ReportPlace(stores.report_root(only.settings), report.dag_id, report.run_id)


def _summary(report: Report, place: ReportPlace) -> dict[str, Any]:
    log.info("Status: %s (mode: %s)", report.status, report.mode)
    for name, value in report.headline.items():
        log.info("  %s: %s", label(name), figure(name, value))
    log.info("Report: %s", place.file(".md"))
    return _figures(report, place)


def _figures(report: Report, place: ReportPlace) -> dict[str, Any]:
    return {
        "status": report.status,
        "mode": report.mode,
        **report.headline,
        "report": str(place.file(".json")),
        "manifest": report.manifest,
        "plan_id": report.plan_id,
    }
