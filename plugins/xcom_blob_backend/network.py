"""Certificates and proxies of S3, as boto3 understands them: a Connection is one for both clients.

boto3 takes the authorities from ``verify`` of the Connection, ``AWS_CA_BUNDLE`` or ``REQUESTS_CA_BUNDLE``, the first
that is set; this adds ``SSL_CERT_FILE``. Proxies come from ``config_kwargs.proxies``, else from the environment.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Any
from urllib.parse import urlsplit

from xcom_blob_backend.access import Access, content_of
from xcom_blob_backend.errors import BackendNotConfigured

_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_CERTIFICATE = re.compile(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----")


def trust(found: Access, verify: Any, setting: str, bundles: tuple[str, ...] = _BUNDLES) -> None:
    """Which certificates of servers to trust.

    :param verify: of the Connection, None if it says nothing.
    :param setting: what to call it in errors.
    :param bundles: variables that name a file where it says nothing, the first that is set.
    :raises BackendNotConfigured: if it names no file that holds certificates.
    """
    if verify is False:
        found.client["allow_invalid_certificates"] = True
        found.trust = setting
        return
    if verify is not None and verify is not True and not isinstance(verify, str):
        raise BackendNotConfigured(
            f"[xcom_blob_backend] path: {setting} is {verify!r}. Write true, false, or the path of a file"
        )
    path = verify if isinstance(verify, str) else None
    if path is None:
        name = next((name for name in bundles if os.environ.get(name)), None)
        if name is None:
            if folder := os.environ.get("SSL_CERT_DIR"):
                found.trust = f"the certificates in SSL_CERT_DIR ({folder})"
            return
        path, setting = os.environ[name], name
    elif path.lower() in {"true", "false"}:
        raise BackendNotConfigured(
            f"[xcom_blob_backend] path: {setting} is the text {path!r}, which would be the name of a file. Write "
            f"{path.lower()} without quotation marks, or the path of a file with certificates"
        )
    content = content_of(path, setting)
    if not _CERTIFICATE.search(content):  # the client says of one that is damaged; to parse all here takes 30 ms
        raise BackendNotConfigured(f"[xcom_blob_backend] path: {setting} names {path!r}, which holds no certificate")
    found.client["root_certificate"] = content
    found.trust = f"{setting} ({path})"


def proxies(found: Access, extra: dict[str, Any], setting: str) -> None:
    """Through which proxy to go, if any.

    :param extra: of the Connection.
    :param setting: what to call its proxies in errors.
    """
    options = extra.get("config_kwargs") or {}
    chosen = options.get("proxies")
    endpoint = urlsplit(str(found.config.get("endpoint") or "https://s3.amazonaws.com"))
    if chosen is None:
        url = proxy_of_environment(endpoint.scheme, endpoint.hostname or "", endpoint.port)
        if url is None:
            return
        found.proxy = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
    elif not isinstance(chosen, dict):
        raise BackendNotConfigured(f"[xcom_blob_backend] path: {setting} is no object of schemes and URLs")
    else:
        # With this set, if to nothing, the environment is not looked at.
        url, found.proxy = str(chosen.get(endpoint.scheme) or ""), setting
    if not url:
        # obstore looks at the environment unless it is told of a proxy; so it is told of one that it is not to use.
        found.client |= {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": endpoint.hostname or "amazonaws.com"}
        if "endpoint" not in found.config:
            found.client["proxy_excludes"] = "amazonaws.com,amazonaws.com.cn"
        return
    found.client["proxy_url"] = url if "://" in url else f"http://{url}"
    if bundle := (options.get("proxies_config") or {}).get("proxy_ca_bundle"):
        setting = setting.replace("proxies", "proxies_config.proxy_ca_bundle", 1)
        found.client["proxy_ca_certificate"] = content_of(str(bundle), setting).decode("utf-8", "replace")


def proxy_of_environment(scheme: str, host: str, port: int | None) -> str | None:
    """The URL of the proxy that the environment names for a server; empty if not for this one, None if it names none.

    The maintenance DAGs decide likewise (``blobs/s3/network.py``); boto3 and obstore by themselves do not agree.
    """
    url = next(filter(None, (_variable(f"{name}_proxy") for name in (scheme, "all"))), None)
    if url is None:
        return None
    return "" if is_excepted(host, port, _variable("no_proxy")) else url


def is_excepted(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` names a server: by its name, a domain above it, its address, a network, or ``*``."""
    host = host.lower().rstrip(".")
    for entry in filter(None, (part.strip().lower() for part in no_proxy.split(","))):
        name, _, of_port = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
        if of_port and of_port != str(port):
            continue
        name = name.removeprefix("*").strip("[]").lstrip(".")
        if entry == "*" or (name and (host == name or host.endswith(f".{name}"))) or _is_in_network(host, name):
            return True
    return False


def _is_in_network(host: str, name: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.upper()) or ""
