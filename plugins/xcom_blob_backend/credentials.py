"""Airflow Connections as obstore understands them: credentials, endpoints, and what else a client must know.

What a Connection says outright (keys, tokens, accounts) is taken as it is. What takes another service to find out
(roles to assume, profiles, impersonation) is left to the provider's hook, which is asked again when they expire.
"""

from __future__ import annotations

import importlib
from typing import Any

from xcom_blob_backend.access import Access
from xcom_blob_backend.errors import BackendNotConfigured

#: Scheme -> the module that knows it. Only that one is imported: a first push should not pay for the others.
_STORES = {"s3": "credentials_s3", "gs": "credentials_google", "abfs": "credentials_azure"}


def access(scheme: str, conn_id: str | None) -> Access:
    """How to reach a bucket, by a Connection or by the environment's own chain.

    :raises BackendNotConfigured: if there is no such Connection, or what it says is not enough.
    """
    store: Any = importlib.import_module(f"xcom_blob_backend.{_STORES[scheme]}")
    found: Access
    if conn_id is None:
        found = store.of_environment()
        return _trusting(found, scheme)
    connection = _connection(conn_id)
    # Older Connections spell extras as extra__google_cloud_platform__project.
    extra = {
        name.rpartition("__")[2]: value
        for name, value in connection.extra_dejson.items()
        if value is not None and value != ""
    }
    found = store.of_connection(connection, extra)
    return _trusting(found, scheme)


def _trusting(found: Access, scheme: str) -> Access:
    """With the authorities that Google's and Azure's own clients, and curl, take from the environment."""
    if scheme != "s3":
        from xcom_blob_backend.network import trust

        trust(found, None, "", ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"))
    return found


def _connection(conn_id: str) -> Any:
    from airflow.sdk import Connection

    try:
        return Connection.get(conn_id)
    except Exception as error:
        # Its class has moved between the versions of Airflow.
        if type(error).__name__ == "AirflowNotFoundException":
            raise BackendNotConfigured(f"[xcom_blob_backend] path: there is no Connection {conn_id!r}") from None
        raise
