"""What the last reconciliation saw, for the next one: how many references there were, and where the keys lie.

Kept beside the reports of the DAG, as ``.reconciled``, to which no run id leads.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass

from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reports.place import ReportPlace

log = logging.getLogger("xcom_maintenance")
_NAME = ".reconciled"


@dataclass(frozen=True, slots=True)
class LastReconciliation:
    """Of one base path and one metadata database."""

    database: str
    base: str
    references: int
    objects: int
    #: Keys spread evenly over the listing.
    sample: list[str]


def last_reconciliation(job: ReconciliationJob) -> LastReconciliation | None:
    """What is known; None if nothing, or of another base path or database.

    Never raises: what cannot be read is not known.
    """
    with suppress(Exception):
        found = LastReconciliation(**json.loads(job.place.beside(_NAME).read_text(encoding="utf-8")))
        if (found.database, found.base) == (job.identity.owner, str(job.blob_store.base)):
            return found
    return None


def remember(place: ReportPlace, last: LastReconciliation) -> None:
    """Keep it for the next one. Never raises: it is not worth a run."""
    try:
        place.beside(_NAME).write_text(json.dumps(asdict(last)) + "\n", encoding="utf-8")
    except Exception as error:  # noqa: BLE001 - every file system that fsspec knows raises its own errors
        log.warning("What this run saw could not be kept for the next: %s (report_path)", type(error).__name__)
