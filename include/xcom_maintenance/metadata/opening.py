"""Settings and an Airflow Connection -> the metadata adapter to use."""

from __future__ import annotations

from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from include.xcom_maintenance.settings.common import CommonSettings
from include.xcom_maintenance.settings.connections import connection_of


def open_metadata(settings: CommonSettings) -> PostgresMetadataStore:
    """The metadata store of the configured connection; it connects at its first use.

    :raises ConfigurationError: if there is no such connection, or it is not to a Postgres.
    """
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    conn_id = settings.metadata_conn_id
    connection = connection_of(
        conn_id,
        "metadata_conn_id",
        "a Postgres connection to the database in which Airflow keeps its own tables",
    )
    if connection.conn_type not in {"postgres", "postgresql"}:
        raise ConfigurationError(
            f"The connection {conn_id!r} has the type {connection.conn_type!r} instead of postgres",
            setting="metadata_conn_id",
            remedy="The bundle only supports Postgres metadata databases",
        )

    def connect() -> Any:
        opened: Any = PostgresHook(postgres_conn_id=conn_id).get_conn()
        # Rows are read by position: undo what the connection's "cursor" extra may have asked for.
        if hasattr(opened, "row_factory"):
            from psycopg.rows import tuple_row

            opened.row_factory = tuple_row
            opened.prepare_threshold = None  # prepared statements break behind a transaction pooler
        else:
            opened.cursor_factory = None
        return opened

    return PostgresMetadataStore(
        connect,
        setting=f"metadata_conn_id={conn_id}",
        lock_timeout=settings.lock_timeout_seconds,
        statement_timeout=settings.statement_timeout_seconds,
        retry_seconds=settings.retry_seconds,
        accepted_revision=settings.accept_schema_revision,
        formats=settings.formats,
    )
