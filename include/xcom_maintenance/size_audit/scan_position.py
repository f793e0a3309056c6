"""How far the secrets scan has come, and what it has found: ``<report path>/xcom_size_audit/.secrets``.

A separate file, so that pruned or failed reports do not set the scan back. It holds names and kinds, never a secret.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.size_audit.results import SecretFinding

log = logging.getLogger("xcom_maintenance")
_NAME = ".secrets"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class ScanPosition:
    """What scans have seen: what was pushed up to a moment, and of what is older the newest part."""

    #: Of ``DatabaseIdentity.owner``.
    database: str
    seen_until: datetime
    #: Where to go on among older values: (dag_run_id, moment of the push); None if there are none left.
    older: tuple[int, datetime] | None = None
    findings: list[SecretFinding] = field(default_factory=list)


def read_position(place: ReportPlace, database: str) -> ScanPosition | None:
    """Where the last scan of this database stopped; None if there was none, or that is unknown."""
    with suppress(Exception):  # if it cannot be read, scanning again does no harm
        found = json.loads(place.beside(_NAME).read_text(encoding="utf-8"))
        if found["version"] == _VERSION and found["database"] == database:
            older = found["older"]
            return ScanPosition(
                database,
                _moment(found["seen_until"]),
                None if older is None else (int(older[0]), _moment(older[1])),
                [_finding(finding) for finding in found["findings"]],
            )
    return None


def write_position(place: ReportPlace, position: ScanPosition) -> bool:
    """Remember where the scan stopped; returns whether that worked."""
    try:
        text = json.dumps({"version": _VERSION, **asdict(position)}, default=str, ensure_ascii=True)
        place.beside(_NAME).write_text(text + "\n", encoding="utf-8")
    except Exception as error:  # noqa: BLE001 - every file system that fsspec knows raises its own errors
        log.warning(
            "The position of the secrets scan could not be saved: %s (setting: report_path)", type(error).__name__
        )
        return False
    return True


def _finding(found: dict[str, Any]) -> SecretFinding:
    return SecretFinding(**{**found, "newest": _moment(found["newest"])})


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
