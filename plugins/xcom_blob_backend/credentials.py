"""Airflow Connections as obstore understands them: credentials, endpoints, and what else a client must know.

What a Connection says outright (keys, tokens, accounts) is taken as it is. What takes another service to find out
(roles to assume, profiles, impersonation) is left to the provider's hook, which is asked again when they expire.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from xcom_blob_backend.errors import BackendNotConfigured

#: How long credentials are used before the hook is asked again, where it does not say until when they hold.
_LIFETIME = timedelta(minutes=10)
#: Of an AWS Connection: who has these needs botocore to get at credentials.
_NEEDS_HOOK = ("role_arn", "profile_name", "assume_role_method", "session_kwargs", "s3_config_file", "aws_account_id")


#: Who sets one of these means it: botocore's files come after them.
_AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class Access:
    """How to reach a bucket."""

    def __init__(self, provider: Callable[[], dict[str, Any]] | None = None) -> None:
        self.config: dict[str, Any] = {}
        #: Options of the HTTP client.
        self.client: dict[str, Any] = {}
        #: Called for credentials; None: by what stands in ``config``, else by the environment's own chain.
        self.provider = provider

    def endpoint(self, name: str, url: str) -> None:
        """Use another endpoint than the cloud's own."""
        self.config[name] = url
        if url.startswith("http://"):
            self.client["allow_http"] = True


def access(scheme: str, conn_id: str | None) -> Access:
    """How to reach a bucket, by a Connection or by the environment's own chain.

    :raises BackendNotConfigured: if there is no such Connection.
    """
    if conn_id is None:
        return _aws_environment() if scheme == "s3" else Access()
    connection = _connection(conn_id)
    # Older Connections spell extras as extra__google_cloud_platform__project.
    extra = {
        name.rpartition("__")[2]: value
        for name, value in connection.extra_dejson.items()
        if value is not None and value != ""
    }
    return {"s3": _aws, "gs": _google, "abfs": _azure}[scheme](connection, extra)


def _connection(conn_id: str) -> Any:
    from airflow.sdk import Connection

    try:
        return Connection.get(conn_id)
    except Exception as error:
        # Its class has moved between the versions of Airflow.
        if type(error).__name__ == "AirflowNotFoundException":
            raise BackendNotConfigured(f"[xcom_blob_backend] path: there is no Connection {conn_id!r}") from None
        raise


# -- S3 --------------------------------------------------------------------------------------------------------------


def _aws(connection: Any, extra: dict[str, Any]) -> Access:
    found = Access()
    _aws_place(found, extra)
    botocore_config = extra.get("config_kwargs") or {}
    if botocore_config.get("signature_version") == "unsigned":
        found.config["skip_signature"] = True
        return found
    key_id = connection.login or extra.get("aws_access_key_id")
    secret = connection.password or extra.get("aws_secret_access_key")
    if key_id and secret and not any(name in extra for name in _NEEDS_HOOK):
        # By a provider, not by the config: that would be mixed with AWS_SESSION_TOKEN of the environment.
        static = {
            "access_key_id": key_id,
            "secret_access_key": secret,
            "token": extra.get("aws_session_token"),
            "expires_at": None,
        }
        found.provider = lambda: static
    elif key_id or secret or any(name in extra for name in _NEEDS_HOOK):
        found.provider = _AwsHook(connection.conn_id)
    else:
        # A Connection that names an endpoint or a region and leaves credentials to the environment.
        found.provider = _aws_files()
    return found


def _aws_place(found: Access, extra: dict[str, Any]) -> None:
    """Endpoint, region, addressing and certificates of an AWS Connection."""
    service = (extra.get("service_config") or {}).get("s3") or {}
    _aws_endpoint(found, service.get("endpoint_url") or extra.get("endpoint_url"), extra.get("region_name"))
    if ((extra.get("config_kwargs") or {}).get("s3") or {}).get("addressing_style") == "virtual":
        found.config["virtual_hosted_style_request"] = True
    verify = extra.get("verify")
    if verify is False:
        found.client["allow_invalid_certificates"] = True
    elif isinstance(verify, str):
        found.client["root_certificate"] = Path(verify).read_bytes()


