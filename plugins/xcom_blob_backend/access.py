"""How to reach a bucket: what :mod:`xcom_blob_backend.credentials` finds out, in the words of obstore."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from xcom_blob_backend.errors import BackendNotConfigured

#: How long credentials are used before they are asked for again, where nobody says until when they hold.
LIFETIME = timedelta(minutes=10)


class Access:
    """How to reach a bucket."""

    def __init__(self, provider: Callable[[], dict[str, Any]] | None = None) -> None:
        self.config: dict[str, Any] = {}
        #: Options of the HTTP client.
        self.client: dict[str, Any] = {}
        #: Called for credentials; None: by what stands in ``config``, else by the environment's own chain.
        self.provider = provider
        #: The settings that say which certificates to trust and which proxy to take, for errors.
        self.trust = "the certificates of the system"
        self.proxy = ""

    def endpoint(self, name: str, url: str) -> None:
        """Use another endpoint than the cloud's own."""
        self.config[name] = url
        if url.startswith("http://"):
            self.client["allow_http"] = True


def content_of(path: str, setting: str) -> bytes:
    """A file that a setting names.

    :raises BackendNotConfigured: if it cannot be read; the message names both.
    """
    try:
        return Path(path).expanduser().read_bytes()
    except (OSError, ValueError) as why:
        raise BackendNotConfigured(
            f"[xcom_blob_backend] path: {setting} names the file {path!r}, which cannot be read ({type(why).__name__})"
        ) from None
