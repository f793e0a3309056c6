"""One deployment per base path: a marker object names the metadata database that owns the blobs."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import ImplausiblePlan
from include.xcom_maintenance.core.records import DatabaseIdentity
from include.xcom_maintenance.flow.guard import Objection
from include.xcom_maintenance.reports.report import Report

#: Relative to the base path. No backend names its blobs like this.
OWNER_MARKER = ".xcom-maintenance-owner.json"


def marked_owner(blobs: BlobStore) -> str | None:
    """The owner of the base path according to its marker; None if there is no marker."""
    content = blobs.get(OWNER_MARKER)
    if content is None:
        return None
    try:
        return str(json.loads(content)["owner"])
    except (ValueError, KeyError, TypeError):
        return "unknown (its marker cannot be read)"


def is_anothers(marked: str | None, owner: str) -> bool:
    """Whether a base path is marked as somebody else's.

    :param marked: as ``marked_owner`` found it.
    :param owner: who we are.
    """
    return marked is not None and marked != owner


def warn_of_another(report: Report, marked: str | None, owner: str) -> None:
    """Say in the report, in any mode, that the base path has another owner: who enforces there may take our blobs."""
    if is_anothers(marked, owner):
        report.warn(
            f"The blob base path has another owner, the metadata database {marked}; this one is {owner}. What the "
            "owner finds no row for it moves into quarantine, values of this Airflow too: xcom_restore puts those "
            "back. Give each Airflow a base path of its own."
        )


def claim(blobs: BlobStore, identity: DatabaseIdentity) -> None:
    """Mark the base path as ours, unless it is marked already; to be called before anything is deleted.

    :raises ImplausiblePlan: if another database has marked it, even at this very moment.
    """
    if marked_owner(blobs) is None:
        note = "The XCom blobs below this path belong to the metadata database named here."
        marker = {"owner": identity.owner, "since": datetime.now(UTC).isoformat(timespec="seconds"), "note": note}
        blobs.put(OWNER_MARKER, json.dumps(marker, indent=2).encode())
    for objection in judge_owner(marked_owner(blobs), identity.owner):
        raise ImplausiblePlan(objection.problem, setting=objection.setting, remedy=objection.remedy)


def judge_owner(marked: str | None, owner: str) -> list[Objection]:
    """Objections to deleting blobs below a base path.

    :param marked: the owner according to the marker; None if there is no marker yet.
    :param owner: who we are.
    """
    if not is_anothers(marked, owner):
        return []
    return [
        Objection(
            f"The blob base path belongs to the metadata database {marked}, but the connection points to {owner}",
            "metadata_conn_id",
            "Fix the connection or the base path. If the database was moved, delete the marker object once",
        )
    ]