def _aws_endpoint(found: Access, endpoint: str | None, region: str | None) -> None:
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        found.endpoint("endpoint", endpoint.rstrip("/"))
    elif not region:
        raise BackendNotConfigured(
            "[xcom_blob_backend] path: the region of the bucket is not known. Give its Connection a region_name "
            "(extra), or set AWS_REGION"
        )
    # Stores that are like S3 take any region.
    found.config["region"] = region or "us-east-1"


def _aws_environment() -> Access:
    found = Access(provider=_aws_files())
    _aws_endpoint(found, None, None)
    return found


def _aws_files() -> Callable[[], dict[str, Any]] | None:
    """botocore, if only its files have credentials; None to let obstore look at variables, container and instance."""
    files = ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config")
    has_files = any(Path(os.environ.get(name, default)).expanduser().is_file() for name, default in files)
    named = any(os.environ.get(name) for name in _AWS_VARIABLES)
    return _AwsHook(None) if os.environ.get("AWS_PROFILE") or (has_files and not named) else None


class _AwsHook:
    """Asks the Amazon provider for credentials: roles, profiles, web identity, SAML."""

    def __init__(self, conn_id: str | None) -> None:
        self._conn_id = conn_id
        self._credentials: Any = None

    def __call__(self) -> dict[str, Any]:
        if self._credentials is None:
            from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

            # Refreshes itself where it is of a role.
            self._credentials = (
                AwsGenericHook(aws_conn_id=self._conn_id, client_type="s3").get_session().get_credentials()
            )
        if self._credentials is None:
            raise BackendNotConfigured("[xcom_blob_backend] path: there are no AWS credentials")
        frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _LIFETIME,
        }


# -- Google Cloud Storage --------------------------------------------------------------------------------------------


def _google(connection: Any, extra: dict[str, Any]) -> Access:
    import json

    found = Access()
    if extra.get("is_anonymous") in {True, "true", "True"}:
        found.config["skip_signature"] = True
    elif "impersonation_chain" in extra or "key_secret_name" in extra or "credential_config_file" in extra:
        found.provider = _GoogleHook(connection.conn_id)
    elif key := extra.get("keyfile_dict"):
        found.config["service_account_key"] = key if isinstance(key, str) else json.dumps(key)
    elif path := extra.get("key_path"):
        found.config["service_account"] = str(path)
    return found


class _GoogleHook:
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
        return {"token": self._credentials.token, "expires_at": datetime.now(UTC) + _LIFETIME}


# -- Azure Blob Storage ----------------------------------------------------------------------------------------------


def _azure(connection: Any, extra: dict[str, Any]) -> Access:
    found = Access()
    config: dict[str, Any] = dict(
        part.split("=", 1) for part in str(extra.get("connection_string", "")).split(";") if "=" in part
    )
    account = config.get("AccountName") or extra.get("account_name")
    host = connection.host or ""
    if "://" in host:
        account = account or host.split("://", 1)[1].split(".", 1)[0]
    tenant = extra.get("tenant_id")
    found.config["account_name"] = account or (host if host and not tenant else None) or connection.login
    if endpoint := config.get("BlobEndpoint"):
        found.endpoint("endpoint", endpoint.rstrip("/"))
    if key := config.get("AccountKey") or extra.get("account_key"):
        found.config["account_key"] = key
    elif token := config.get("SharedAccessSignature") or extra.get("sas_token"):
        found.config["sas_key"] = str(token).lstrip("?")
    elif tenant:
        found.config |= {"tenant_id": tenant, "client_id": connection.login, "client_secret": connection.password}
    elif connection.password:
        found.config["account_key"] = connection.password
    elif client := extra.get("managed_identity_client_id"):
        found.config["client_id"] = client
    if not found.config["account_name"]:
        raise BackendNotConfigured(
            f"[xcom_blob_backend] path: the Connection {connection.conn_id!r} names no storage account"
        )
    return found
