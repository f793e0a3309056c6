"""What every task of the DAGs does around its job: settings, report, stores, and errors that people can read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any, TypeVar

from include.xcom_maintenance import settings as configuration
from include.xcom_maintenance import stores
from include.xcom_maintenance.core.errors import ConfigurationError, ImplausiblePlan, MaintenanceError
from include.xcom_maintenance.core.sizes import human_bytes
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.markdown import figure, label, render
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Approval, Report
from include.xcom_maintenance.settings import Settings

log = logging.getLogger("xcom_maintenance")
_T = TypeVar("_T")


def run_plan(
    step: Callable[[Job], None],
    *,
    may_delete: bool = True,
    may_insert: bool = False,
    needs_blobs: bool = True,
    kind: type[Settings] = Settings,
) -> dict[str, Any]:
    """Run the first step of a DAG in the current task.

    :param may_delete: whether the DAG deletes rows when it enforces.
    :param may_insert: whether it inserts rows then.
    :param needs_blobs: whether the DAG looks at blobs at all.
    :param kind: the settings that the DAG has.
    :returns: a small summary: status, mode, the headline, the paths of the report and of the manifest.
    :raises AirflowFailException: for what only a person can mend, so that it is not tried again.
    """
    return _run(step, planned=None, may_delete=may_delete, may_insert=may_insert, needs_blobs=needs_blobs, kind=kind)


def run_apply(
    step: Callable[[Job], None],
    planned: Mapping[str, Any],
    *,
    may_delete: bool = True,
    may_insert: bool = False,
    kind: type[Settings] = Settings,
) -> dict[str, Any]:
    """Run the step that carries out what the first one planned, and ends the run.

    :param planned: the summary of the first step.
    :param may_delete: whether it deletes rows.
    :returns: a small summary, as ``run_plan``.
    :raises AirflowSkipException: if the mode is report, or was when the plan was made: such a plan has passed no guard.
    """
    return _run(step, planned=planned, may_delete=may_delete, may_insert=may_insert, needs_blobs=True, kind=kind)


def run_part(step: Callable[[Job], _T], planned: Mapping[str, Any]) -> _T:
    """Run a step between the two, perhaps beside others of its kind, which leaves the report to the last one.

    :param planned: the summary of the first step.
    :returns: what the step does.
    :raises AirflowSkipException: as ``run_apply``, or if the plan was rejected.
    """
    results: list[_T] = []
    _run(lambda job: results.append(step(job)), planned=planned, may_delete=True, needs_blobs=True, ends=False)
    return results[0]


def run_finish(step: Callable[[Job], None], planned: Mapping[str, Any] | None, *, begun: bool) -> dict[str, Any]:
    """Run the last step, whatever became of those before it.

    :param planned: the summary of the first step; None if it failed.
    :param begun: whether the plan began to be carried out.
    :raises AirflowFailException: if a step before it failed so that there is nothing to finish.
    """
    from airflow.providers.common.compat.sdk import AirflowFailException

    if planned is None:
        raise AirflowFailException("There is no plan to finish: see the log of the task plan.")
    if not begun and planned["mode"] == "enforce":
        _, _, report = _at_the_desk(planned)
        if report.error is not None:  # in the report already
            raise AirflowFailException(report.error["message"])
    return run_apply(step, planned)


def ask(planned: Mapping[str, Any]) -> tuple[str, str, timedelta]:
    """Subject and text of the question whether a plan above a limit is carried out, and how long to wait.

    :param planned: the summary of the first step.
    """
    settings, place, report = _at_the_desk(planned)
    report.status = "waiting"
    place.write(report)
    subject = f"Delete {planned['rows_to_delete']:,} XCom rows ({human_bytes(planned['bytes_to_delete'])})?"
    return subject, render(report, short=True), timedelta(hours=settings.approval_timeout_hours)


def answered(planned: Mapping[str, Any], approval: Approval, who: str | None) -> None:
    """Put the answer into the report."""
    _, place, report = _at_the_desk(planned)
    report.approval = f"{approval} by {who}" if who else approval
    report.finish("planned" if approval is Approval.GIVEN else "rejected")
    log.info("The plan was %s", report.approval)
    place.write(report)


def _at_the_desk(planned: Mapping[str, Any]) -> tuple[configuration.Settings, ReportPlace, Report]:
    """The settings, and the report that the first step of this run wrote."""
    new, params = _new_report()
    settings = _resolve(params).settings
    place = ReportPlace(stores.report_root(settings), new.dag_id, new.run_id)
    return settings, place, _planned_report(place, planned)


def _new_report() -> tuple[Report, Mapping[str, Any]]:
    from airflow.sdk import get_current_context

    context = get_current_context()
    dag_run: Any = context["dag_run"]
    params = {**context["params"], **(dag_run.conf or {})}
    return Report(dag_id=dag_run.dag_id, run_id=dag_run.run_id), params


def _run(
    step: Callable[[Job], None],
    *,
    planned: Mapping[str, Any] | None,
    may_delete: bool,
    may_insert: bool = False,
    needs_blobs: bool = True,
    kind: type[Settings] = Settings,
    ends: bool = True,
) -> dict[str, Any]:
    """Run a step; one that does not end the run leaves the report alone unless it fails."""
    from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

    report, params = _new_report()
    place: ReportPlace | None = None
    try:
        resolved = _resolve(params, kind)
        settings, mode = resolved.settings, resolved.settings.mode_of(report.dag_id)
        if planned is not None and "report" in (mode, planned["mode"]):
            raise AirflowSkipException("The mode is report, so nothing is changed.")
        place = ReportPlace(stores.report_root(settings), report.dag_id, report.run_id)
        archives = Archives(stores.archive_root(settings))
        if planned is not None:
            report = _planned_report(place, planned)
            report.error = None  # of an attempt before this one
            if report.status == "rejected":
                raise AirflowSkipException(f"The plan was {report.approval}, so nothing is changed.")
        report.mode, report.settings = mode, resolved.described()
        if planned is None:
            place.write(report)  # proves, before any work, that it can be written
        with ExitStack() as stack:
            metadata = stack.enter_context(stores.open_metadata(settings))
            with report.phase("check" if planned is None else "check again"):
                configured = stores.open_blobs(resolved) if needs_blobs else None
                identity = metadata.check(
                    may_delete=may_delete and mode == "enforce",
                    may_insert=may_insert and mode == "enforce",
                    reads_references=configured is not None,
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
                archives=archives,
                log=log,
            )
            step(job)
        if not ends:
            return {}
        place.write(report)
    except AirflowSkipException:
        raise
    except Exception as error:
        _record(report, error, place, params)
        if isinstance(error, ConfigurationError | ImplausiblePlan):
            raise AirflowFailException(str(error)) from None
        raise
    return _summary(report, place)


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
    return report


def _resolve(params: Mapping[str, Any], kind: type[Settings]) -> configuration.Resolved:
    return configuration.resolve([*(read() for read in _sources(params)), *stores.airflow_layers()], kind)


def _sources(params: Mapping[str, Any]) -> list[Callable[[], configuration.Layer]]:
    """Where users set settings, the strongest first; each is read when it is called."""
    from airflow.sdk import Variable

    return [
        lambda: configuration.form_layer(params),
        lambda: configuration.variable_layer(Variable.get(configuration.VARIABLE, default=None)),
        configuration.file_layer,
    ]


def _record(report: Report, error: Exception, place: ReportPlace | None, params: Mapping[str, Any]) -> None:
    """Put what stopped the run into the report, and the report wherever it can still be written."""
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
        (place or _fallback_place(report, params)).write(report)
    except MaintenanceError as second:
        log.error("The report could not be written either: %s", second)


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
    return {
        "status": report.status,
        "mode": report.mode,
        **report.headline,
        "report": str(place.file(".json")),
        "manifest": report.manifest,
        "plan_id": report.plan_id,
        "approval": report.approval,
    }
