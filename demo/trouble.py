"""The trouble XComs really get into: only its age is simulated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from demo.history import IMPORT, SALES, History, Run
from demo.measure import RowId, Snapshot, take_snapshot
from demo.screen import Screen
from demo.stack import BUCKET, DATABASE, PREFIX, Stack

#: Objects that belong to somebody else: beside the base path, and under it but in nobody's layout.
BYSTANDERS = ("other-team/model.bin", f"{PREFIX}README.txt")


@dataclass(frozen=True)
class RemovedBlob:
    """The live blob that was removed on purpose, and the row that still refers to it."""

    row: RowId
    key: str


def make_trouble(stack: Stack, history: History, screen: Screen) -> RemovedBlob:
    """Do the damage and say what was done."""
    for run in (history.find(SALES, 50), history.find(IMPORT, 50), history.find(SALES, 0)):
        stack.airflow.rest("DELETE", f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}")
        screen.line(f"Deleted through the REST API: {run.dag_id}, {run.age_days} days old; its blobs stay behind")
    _db_clean(stack, screen, older_than_days=55, archive=False)
    _db_clean(stack, screen, older_than_days=30, archive=True)
    removed = _remove_live_blob(stack, history.find(SALES, 2), take_snapshot(stack))
    screen.line(f"Removed a live blob: {removed.key}")
    for key in BYSTANDERS:
        stack.s3.client().put_object(Bucket=BUCKET, Key=key, Body=b"This belongs to somebody else.\n")
    screen.line(f"Added objects that belong to somebody else: {', '.join(BYSTANDERS)}")
    screen.line(f"Left unfinished: {history.unfinished.dag_id}, {history.unfinished.age_days} days old")
    return removed


def _db_clean(stack: Stack, screen: Screen, *, older_than_days: int, archive: bool) -> None:
    limit = datetime.now(UTC) - timedelta(days=older_than_days)
    options = [] if archive else ["--skip-archive"]
    before = len(take_snapshot(stack).rows)
    stack.airflow.cli(
        "db", "clean", "--tables", "xcom", "--clean-before-timestamp", limit.isoformat(), "--yes", *options
    )
    stack.postgres.grant_role(DATABASE)  # the archive table is new to the role of the maintenance DAGs
    deleted = before - len(take_snapshot(stack).rows)
    command = " ".join(["airflow db clean --tables xcom", *options])
    screen.line(f"Ran {command} for rows older than {older_than_days} days: {deleted} rows deleted")


def _remove_live_blob(stack: Stack, run: Run, snapshot: Snapshot) -> RemovedBlob:
    row, key = min(
        (row_id, key) for row_id, key in snapshot.references.items() if row_id[:2] == (run.dag_id, run.run_id)
    )
    stack.s3.client().delete_object(Bucket=BUCKET, Key=key)
    return RemovedBlob(row, key)
