"""Access to S3, and to what is like it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xcom_blob_backend.access import LIFETIME, Access, content_of
from xcom_blob_backend.errors import BackendNotConfigured
from xcom_blob_backend.network import proxies, trust

#: Of an AWS Connection: who has these needs botocore to get at credentials.
_NEEDS_HOOK = ("role_arn", "profile_name", "assume_role_method", "session_kwargs", "s3_config_file", "aws_account_id")
#: Who sets one of these means it: botocore's files come after them.
_AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def of_connection(connection: Any, extra: dict[str, Any]) -> Access:
    found = Access()
    _place(found, extra)
    name = f"the Connection {connection.conn_id!r}"
    trust(found, extra.get("verify"), f"verify of {name}")
    proxies(found, extra, f"config_kwargs.proxies of {name}")
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
        found.provider = _Hook(connection.conn_id)
    else:
        # A Connection that names an endpoint or a region and leaves credentials to the environment.
        found.provider = _files()
    return found


def _place(found: Access, extra: dict[str, Any]) -> None:
    """Endpoint, region and addressing of an AWS Connection."""
    service = (extra.get("service_config") or {}).get("s3") or {}
    _endpoint(found, service.get("endpoint_url") or extra.get("endpoint_url"), extra.get("region_name"))
    if ((extra.get("config_kwargs") or {}).get("s3") or {}).get("addressing_style") == "virtual":
        found.config["virtual_hosted_style_request"] = True


def _endpoint(found: Access, endpoint: str | None, region: str | None) -> None:
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        found.endpoint("endpoint", endpoint.rstrip("/"))
    elif not region:
        raise BackendNotConfigured(
            "[xcom_blob_backend] path: the region of the bucket is unknown. Give its Connection a region_name "
            "(extra), or set AWS_REGION"
        )
    # Stores that are like S3 take any region.
    found.config["region"] = region or "us-east-1"


def of_environment() -> Access:
    found = Access(provider=_files())
    _endpoint(found, None, None)
    trust(found, None, "")
    proxies(found, {}, "")
    return found


def _files() -> Callable[[], dict[str, Any]] | None:
    """botocore, if only its files have credentials; None to let obstore look at variables, container and instance."""
    files = ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config")
    has_files = any(Path(os.environ.get(name, default)).expanduser().is_file() for name, default in files)
    named = any(os.environ.get(name) for name in _AWS_VARIABLES)
    if path := os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        content_of(path, "AWS_WEB_IDENTITY_TOKEN_FILE")
    return _Hook(None) if os.environ.get("AWS_PROFILE") or (has_files and not named) else None


class _Hook:
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
            "expires_at": datetime.now(UTC) + LIFETIME,
        }
