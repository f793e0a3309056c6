"""What a task or a callback knows about its run: ids, settings, and where the report lies."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.reports.roots import report_root
from include.xcom_maintenance.settings.common import CommonSettings
from include.xcom_maintenance.settings.layers import Layer, Resolved, resolve
from include.xcom_maintenance.settings.sources import airflow_layers, sources

_S = TypeVar("_S", bound=CommonSettings)


def run_of(context: Mapping[str, Any]) -> tuple[str, str]:
    """The ids of DAG and run; a callback for a worker that was lost may know no more than the task instance."""
    known: Any = context.get("dag_run") or context.get("ti")
    return known.dag_id, known.run_id


def params_of(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the trigger form says."""
    return {**(context.get("params") or {}), **(getattr(context.get("dag_run"), "conf", None) or {})}


def settings_of(context: Mapping[str, Any], kind: type[_S]) -> Resolved[_S]:
    """The settings in force for this run.

    :param kind: the settings that the DAG has.
    :raises ConfigurationError: if any is wrong, whichever DAG it is of.
    """
    return resolve([*(read() for read in sources(params_of(context))), *airflow_layers()], kind)


def some_settings(context: Mapping[str, Any], *names: str) -> CommonSettings:
    """Only these settings, wherever they can be read: others may be wrong, and that may be just what is to be told.

    :raises ConfigurationError: if one of these is wrong.
    """
    values: dict[str, Any] = {}
    for read in sources(params_of(context)):
        with suppress(ConfigurationError):
            found = read().values
            values = {**{name: found[name] for name in names if name in found}, **values}
    fallback = [Layer(layer.name, _only(layer.values, names)) for layer in airflow_layers()]
    return resolve([Layer("settings", values), *fallback], CommonSettings).settings


def _only(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def place_of(context: Mapping[str, Any], settings: CommonSettings) -> ReportPlace:
    """Where the report of this run lies.

    :raises ConfigurationError: if the report path is no path.
    """
    return ReportPlace(report_root(settings), *run_of(context))


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


def fallback_place(context: Mapping[str, Any]) -> ReportPlace:
    """Where the report goes if the settings are wrong: the report path alone may still be right.

    :raises ConfigurationError: if it is not, or leads among the blobs.
    """
    try:
        settings = some_settings(context, "report_path", "blob_base_path")
    except ConfigurationError:
        settings = some_settings(context, "report_path")
    return place_of(context, settings)
