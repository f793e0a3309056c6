"""Archives of rows that a real Postgres deleted and wrote."""

from __future__ import annotations

from typing import Any

from include.xcom_maintenance.metadata.postgres_restore import ARCHIVE_LINE, COPY_AS_LINES
from include.xcom_maintenance.reports.archive import Archives
from tests.support.history import History

WHERE_FROM = {"dag_id": "xcom_cleanup", "run_id": "cleaned"}


def archive_rows(
    history: History, root: str, *, name: str = "shard-0-000001", condition: str = "true", database: str | None = None
) -> str:
    """Delete rows of ``xcom x`` into an archive file; returns its address."""
    from airflow.sdk import ObjectStoragePath

    deleting = f"DELETE FROM xcom x WHERE {condition} RETURNING {ARCHIVE_LINE}"
    owner = database or identity(history)
    connection: Any = history.connection
    with (
        connection.transaction(),
        Archives(ObjectStoragePath(root)).write(name, database=owner, **WHERE_FROM) as sink,
        connection.cursor().copy(COPY_AS_LINES.format(deleting=deleting)) as copy,
    ):
        for data in copy:
            sink.write(data)
    assert sink.path is not None
    return sink.path


def identity(history: History) -> str:
    """What ``DatabaseIdentity.owner`` says."""
    found = history.connection.execute(
        "SELECT (SELECT system_identifier::text FROM pg_control_system()) || '/' || current_database()"
    ).fetchone()
    assert found is not None
    return str(found[0])
