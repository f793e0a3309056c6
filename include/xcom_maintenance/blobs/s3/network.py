"""Certificates and proxies of the S3 client: decided as the XCom backend does it, so that one Connection is enough.

The same rules stand in ``plugins/xcom_blob_backend/network.py``, which imports nothing from here, nor this from there;
``tests/backend/test_one_connection.py`` holds them together.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from include.xcom_maintenance.core.errors import ConfigurationError

#: Variables that name a file with certificates; boto3 knows the first two by itself.
_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def trusted(verify: Any, conn_id: str | None) -> Any:
    """What to verify certificates with: the file of the Connection or the environment, or as it says.

    :param verify: of the Connection, None if it says nothing.
    :raises ConfigurationError: if it is a file that cannot be read or holds no certificate.
    """
    if isinstance(verify, bool):
        return verify
    path, setting = verify or None, f"verify (extra) of the connection {conn_id!r}"
    if verify is not None and not isinstance(verify, str):
        raise ConfigurationError(
            f"It is {verify!r}", setting=setting, remedy="Write true, false, or the path of a file with certificates"
        )
    if path is None:
        name = next((name for name in _BUNDLES if os.environ.get(name)), None)
        if name is None:
            return None if verify is None else True  # boto3 would take an empty text for false
        path, setting = os.environ[name], name
    elif path.lower() in {"true", "false"}:
        raise ConfigurationError(
            f"It is the text {path!r}, which would be the name of a file",
            setting=setting,
            remedy=f"Write {path.lower()} without quotation marks, or the path of a file with certificates",
        )
    try:
        file = Path(path).expanduser()
        _parse(file, file.stat().st_mtime_ns)
    except ssl.SSLError:
        raise ConfigurationError(
            f"The file {path!r} holds no certificate", setting=setting, remedy="Name a file with certificates (PEM)"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The file {path!r} cannot be read ({type(error).__name__})",
            setting=setting,
            remedy="Name a file with certificates (PEM) that the workers can read",
        ) from None
    return path


@cache
def _parse(file: Path, _modified: int) -> None:
    """Read a file of certificates, of which there can be 150, once in a process.

    :raises ssl.SSLError: if it holds none, or a damaged one.
    """
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)


def proxies(endpoint: str) -> dict[str, str] | None:
    """The proxies for a server, of the environment; None if it names none.

    :param endpoint: the server's URL.
    """
    server = urlsplit(endpoint)
    url = next(filter(None, (_variable(f"{name}_proxy") for name in (server.scheme, "all"))), None)
    if url is None:
        return None
    if is_excepted(server.hostname or "", server.port, _variable("no_proxy")):
        return {}
    return {server.scheme: url if "://" in url else f"http://{url}"}


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
