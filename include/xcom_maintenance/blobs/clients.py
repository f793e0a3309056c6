"""Airflow's Connections -> the clients of object stores, through the hooks of their providers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from include.xcom_maintenance.blobs.s3 import network
from include.xcom_maintenance.blobs.s3.requests import impatient, patient
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.settings.connections import connection_of

if TYPE_CHECKING:
    from botocore.config import Config


def s3_clients(conn_id: str | None, setting: str) -> tuple[Any, Any]:
    """A client that sits out rate limits, and one for deletes, which does not."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    hook = S3Hook()
    if conn_id is not None:
        connection_of(conn_id, setting, "an Amazon Web Services connection to the store of the blobs")
        hook = S3Hook(aws_conn_id=conn_id)
    if (verify := network.trusted(hook.verify, conn_id)) != hook.verify:
        hook = S3Hook(aws_conn_id=conn_id, verify=verify) if conn_id is not None else S3Hook(verify=verify)
    configured = patient(hook.config)
    proxies = getattr(configured, "proxies", None)
    if proxies is not None and not isinstance(proxies, dict):
        raise ConfigurationError(
            "It is no object of schemes and URLs",
            setting=f"config_kwargs.proxies (extra) of the connection {conn_id!r}",
            remedy='Write it as {"https": "http://proxy.example.com:3128"}',
        )
    if proxies is None:
        configured = configured.merge(_proxied(hook))
    return hook.get_client_type(config=configured), hook.get_client_type(config=impatient(configured))


def _proxied(hook: Any) -> Config:
    """With the proxy that the environment names for the hook's endpoint."""
    from botocore.config import Config

    endpoint = hook.conn_config.get_service_endpoint_url("s3") or _endpoint_of_environment()
    return Config(proxies=network.proxies(endpoint))


def _endpoint_of_environment() -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return next(filter(None, map(os.environ.get, names)), "https://s3.amazonaws.com")


def gcs_client(conn_id: str | None, base: BasePath, setting: str) -> Any:
    if conn_id is not None:
        connection_of(conn_id, "blob_conn_id", "a Google Cloud connection to the store of the blobs")
    with _provider("apache-airflow-providers-google", base, setting):
        from airflow.providers.google.cloud.hooks.gcs import GCSHook

        return (GCSHook(gcp_conn_id=conn_id) if conn_id else GCSHook()).get_conn()


def azure_client(conn_id: str | None, base: BasePath, setting: str) -> Any:
    if "." in base.uri.bucket:
        raise ConfigurationError(
            f"The blob base path names an account, {base.uri.bucket!r}, instead of a container",
            setting=setting,
            remedy="Write abfs://conn_id@container/prefix; the connection says which account",
        )
    if conn_id is not None:
        connection_of(conn_id, "blob_conn_id", "an Azure Blob Storage (wasb) connection to the store of the blobs")
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
            f"Blobs on {base.uri.scheme}:// need the package {package}: the module {error.name} is not installed",
            setting=setting,
            remedy=f"Install it on the workers: pip install {package}",
        ) from None
    except Exception as error:  # noqa: BLE001 - as many kinds as there are credentials; their text may hold some
        raise ConfigurationError(
            f"No client can be made for the blob base path {base}: {type(error).__name__}",
            setting=setting,
            remedy="Check the connection that the base path names, or blob_conn_id",
        ) from None
