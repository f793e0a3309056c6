"""The figures of each task as Airflow metrics: StatsD, Datadog or OpenTelemetry, as configured.

The names never contain a user's DAG or run id, so their number stays small.
``docs/monitoring.md`` lists them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from include.xcom_maintenance.reports.report import Report

log = logging.getLogger("xcom_maintenance")

PREFIX = "xcom_maintenance"
#: Figures of work done are counters; a second attempt adds only its own share.
_DONE = re.compile(r"_(deleted|restored|quarantined|moved|reencrypted)(_|$)")


@dataclass(slots=True)
class Before:
    """The figures a report already had when this task took it over."""

    figures: Mapping[str, Any] = field(default_factory=dict)
    phases: int = 0

    @classmethod
    def of(cls, report: Report) -> Before:
        return cls(dict(report.headline), len(report.phases))


def emit(report: Report, before: Before) -> None:
    """Send what a task found and did. Never raises: metrics must not fail a run.

    :param before: the report as the task found it.
    """
    try:
        _emit(report, before)
    except Exception as error:  # noqa: BLE001 - as many kinds as there are clients and networks
        log.warning(
            "The metrics of this task could not be sent: %s (see [metrics] in airflow.cfg)", type(error).__name__
        )


def _emit(report: Report, before: Before) -> None:
    from airflow.providers.common.compat.sdk import Stats

    prefix = f"{PREFIX}.{report.dag_id}"
    for name, value in report.headline.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if _DONE.search(name):
            earlier = before.figures.get(name, 0)
            Stats.incr(f"{prefix}.{name}", max(0, int(value) - int(earlier)))
        else:
            Stats.gauge(f"{prefix}.{name}", value)
    for phase in report.phases[before.phases :]:
        # As a duration, since clients disagree on the unit of a bare number.
        Stats.timing(f"{prefix}.phase.{_word(phase['name'])}", timedelta(seconds=phase["seconds"]))
    Stats.incr(f"{prefix}.status.{_word(report.status)}")


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "_", text.lower())
