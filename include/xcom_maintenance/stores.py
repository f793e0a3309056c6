"""Settings and Airflow's Connections -> the adapters to use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.xcom_maintenance.blobs.azure import AzureBlobStore
from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.blobs.gcs import GcsBlobStore
from include.xcom_maintenance.blobs.inventory import InventoriedBlobStore, inventory_address
from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.blobs.s3 import S3BlobStore
from include.xcom_maintenance.blobs.s3_requests import impatient, patient
from include.xcom_maintenance.core.blob_uri import BasePath, BlobUri, InvalidBlobUri
from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.metadata.postgres import PostgresMetadataStore
from include.xcom_maintenance.reports.paths import storage_path
from include.xcom_maintenance.settings import Layer, Resolved, Settings

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

_STOCK_BACKEND = "[common.io] xcom_objectstorage_path"
_OWN_BACKEND = "[xcom_blob_backend] path"
_HEARTBEAT = "[scheduler] task_instance_heartbeat_timeout"


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
    source, path = _STOCK_BACKEND, _configuration("xcom_objectstorage_path")
    if _configuration("xcom_backend", section="core").startswith("xcom_blob_backend."):
        source, path = _OWN_BACKEND, _configuration("path", section="xcom_blob_backend")
    return [
        Layer(source, {"blob_base_path": path} if path else {}),
        Layer(_HEARTBEAT, {"heartbeat_timeout_seconds": _heartbeat_timeout()}),
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
    source = resolved.sources.get("blob_base_path")
    setting = source if source in {_STOCK_BACKEND, _OWN_BACKEND} else "blob_base_path"
    base = BasePath.parse(text, setting=setting)
    store, quarantine = _open_stores(settings, base, setting)
    return ConfiguredBlobs(store, quarantine, _state_store_prefixes(base))


def _open_stores(settings: Settings, base: BasePath, setting: str) -> tuple[BlobStore, BlobStore]:
    """The adapter for the scheme of the base path, and another one for the quarantine beside it."""
    conn_id, scheme = settings.blob_conn_id or base.uri.conn_id, base.uri.scheme
    if settings.inventory_manifest is not None and scheme != "s3":
        raise ConfigurationError(
            f"An S3 Inventory cannot list {base}",
            setting="inventory_manifest",
            remedy="Leave it out, or set blob_base_path to the bucket that it is of",
        )
    if scheme == "s3":
        client, deleting_client = _s3_clients(conn_id, "blob_conn_id")
        store, quarantine = (
            S3BlobStore(client, place, setting=setting, deleting_client=deleting_client)
            for place in (base, base.quarantine)
        )
        if settings.inventory_manifest is not None:
            return _inventoried(store, client, settings.inventory_manifest), quarantine
        return store, quarantine
    if scheme == "gs":
        gcs = _gcs_client(conn_id, base, setting)
        return GcsBlobStore(gcs, base, setting=setting), GcsBlobStore(gcs, base.quarantine, setting=setting)
    if scheme == "abfs":
        azure = _azure_client(conn_id, base, setting)
        return AzureBlobStore(azure, base, setting=setting), AzureBlobStore(azure, base.quarantine, setting=setting)
    if scheme == "file":
        return FileBlobStore(base, setting=setting), FileBlobStore(
            base.quarantine, setting=setting, may_be_missing=True
        )
    raise ConfigurationError(
        f"Blobs on {scheme}:// are not supported",
        setting=setting,
        remedy="Supported are s3://, gs://, abfs:// and file://",
    )


def doubts(resolved: Resolved, configured: ConfiguredBlobs) -> list[str]:
    """What looks like a mistake in the blob base path but may be meant; for the report."""
    found = []
    base, stock = configured.store.base, _configuration("xcom_objectstorage_path")
    from_airflow = resolved.sources.get("blob_base_path") in {_STOCK_BACKEND, _OWN_BACKEND}
    if stock and not from_airflow and not _is(base, stock):
        found.append(
            f"The blob base path {base} is not the one that Airflow's own XCom backend is configured with ({stock})."
        )
    store = configured.store
    live = store.live if isinstance(store, InventoriedBlobStore) else store
    if next(live.list(), None) is None:
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


def _heartbeat_timeout() -> float | None:
    """Seconds after which the scheduler gives a silent task up; None for whatever is no sensible number of them."""
    from airflow.providers.common.compat.sdk import conf

    with suppress(ValueError, TypeError):
        seconds = float(conf.get("scheduler", "task_instance_heartbeat_timeout", fallback="300"))
        return seconds if 0.1 <= seconds <= 86_400 else None
    return None


def _configuration(option: str, *, section: str = "common.io") -> str:
    from airflow.providers.common.compat.sdk import conf

    return (conf.get(section, option, fallback="") or "").strip()


def _inventoried(store: S3BlobStore, client: Any, address: str) -> BlobStore:
    """The same store, with a listing from an inventory, which may lie in a bucket with a Connection of its own."""
    parsed = inventory_address(address)
    if parsed.conn_id is not None:
        client, _ = _s3_clients(parsed.conn_id, "inventory_manifest")
    return InventoriedBlobStore(store, client, parsed)


def _s3_clients(conn_id: str | None, setting: str) -> tuple[Any, Any]:
    """A client that sits out rate limits, and one for deletes, which does not."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    hook = S3Hook()
    if conn_id is not None:
        _connection(conn_id, setting, "an Amazon Web Services connection to the store of the blobs")
        hook = S3Hook(aws_conn_id=conn_id)
    configured = patient(hook.config)
    return hook.get_client_type(config=configured), hook.get_client_type(config=impatient(configured))


def _gcs_client(conn_id: str | None, base: BasePath, setting: str) -> Any:
    if conn_id is not None:
        _connection(conn_id, "blob_conn_id", "a Google Cloud connection to the store of the blobs")
    with _provider("apache-airflow-providers-google", base, setting):
        from airflow.providers.google.cloud.hooks.gcs import GCSHook

        return (GCSHook(gcp_conn_id=conn_id) if conn_id else GCSHook()).get_conn()


def _azure_client(conn_id: str | None, base: BasePath, setting: str) -> Any:
    if "." in base.uri.bucket:
        raise ConfigurationError(
            f"The blob base path names an account, {base.uri.bucket!r}, where the container belongs",
            setting=setting,
            remedy="Write abfs://conn_id@container/prefix; the account is that of the connection",
        )
    if conn_id is not None:
        _connection(conn_id, "blob_conn_id", "an Azure Blob Storage (wasb) connection to the store of the blobs")
    with _provider("apache-airflow-providers-microsoft-azure", base, setting):
        from airflow.providers.microsoft.azure.hooks.wasb import WasbHook

        return (WasbHook(wasb_conn_id=conn_id) if conn_id else WasbHook()).get_conn()


@contextmanager
def _provider(package: str, base: BasePath, setting: str) -> Iterator[None]:
    """What is missing, or wrong in a Connection, as an error for people."""
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"Blobs on {base.uri.scheme}:// need the package {package}; the module {error.name} is not installed",
            setting=setting,
            remedy=f"Install it on the workers: pip install {package}",
        ) from None
    except Exception as error:  # noqa: BLE001 - as many kinds as there are credentials; their text may hold some
        raise ConfigurationError(
            f"No client can be made for the blob base path {base}: {type(error).__name__}",
            setting=setting,
            remedy="Check the connection that the base path names, or blob_conn_id",
        ) from None


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
