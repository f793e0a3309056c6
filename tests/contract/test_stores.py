"""From a base path and a Connection to an adapter."""

from __future__ import annotations

import sys
import types
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from include.xcom_maintenance.blobs.azure import AzureBlobStore
from include.xcom_maintenance.blobs.gcs import GcsBlobStore
from include.xcom_maintenance.blobs.inventory.store import InventoriedBlobStore
from include.xcom_maintenance.blobs.opening import open_blobs
from include.xcom_maintenance.blobs.port import DeleteResult
from include.xcom_maintenance.blobs.s3.store import S3BlobStore
from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.settings.layers import Layer
from local_stack.azure import Azurite
from local_stack.gcs import GcsEmulator
from local_stack.s3 import MotoS3
from tests.support.settings import resolve


def opened(**settings: Any) -> Any:
    configured = open_blobs(resolve([Layer("test", settings)]))
    assert configured is not None
    return configured.store


def test_no_connection_loses_its_configuration_to_the_patience_with_rate_limits(
    moto: MotoS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_XCOM", moto.airflow_connection_json())
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    moto.client().create_bucket(Bucket=bucket)
    store = opened(blob_base_path=f"s3://aws_xcom@{bucket}/xcom")
    assert isinstance(store, S3BlobStore)
    store.put("d/r/t/1", b"x")
    assert [d.result for d in store.delete_unchanged(store.list())] == [DeleteResult.DELETED]
    patient, impatient = store._client.meta.config, store._deletion._client.meta.config
    assert patient.s3["addressing_style"] == impatient.s3["addressing_style"] == "path"
    assert patient.retries["total_max_attempts"] == 10
    assert impatient.retries["total_max_attempts"] == 1


def test_an_inventory_in_a_bucket_with_a_connection_of_its_own(moto: MotoS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_XCOM", moto.airflow_connection_json())
    base = "s3://aws_xcom@bucket/xcom"
    assert isinstance(opened(blob_base_path=base, inventory_manifest="s3://inventories/x/y"), InventoriedBlobStore)
    with pytest.raises(ConfigurationError, match=r"no Connection 'nobody'.*inventory_manifest"):
        opened(blob_base_path=base, inventory_manifest="s3://nobody@inventories/x/y")


@pytest.mark.parametrize(
    ("base", "package"),
    [
        ("gs://bucket/xcom", "apache-airflow-providers-google"),
        ("abfs://container/xcom", "apache-airflow-providers-microsoft-azure"),
        ("wasbs://container/xcom", "apache-airflow-providers-microsoft-azure"),
    ],
)
def test_without_its_provider_a_store_names_the_package(base: str, package: str) -> None:
    with pytest.raises(ConfigurationError, match=f"pip install {package}") as caught:
        opened(blob_base_path=base)
    assert caught.value.setting == "blob_base_path"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blob_base_path": "abfs://container@account.dfs.core.windows.net/xcom"}, "abfs://conn_id@container/prefix"),
        ({"blob_base_path": "gs://nobody@bucket/xcom"}, "no Connection 'nobody'"),
        ({"blob_base_path": "abfs://nobody@container/xcom"}, "no Connection 'nobody'"),
        ({"blob_base_path": "ftp://bucket/xcom"}, "gs://, abfs:// or file://"),
        ({"blob_base_path": "gs://bucket/xcom", "inventory_manifest": "s3://a/b"}, "inventory_manifest"),
        ({"blob_base_path": "s3://bucket/xcom", "inventory_manifest": "s3://a"}, "inventory_manifest"),
    ],
)
def test_a_base_path_that_cannot_be_used_says_what_would_be(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        opened(**settings)


def _hook(monkeypatch: pytest.MonkeyPatch, module: str, name: str, get_conn: Callable[[str | None], Any]) -> None:
    """Stands for a provider's hook, since the providers bring some 120 and 50 packages."""

    class Hook:
        def __init__(self, **conn_ids: str) -> None:
            self.conn_id = next(iter(conn_ids.values()), None)

        def get_conn(self) -> Any:
            return get_conn(self.conn_id)

    found = types.ModuleType(module)
    setattr(found, name, Hook)
    parts = module.split(".")
    for end in range(3, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    monkeypatch.setitem(sys.modules, module, found)


def test_a_bucket_of_google_is_reached_by_the_connection_of_its_base_path(
    gcs: GcsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GCP_XCOM", '{"conn_type": "google_cloud_platform"}')
    asked: list[str | None] = []
    _hook(
        monkeypatch,
        "airflow.providers.google.cloud.hooks.gcs",
        "GCSHook",
        lambda conn_id: asked.append(conn_id) or gcs.client(),
    )
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    gcs.client().create_bucket(name)
    store = opened(blob_base_path=f"gcs://gcp_xcom@{name}/xcom")
    assert isinstance(store, GcsBlobStore)
    store.put("d/r/t/1", b"x")
    assert [blob.key for blob in store.list()] == ["d/r/t/1"]
    assert asked == ["gcp_xcom"]


def test_a_container_of_azure_is_reached_by_the_connection_of_its_base_path(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WASB_XCOM", azurite.airflow_connection_json())
    asked: list[str | None] = []
    _hook(
        monkeypatch,
        "airflow.providers.microsoft.azure.hooks.wasb",
        "WasbHook",
        lambda conn_id: asked.append(conn_id) or azurite.client(),
    )
    name = f"container-{uuid.uuid4().hex[:12]}"
    azurite.client().create_container(name)
    store = opened(blob_base_path=f"abfss://wasb_xcom@{name}/xcom")
    assert isinstance(store, AzureBlobStore)
    store.put("d/r/t/1", b"x")
    assert [blob.key for blob in store.list()] == ["d/r/t/1"]
    assert asked == ["wasb_xcom"]
