"""Access to Google Cloud Storage."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

from xcom_blob_backend.access import LIFETIME, Access, content_of

#: Of a Google Cloud Connection: who has these needs Google's own libraries to get at credentials.
_NEEDS_HOOK = ("impersonation_chain", "key_secret_name", "credential_config_file", "idp_issuer_url")


def of_connection(connection: Any, extra: dict[str, Any]) -> Access:
    found = _at_emulator(Access())
    if extra.get("is_anonymous") in {True, "true", "True"}:
        found.provider = _nobody
    elif any(name in extra for name in _NEEDS_HOOK):
        found.provider = _Hook(connection.conn_id)
    elif key := extra.get("keyfile_dict"):
        found.config["service_account_key"] = key if isinstance(key, str) else json.dumps(key)
    elif path := extra.get("key_path"):
        setting = f"key_path of the Connection {connection.conn_id!r}"
        found.config["service_account_key"] = content_of(str(path), setting).decode("utf-8", "replace")
    else:
        _check_environment()
    return found


def of_environment() -> Access:
    found = _at_emulator(Access())
    if "base_url" in found.config:
        found.provider = _nobody
    else:
        _check_environment()
    return found


def _check_environment() -> None:
    """Google's chain begins with this file."""
    if path := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        content_of(path, "GOOGLE_APPLICATION_CREDENTIALS")


def _at_emulator(found: Access) -> Access:
    """What Google's own client libraries do with this variable; a Connection has no field for an endpoint."""
    if host := os.environ.get("STORAGE_EMULATOR_HOST"):
        found.endpoint("base_url", (host if "://" in host else f"http://{host}").rstrip("/"))
    return found


def _nobody() -> dict[str, Any]:
    """No token. obstore's ``skip_signature`` is for reading only: to write it would ask the instance for one."""
    return {"token": "", "expires_at": None}


class _Hook:
    """Asks the Google provider for a token."""

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id
        self._credentials: Any = None

    def __call__(self) -> dict[str, Any]:
        from google.auth.transport.requests import Request

        if self._credentials is None:
            from airflow.providers.google.common.hooks.base_google import (
                GoogleBaseHook,
            )

            self._credentials = GoogleBaseHook(gcp_conn_id=self._conn_id).get_credentials()
        self._credentials.refresh(Request())
        return {"token": self._credentials.token, "expires_at": datetime.now(UTC) + LIFETIME}
