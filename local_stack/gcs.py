"""A Google Cloud Storage server: the emulator, and before it what it leaves out.

Of the JSON API, which Google's own client speaks: pages, offsets and conditions. Of the XML API, which obstore speaks:
deletions, and the headers and errors that every answer has.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from local_stack.emulator import Emulator
from local_stack.faults import Answer, FaultProxy, Request
from local_stack.processes import clean_environment

_OBJECT = re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)(?P<rewrite>/rewriteTo/.*)?")
_LISTING = re.compile(r"/storage/v1/b/[^/]+/o")
_XML_OBJECT = re.compile(r"/(?!storage/|upload/|download/|batch/|b/)(?P<bucket>[^/]+)/(?P<name>.+)")


def as_documented(request: Request, ask: Callable[[Request], Answer]) -> Answer:
    """Generation conditions, pages and offsets, as https://cloud.google.com/storage/docs/json_api/v1 says them."""
    url = urlsplit(request.path)
    if found := _XML_OBJECT.fullmatch(url.path):
        return _as_xml_api(request, ask, unquote(found["bucket"]), found["name"].replace("/", "%2F"))
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


def _as_xml_api(request: Request, ask: Callable[[Request], Answer], bucket: str, name: str) -> Answer:
    """One object, as https://cloud.google.com/storage/docs/xml-api/reference-methods says it."""

    def of_json_api(path: str, method: str = "GET") -> Answer:
        return ask(replace(request, method=method, path=path, headers={}, body=b""))

    about = f"/storage/v1/b/{bucket}/o/{name}"
    request = replace(request, path=f"/{bucket}/{name}")
    if request.method == "PUT":
        answer = ask(request)
        digest = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
        headers = {**answer.headers, "ETag": f'"{digest}"'}
    elif request.method == "DELETE":
        answer, headers = of_json_api(about, "DELETE"), {}
        answer = replace(answer, status=204 if answer.status == 200 else answer.status)
    else:
        answer, metadata = ask(request), of_json_api(about)
        content = json.loads(metadata.body) if metadata.status == 200 else {}
        updated = datetime.fromisoformat(content["updated"]) if content else None
        headers = {**answer.headers, **({"Last-Modified": format_datetime(updated, usegmt=True)} if updated else {})}
        headers |= {"ETag": f'"{content.get("etag", "")}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-\d*", request.headers.get("range", ""))
        if content and wanted and int(wanted[1]) >= int(content["size"]):
            return _xml_error(416, "InvalidRange")
    if answer.status == 404:
        has_bucket = of_json_api(f"/storage/v1/b/{bucket}").status == 200
        return _xml_error(404, "NoSuchKey" if has_bucket else "NoSuchBucket")
    return replace(answer, headers=headers)


def _xml_error(status: int, code: str) -> Answer:
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml; charset=UTF-8"})


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

    def airflow_connection_json(self) -> str:
        """The value of an ``AIRFLOW_CONN_<ID>`` variable. The address is not in it: STORAGE_EMULATOR_HOST says that."""
        return json.dumps({"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True}})


def _command(port: int) -> list[str]:
    command = [sys.executable, "-P", "-m", "gcp_storage_emulator", "start", "--in-memory"]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]
