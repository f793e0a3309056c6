"""Settings and Airflow's Connections -> the blob store to use, and what below its base path belongs to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from include.xcom_maintenance.blobs.azure import AzureBlobStore
from include.xcom_maintenance.blobs.clients import azure_client, gcs_client, s3_clients
from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.blobs.gcs import GcsBlobStore
from include.xcom_maintenance.blobs.inventory.store import InventoriedBlobStore, inventory_address
from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.blobs.s3.store import S3BlobStore
from include.xcom_maintenance.core.blob_uri import BasePath, BlobUri, InvalidBlobUri
from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.settings.common import CommonSettings
from include.xcom_maintenance.settings.layers import Resolved
from include.xcom_maintenance.settings.sources import OWN_BACKEND, STOCK_BACKEND, airflow_option


@dataclass(frozen=True, slots=True)
class ConfiguredBlobs:
    """The blob store, and what below its base path belongs to somebody else."""

    store: BlobStore
    #: Beside the base path, in the same bucket.
    quarantine: BlobStore
    #: Relative to the base path: the prefix of Airflow's state store, if it lies below.
    ignored_prefixes: tuple[str, ...] = ()


def open_blobs(resolved: Resolved[CommonSettings]) -> ConfiguredBlobs | None:
    """The blob store below the configured base path, or None if neither we nor Airflow has one.

    :raises ConfigurationError: if the base path or its connection cannot be used.
    """
    settings, text = resolved.settings, resolved.settings.blob_base_path
    if text is None:
        return None
    source = resolved.sources.get("blob_base_path")
    setting = source if source in {STOCK_BACKEND, OWN_BACKEND} else "blob_base_path"
    base = BasePath.parse(text, setting=setting)
    store, quarantine = _open_stores(settings, base, setting)
    return ConfiguredBlobs(store, quarantine, _state_store_prefixes(base))


def _open_stores(settings: CommonSettings, base: BasePath, setting: str) -> tuple[BlobStore, BlobStore]:
    """The adapter for the scheme of the base path, and another one for the quarantine beside it."""
    conn_id, scheme = settings.blob_conn_id or base.uri.conn_id, base.uri.scheme
    if settings.inventory_manifest is not None and scheme != "s3":
        raise ConfigurationError(
            f"An S3 Inventory cannot list {base}",
            setting="inventory_manifest",
            remedy="Remove it, or set blob_base_path to the bucket it describes",
        )
    if scheme == "s3":
        client, deleting_client = s3_clients(conn_id, "blob_conn_id")
        store, quarantine = (
            S3BlobStore(client, place, setting=setting, deleting_client=deleting_client)
            for place in (base, base.quarantine)
        )
        if settings.inventory_manifest is not None:
            return _inventoried(store, client, settings.inventory_manifest), quarantine
        return store, quarantine
    if scheme == "gs":
        gcs = gcs_client(conn_id, base, setting)
        return GcsBlobStore(gcs, base, setting=setting), GcsBlobStore(gcs, base.quarantine, setting=setting)
    if scheme == "abfs":
        azure = azure_client(conn_id, base, setting)
        return AzureBlobStore(azure, base, setting=setting), AzureBlobStore(azure, base.quarantine, setting=setting)
    if scheme == "file":
        return FileBlobStore(base, setting=setting), FileBlobStore(
            base.quarantine, setting=setting, may_be_missing=True
        )
    raise ConfigurationError(
        f"Blobs on {scheme}:// are not supported",
        setting=setting,
        remedy="Use s3://, gs://, abfs:// or file://",
    )


def doubts(resolved: Resolved[CommonSettings], configured: ConfiguredBlobs) -> list[str]:
    """What looks like a mistake in the blob base path but may be meant; for the report."""
    found = []
    base, stock = configured.store.base, airflow_option("common.io", "xcom_objectstorage_path")
    from_airflow = resolved.sources.get("blob_base_path") in {STOCK_BACKEND, OWN_BACKEND}
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
        return BasePath.parse(text, setting=STOCK_BACKEND) == base
    except ConfigurationError:
        return False


def _state_store_prefixes(base: BasePath) -> tuple[str, ...]:
    text = airflow_option("common.io", "state_store_objectstorage_path")
    try:
        uri = BlobUri.parse(text.rstrip("/"))
    except InvalidBlobUri:
        return ()
    return (uri.key.removeprefix(base.prefix) + "/",) if base.contains(uri) else ()


def _inventoried(store: S3BlobStore, client: Any, address: str) -> BlobStore:
    """The same store, with a listing from an inventory, which may lie in a bucket with a Connection of its own."""
    parsed = inventory_address(address)
    if parsed.conn_id is not None:
        client, _ = s3_clients(parsed.conn_id, "inventory_manifest")
    return InventoriedBlobStore(store, client, parsed)
