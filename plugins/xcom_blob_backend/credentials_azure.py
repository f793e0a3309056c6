"""Access to Azure Blob Storage: what the provider's ``WasbHook`` makes of a Connection, in the same order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

from xcom_blob_backend.access import Access, content_of
from xcom_blob_backend.errors import BackendNotConfigured

_PUBLIC_CLOUD = "blob.core.windows.net"
_AUTHORITY = "https://login.microsoftonline.com"
_VARIABLE = "AZURE_STORAGE_ACCOUNT_NAME"


def of_connection(connection: Any, extra: dict[str, Any]) -> Access:
    found = Access()
    if text := extra.get("connection_string"):
        _connection_string(found, str(text))
    else:
        sas = str(extra.get("sas_token") or "")
        # The token may be a whole URL, as the form of the Connection says.
        url, _, token = sas.partition("?") if "://" in sas else (connection.host or "", "", sas.lstrip("?"))
        _account(found, url, connection.login, extra.get("account_name"))
        _credentials(found, connection, extra, token)
    if not found.config.get("account_name"):
        raise BackendNotConfigured(
            f"[xcom_blob_backend] path: the Connection {connection.conn_id!r} names no storage account"
        )
    return found


def of_environment() -> Access:
    found = Access()
    if not os.environ.get(_VARIABLE):
        raise BackendNotConfigured(
            f"[xcom_blob_backend] path: the storage account is unknown. Set {_VARIABLE}, or name a Connection before "
            "the '@'"
        )
    _check_environment()
    if endpoint := os.environ.get("AZURE_STORAGE_ENDPOINT"):
        found.endpoint("endpoint", endpoint.rstrip("/"))
    return found


def _check_environment() -> None:
    if path := os.environ.get("AZURE_FEDERATED_TOKEN_FILE"):
        content_of(path, "AZURE_FEDERATED_TOKEN_FILE")


def _connection_string(found: Access, text: str) -> None:
    parts = {name.strip().upper(): value for name, _, value in (part.partition("=") for part in text.split(";"))}
    account = parts.get("ACCOUNTNAME")
    url = parts.get("BLOBENDPOINT")
    if not url and account and {"ENDPOINTSUFFIX", "DEFAULTENDPOINTSPROTOCOL"} & set(parts):
        protocol, suffix = parts.get("DEFAULTENDPOINTSPROTOCOL", "https"), parts.get("ENDPOINTSUFFIX")
        url = f"{protocol}://{account}.{f'blob.{suffix}' if suffix else _PUBLIC_CLOUD}"
    _account(found, url or "", None, account)
    if key := parts.get("ACCOUNTKEY"):
        found.provider = _static(access_key=key)
    elif token := parts.get("SHAREDACCESSSIGNATURE"):
        found.provider = _static(sas_token=token.lstrip("?"))


def _account(found: Access, url: str, login: str | None, account: str | None) -> None:
    """The account and its endpoint, of the URL, host or name of an account."""
    parsed = urlsplit(url if "://" in url else f"https://{url}")
    host, path = parsed.hostname or "", parsed.path.strip("/")
    if "." in host:
        # An emulator has one host for all accounts, and names them in the path.
        account = account or (path or host.partition(".")[0]).partition("/")[0]
        if host != f"{account}.{_PUBLIC_CLOUD}" or parsed.scheme != "https":
            found.endpoint("endpoint", f"{parsed.scheme}://{parsed.netloc}{parsed.path.rstrip('/')}")
    found.config["account_name"] = account or login


def _credentials(found: Access, connection: Any, extra: dict[str, Any], token: str) -> None:
    # By providers, not by the config: obstore would mix that with the variables of the environment.
    tenant = extra.get("tenant_id")
    if tenant:
        found.provider = _ClientSecret(
            tenant=tenant,
            client_id=connection.login,
            secret=connection.password,
            authority=(extra.get("client_secret_auth_config") or {}).get("authority"),
        )
    elif key := extra.get("shared_access_key"):
        found.provider = _static(access_key=key)
    elif token:
        found.provider = _static(sas_token=token)
    elif key := connection.password or extra.get("account_key"):
        found.provider = _static(access_key=key)
    else:
        # A managed or a workload identity: of the environment, but for what the Connection knows.
        _check_environment()
        names = {"managed_identity_client_id": "client_id", "workload_identity_tenant_id": "tenant_id"}
        found.config |= {theirs: extra[ours] for ours, theirs in names.items() if ours in extra}


def _static(**credential: str) -> Callable[[], dict[str, Any]]:
    return lambda: {**credential, "expires_at": None}


class _ClientSecret:
    """Asks Microsoft's identity platform for a token, by id and secret of an application.

    https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-client-creds-grant-flow
    """

    def __init__(self, *, tenant: str, client_id: str, secret: str, authority: str | None) -> None:
        host = authority or os.environ.get("AZURE_AUTHORITY_HOST") or _AUTHORITY
        host = host if "://" in host else f"https://{host}"
        self._url = f"{host.rstrip('/')}/{tenant}/oauth2/v2.0/token"
        self._form = {
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": secret,
            "scope": "https://storage.azure.com/.default",
        }

    def __call__(self) -> dict[str, Any]:
        from urllib.error import HTTPError
        from urllib.request import urlopen

        try:
            with urlopen(self._url, urlencode(self._form).encode(), timeout=30) as answer:  # noqa: S310 - of the Connection
                content = json.load(answer)
        except HTTPError as why:
            raise BackendNotConfigured(f"[xcom_blob_backend] path: {self._url} did not return a token: {why}") from None
        return {
            "token": content["access_token"],
            "expires_at": datetime.now(UTC) + timedelta(seconds=int(content["expires_in"])),
        }
