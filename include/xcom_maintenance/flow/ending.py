"""The end of a step: errors go into the report, figures to the task log, and notifications out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from include.xcom_maintenance.core.errors import ImplausiblePlan, MaintenanceError, ThresholdBreached
from include.xcom_maintenance.flow import notifier
from include.xcom_maintenance.flow.news import tell
from include.xcom_maintenance.flow.run_context import fallback_place
from include.xcom_maintenance.reports.enforcement import WARNING, enforcement_of
from include.xcom_maintenance.reports.markdown import figure, label
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.settings.common import CommonSettings

log = logging.getLogger("xcom_maintenance")


def look_back(report: Report, place: ReportPlace, settings: CommonSettings) -> str | None:
    """Remember a run that enforced; at the end of a plan, warn if the last one was too long ago."""
    now = datetime.now(UTC)
    report.warnings = [warning for warning in report.warnings if not warning.startswith(WARNING)]
    known = enforcement_of(place, now=now, enforced=report.status == "enforced")
    warning = known.warning(now=now, limit_days=settings.warn_not_enforced_days, mode=report.mode)
    report.warnings += [warning] if warning else []
    return warning


def record(report: Report, error: Exception, place: ReportPlace | None, context: Any) -> ReportPlace | None:
    """Put the error into the report, and write the report wherever that still works; returns where."""
    known = isinstance(error, MaintenanceError)
    report.error = {
        "type": type(error).__name__,
        # The text of an unknown error could quote a value; its type and the task log have to do.
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


def tell_of(event: str, message: str, report: Report, place: ReportPlace | None, context: Mapping[str, Any]) -> None:
    """As ``tell``; if that fails, a warning is added to the report that was already written."""
    warning = tell(event, message, context=context, summary=_figures(report, place) if place else None)
    if warning and place is not None:
        report.warnings.append(warning)
        with suppress(MaintenanceError):
            place.write(report)


def tell_of_breaches(
    breaches: list[str], report: Report, place: ReportPlace, context: Mapping[str, Any], *, fail: bool
) -> None:
    """Notify of crossed thresholds, and fail the run if the settings say so.

    :param fail: the setting ``fail_on_breach``.
    :raises AirflowFailException: a retry would not help.
    """
    from airflow.providers.common.compat.sdk import AirflowFailException

    tell_of(notifier.AUDIT_BREACH, "; ".join(breaches), report, place, context)
    try:
        if fail:
            raise ThresholdBreached(
                "; ".join(breaches), setting="fail_on_breach", remedy=f"See the report: {place.file('.md')}"
            )
    except ThresholdBreached as error:
        log.error("%s", error)
        raise AirflowFailException(str(error)) from None


def summary(report: Report, place: ReportPlace) -> dict[str, Any]:
    """What a step returns; also written to the task log."""
    log.info("Status: %s (mode: %s)", report.status, report.mode)
    for name, value in report.headline.items():
        log.info("  %s: %s", label(name), figure(name, value))
    log.info("Report: %s (with charts: %s)", place.file(".md"), place.file(".html"))
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
