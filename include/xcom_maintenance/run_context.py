"""What a task or a callback knows about its run: ids, settings, and where the report lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from include.xcom_maintenance import settings as configuration
from include.xcom_maintenance import stores
from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.settings import Settings


def run_of(context: Mapping[str, Any]) -> tuple[str, str]:
    """The ids of DAG and run; a callback for a worker that was lost may know no more than the task instance."""
    known: Any = context.get("dag_run") or context.get("ti")
    return known.dag_id, known.run_id


def params_of(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the trigger form says."""
    return {**(context.get("params") or {}), **(getattr(context.get("dag_run"), "conf", None) or {})}


def resolve(params: Mapping[str, Any], kind: type[Settings] = Settings) -> configuration.Resolved:
    """The settings in force for one run.

    :param params: of the trigger form.
    :param kind: the settings that the DAG has.
    """
    return configuration.resolve([*(read() for read in sources(params)), *stores.airflow_layers()], kind)


def sources(params: Mapping[str, Any]) -> list[Callable[[], configuration.Layer]]:
    """Where users set settings, the strongest first; each is read when it is called."""
    from airflow.sdk import Variable

    return [
        lambda: configuration.form_layer(params),
        lambda: configuration.variable_layer(Variable.get(configuration.VARIABLE, default=None)),
        configuration.file_layer,
    ]


def notifier_settings(params: Mapping[str, Any]) -> Settings:
    """Whom to tell; other settings may be wrong, and that may be just what is to be told."""
    values: dict[str, Any] = {}
    for read in sources(params):
        with suppress(ConfigurationError):
            found = read().values
            values = {**{name: found[name] for name in ("notifier", "notifier_kwargs") if name in found}, **values}
    return configuration.resolve([configuration.Layer("settings", values)]).settings


def planned_report(place: ReportPlace, planned: Mapping[str, Any]) -> Report:
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


def planned_by(
    context: Mapping[str, Any], planned: Mapping[str, Any]
) -> tuple[configuration.Settings, ReportPlace, Report]:
    """The settings, and the report that the first step of this run wrote."""
    settings = resolve(params_of(context)).settings
    place = ReportPlace(stores.report_root(settings), *run_of(context))
    return settings, place, planned_report(place, planned)


def fallback_place(context: Mapping[str, Any]) -> ReportPlace:
    """Where the report goes if the settings are wrong: the report path alone may still be right."""
    path = None
    for read in sources(params_of(context)):
        with suppress(ConfigurationError):
            path = path or read().values.get("report_path")
    only = configuration.resolve([configuration.Layer("", {"report_path": path}), *stores.airflow_layers()])
    return ReportPlace(stores.report_root(only.settings), *run_of(context))
