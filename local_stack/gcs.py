"""A Google Cloud Storage server: the emulator, and before it what it leaves out: pages, offsets and conditions."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local_stack.emulator import Emulator
from local_stack.faults import Answer, FaultProxy, Request
from local_stack.processes import clean_environment

_OBJECT = re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)(?P<rewrite>/rewriteTo/.*)?")
_LISTING = re.compile(r"/storage/v1/b/[^/]+/o")


def as_documented(request: Request, ask: Callable[[Request], Answer]) -> Answer:
    """Generation conditions, pages and offsets, as https://cloud.google.com/storage/docs/json_api/v1 says them."""
    url = urlsplit(request.path)
    query = {name: values[-1] for name, values in parse_qs(url.query).items()}
    if request.method == "GET" and _LISTING.fullmatch(url.path):
        return _listed(query, ask(request))
    wanted = query.get("ifGenerationMatch") if request.method == "DELETE" else query.get("ifSourceGenerationMatch")
    found = _OBJECT.fullmatch(url.path)
    if found and wanted is not None:
        path = f"/storage/v1/b/{found['bucket']}/o/{found['name']}"
        now = ask(replace(request, method="GET", path=path, body=b""))
        if now.status == 200 and str(json.loads(now.body)["generation"]) != wanted:
            return Answer(412, b'{"error": {"code": 412, "message": "conditionNotMet"}}', _JSON)
    return ask(request)


_JSON = {"Content-Type": "application/json"}


def _listed(query: dict[str, str], answer: Answer) -> Answer:
    if answer.status != 200:
        return answer
    content: dict[str, Any] = json.loads(answer.body)
    first = query.get("pageToken") or query.get("startOffset") or ""
    items = [
        item
        for item in sorted(content.get("items") or [], key=lambda item: item["name"].encode())
        if item["name"].encode() >= first.encode()
        and ("endOffset" not in query or item["name"].encode() < query["endOffset"].encode())
    ]
    size = int(query.get("maxResults", 1_000))
    page = {"kind": "storage#objects", "items": items[:size]}
    if len(items) > size:
        page["nextPageToken"] = items[size]["name"]
    return Answer(200, json.dumps(page).encode(), _JSON)


class GcsEmulator(Emulator):
    """The package gcp-storage-emulator, in memory; ``endpoint`` is that of the front, ``bare`` of the emulator."""

    def __init__(self) -> None:
        super().__init__("gcs", _command, env=clean_environment())
        self.bare = self.address
        self.endpoint = self._resources.enter_context(FaultProxy(self.bare, as_documented)).endpoint

    def client(self, endpoint: str | None = None) -> Any:
        """A client for this server, as the Google provider's hook makes one."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        return storage.Client(
            project="test",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": endpoint or self.endpoint},
        )


def _command(port: int) -> list[str]:
    command = [sys.executable, "-P", "-m", "gcp_storage_emulator", "start", "--in-memory"]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]
