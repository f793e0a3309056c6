"""Archives of rows that a real Postgres deleted and wrote."""

from __future__ import annotations

from typing import Any

from include.xcom_maintenance.metadata.postgres.archive import RETURNING, copy_deleted
from include.xcom_maintenance.reports.archive import Archives
from tests.support.history import History

WHERE_FROM = {"dag_id": "xcom_cleanup", "run_id": "cleaned"}


def archive_rows(
    history: History, root: str, *, name: str = "shard-0-000001", condition: str = "true", database: str | None = None
) -> str:
    """Delete rows of ``xcom x`` into an archive file; returns its address."""
    from airflow.sdk import ObjectStoragePath

    deleting = f"DELETE FROM xcom x WHERE {condition} RETURNING {RETURNING}"
    owner = database or identity(history)
    connection: Any = history.connection
    with (
        connection.transaction(),
        Archives(ObjectStoragePath(root)).write(name, database=owner, **WHERE_FROM) as sink,
    ):
        copy_deleted(connection.cursor(), deleting, {}, sink)
    assert sink.path is not None
    return sink.path


def identity(history: History) -> str:
    """What ``DatabaseIdentity.owner`` says."""
    found = history.connection.execute(
        "SELECT (SELECT system_identifier::text FROM pg_control_system()) || '/' || current_database()"
    ).fetchone()
    assert found is not None
    return str(found[0])
