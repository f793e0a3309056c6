"""What the last reconciliation saw: the number of references, and a sample of the keys.

Stored next to the reports of the DAG, as ``.reconciled``, a name that no run id produces.
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
    """What it saw of one base path and one metadata database."""

    database: str
    base: str
    references: int
    objects: int
    #: Keys spread evenly over the listing.
    sample: list[str]


def last_reconciliation(job: ReconciliationJob) -> LastReconciliation | None:
    """What the last reconciliation of this base path and database saw; None if unknown.

    Never raises: an unreadable file counts as unknown.
    """
    with suppress(Exception):
        found = LastReconciliation(**json.loads(job.place.beside(_NAME).read_text(encoding="utf-8")))
        if (found.database, found.base) == (job.identity.owner, str(job.blob_store.base)):
            return found
    return None


def remember(place: ReportPlace, last: LastReconciliation) -> None:
    """Store it for the next run. Never raises: it is not worth failing a run for."""
    try:
        place.beside(_NAME).write_text(json.dumps(asdict(last)) + "\n", encoding="utf-8")
    except Exception as error:  # noqa: BLE001 - every file system that fsspec knows raises its own errors
        log.warning(
            "Could not save this run's reference count for the next run: %s (report_path)", type(error).__name__
        )
