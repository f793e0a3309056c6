"""What a trend needs from past audits of the same database."""

from __future__ import annotations

import json
import logging
from datetime import UTC, date, datetime
from typing import Any

from include.xcom_maintenance.reports.paths import path_errors
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.size_audit.growth import DagGrowth, PastAudit

log = logging.getLogger("xcom_maintenance")

#: A folder may hold other reports, such as those of failed runs: this many files are read for each that is wanted.
_FILES_FOR_EACH = 3


def past_audits(place: ReportPlace, limit: int, *, database: str | None = None) -> list[PastAudit]:
    """The audits before this one, newest first. One that cannot be read is left out, and the log says so.

    :param place: that of the current run, which is not a past audit.
    :param limit: how many at most.
    :param database: only of this one: the owner of a ``DatabaseIdentity``; None: of any.
    :raises ConfigurationError: if the report path cannot be read.
    """
    folder, own = place.file("").parent, place.file(".json").name
    with path_errors(folder.parent, "read", setting="report_path"):
        files = [path for path in folder.iterdir() if path.name.endswith(".json") and path.name != own]
    # A run id ends with its date, unless somebody chose it.
    files.sort(key=lambda path: path.name.rpartition("__")[2], reverse=True)
    found = []
    for path in files[: limit * _FILES_FOR_EACH]:
        try:
            audit = _audit(json.loads(path.read_text(encoding="utf-8")), database)
        except Exception as error:  # noqa: BLE001 - every file system raises its own errors, and a file may hold anything
            log.warning("Left the past report %s out of the trend: %s", path.name, type(error).__name__)
            continue
        if audit is not None:
            found.append(audit)
    return sorted(found, key=lambda audit: audit.moment, reverse=True)[:limit]


def _audit(report: dict[str, Any], database: str | None) -> PastAudit | None:
    """A completed audit; None for any other report, or one of another database."""
    if report["status"] != "audited" or "table_total_bytes" not in report["headline"]:
        return None
    growth = report.get("details", {}).get("growth", {})
    if database is not None and growth.get("database", database) != database:
        return None
    moment = datetime.fromisoformat(report["finished_at"])
    return PastAudit(
        moment if moment.tzinfo else moment.replace(tzinfo=UTC),
        int(report["headline"]["table_total_bytes"]),
        date.fromisoformat(growth["day"]) if growth.get("day") else None,
        {dag_id: DagGrowth(*figures) for dag_id, figures in growth.get("dags", {}).items()},
    )
