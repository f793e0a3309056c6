"""Settings and Airflow's Connections -> the adapters to use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.blobs.s3 import S3BlobStore
from include.xcom_maintenance.core.blob_uri import BasePath, BlobUri, InvalidBlobUri
from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.metadata.postgres import PostgresMetadataStore
from include.xcom_maintenance.reports.paths import storage_path
from include.xcom_maintenance.settings import Layer, Resolved, Settings

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

_STOCK_BACKEND = "[common.io] xcom_objectstorage_path"


@dataclass(frozen=True, slots=True)
class ConfiguredBlobs:
    """The blob store, and what below its base path belongs to somebody else."""

    store: BlobStore
    #: Beside the base path, in the same bucket.
    quarantine: BlobStore
    #: Relative to the base path: the prefix of Airflow's state store, if it lies below.
    ignored_prefixes: tuple[str, ...] = ()


def open_metadata(settings: Settings) -> PostgresMetadataStore:
    """The metadata store of the configured connection; it connects at its first use.

    :raises ConfigurationError: if there is no such connection, or it is not to a Postgres.
    """
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    conn_id = settings.metadata_conn_id
    connection = _connection(
        conn_id,
        "metadata_conn_id",
        "a Postgres connection to the database in which Airflow keeps its own tables",
    )
    if connection.conn_type not in {"postgres", "postgresql"}:
        raise ConfigurationError(
            f"The connection {conn_id!r} is of the type {connection.conn_type!r}, not postgres",
            setting="metadata_conn_id",
            remedy="The bundle works on Postgres metadata databases",
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


def airflow_layers() -> list[Layer]:
    """What Airflow's own configuration says, for the settings that are left out."""
    home = os.path.abspath(os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow"))
    stock = _configuration("xcom_objectstorage_path")
    return [
        Layer(_STOCK_BACKEND, {"blob_base_path": stock} if stock else {}),
        # A folder of the machine: good for one worker, to be set for several.
        Layer("AIRFLOW_HOME", {"report_path": f"file://{home}/xcom_maintenance_reports"}),
    ]


def open_blobs(resolved: Resolved) -> ConfiguredBlobs | None:
    """The blob store below the configured base path, or None if neither we nor Airflow has one.

    :raises ConfigurationError: if the base path or its connection cannot be used.
    """
    settings, text = resolved.settings, resolved.settings.blob_base_path
    if text is None:
        return None
    setting = _STOCK_BACKEND if resolved.sources.get("blob_base_path") == _STOCK_BACKEND else "blob_base_path"
    base = BasePath.parse(text, setting=setting)
    store: BlobStore
    quarantine: BlobStore
    if base.uri.scheme == "s3":
        client = _s3_client(settings, base)
        store = S3BlobStore(client, base, setting=setting)
        quarantine = S3BlobStore(client, base.quarantine, setting=setting)
    elif base.uri.scheme == "file":
        store = FileBlobStore(base, setting=setting)
        quarantine = FileBlobStore(base.quarantine, setting=setting, may_be_missing=True)
    else:
        raise ConfigurationError(
            f"Blobs on {base.uri.scheme}:// are not supported",
            setting=setting,
            remedy="Supported are s3:// and file://",
        )
    return ConfiguredBlobs(store, quarantine, _state_store_prefixes(base))


def doubts(resolved: Resolved, configured: ConfiguredBlobs) -> list[str]:
    """What looks like a mistake in the blob base path but may be meant; for the report."""
    found = []
    base, stock = configured.store.base, _configuration("xcom_objectstorage_path")
    if stock and resolved.sources.get("blob_base_path") != _STOCK_BACKEND and not _is(base, stock):
        found.append(
            f"The blob base path {base} is not the one that Airflow's own XCom backend is configured with ({stock})."
        )
    if next(configured.store.list(), None) is None:
        found.append(f"There is not a single object below the blob base path {base}: is it the right one?")
    return found


def _is(base: BasePath, text: str) -> bool:
    try:
        return BasePath.parse(text, setting=_STOCK_BACKEND) == base
    except ConfigurationError:
        return False


def _state_store_prefixes(base: BasePath) -> tuple[str, ...]:
    text = _configuration("state_store_objectstorage_path")
    try:
        uri = BlobUri.parse(text.rstrip("/"))
    except InvalidBlobUri:
        return ()
    return (uri.key.removeprefix(base.prefix) + "/",) if base.contains(uri) else ()


def _configuration(option: str) -> str:
    from airflow.providers.common.compat.sdk import conf

    return (conf.get("common.io", option, fallback="") or "").strip()


def _s3_client(settings: Settings, base: BasePath) -> Any:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    conn_id = settings.blob_conn_id or base.uri.conn_id
    if conn_id is not None:
        _connection(conn_id, "blob_conn_id", "an Amazon Web Services connection to the store of the blobs")
        return S3Hook(aws_conn_id=conn_id).get_conn()
    return S3Hook().get_conn()


def _connection(conn_id: str, setting: str, what: str) -> Any:
    from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConfigurationError(
            f"There is no connection {conn_id!r}",
            setting=setting,
            remedy=f"Create it in Airflow (Admin > Connections, or AIRFLOW_CONN_{conn_id.upper()}): {what}",
        ) from None


def report_root(settings: Settings) -> ObjectStoragePath:
    """The folder of all reports.

    :raises ConfigurationError: if the report path is no path.
    """
    return _root(settings, settings.report_path or "", "report_path", "reports")


def archive_root(settings: Settings) -> ObjectStoragePath | None:
    """The folder of all archives of deleted rows, or None if none are kept.

    :raises ConfigurationError: if the archive path is no path.
    """
    if settings.archive_path is None:
        return None
    return _root(settings, settings.archive_path, "archive_path", "archive")


def _root(settings: Settings, text: str, setting: str, what: str) -> ObjectStoragePath:
    root = storage_path(text, setting=setting)
    if settings.blob_base_path and _lies_below(BlobUri.parse(text), settings.blob_base_path):
        raise ConfigurationError(
            f"The {setting.replace('_', ' ')} {text!r} lies below the blob base path",
            setting=setting,
            remedy=f"Put the {what} beside the blobs, not among them",
        )
    return root


def _lies_below(uri: BlobUri, base_path: str) -> bool:
    try:
        base = BasePath.parse(base_path, setting="blob_base_path")
    except ConfigurationError:
        return False  # said elsewhere, in its own words
    return uri == base.uri or base.contains(uri)
