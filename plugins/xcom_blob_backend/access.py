"""How to reach a bucket: what :mod:`xcom_blob_backend.credentials` finds out, in the words of obstore."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

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

    def endpoint(self, name: str, url: str) -> None:
        """Use another endpoint than the cloud's own."""
        self.config[name] = url
        if url.startswith("http://"):
            self.client["allow_http"] = True
