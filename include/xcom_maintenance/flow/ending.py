"""The end of a step: what went wrong goes into the report, figures to the task log, news to people."""

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
    """Remember a run that enforced; at the end of a plan, warn if it has been long since there was one."""
    now = datetime.now(UTC)
    report.warnings = [warning for warning in report.warnings if not warning.startswith(WARNING)]
    known = enforcement_of(place, now=now, enforced=report.status == "enforced")
    warning = known.warning(now=now, limit_days=settings.warn_not_enforced_days, mode=report.mode)
    report.warnings += [warning] if warning else []
    return warning


def record(report: Report, error: Exception, place: ReportPlace | None, context: Any) -> ReportPlace | None:
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


def tell_of(event: str, message: str, report: Report, place: ReportPlace | None, context: Mapping[str, Any]) -> None:
    """As ``tell``; that it could not be told goes into the report, which was written before."""
    warning = tell(event, message, context=context, summary=_figures(report, place) if place else None)
    if warning and place is not None:
        report.warnings.append(warning)
        with suppress(MaintenanceError):
            place.write(report)


def tell_of_breaches(
    breaches: list[str], report: Report, place: ReportPlace, context: Mapping[str, Any], *, fail: bool
) -> None:
    """Tell what has crossed its threshold, and fail the run if that is what the settings say.

    :param fail: the setting ``fail_on_breach``.
    :raises AirflowFailException: it was not for want of trying, so that it is not tried again.
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
    """What a step hands on, told to the task log."""
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
