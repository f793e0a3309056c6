"""A proxy between a client and an HTTP server that does what networks, rate limits and expiring credentials do."""

from __future__ import annotations

import http.client
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from local_stack.processes import Stoppable

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-length"}


@dataclass(frozen=True)
class Request:
    """What a client asked for, and the how manieth request it is, from 1."""

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a server said, or what is said instead of it."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Seconds until it is sent.
    delay: float = 0
    #: Send so many bytes of the body and break the connection; None: send all. 0: not even a status line.
    cut_after: int | None = None


#: Decides about one request. It may ask the server, several times or not at all.
Behaviour = Callable[[Request, Callable[[Request], Answer]], Answer]


def s3_error(status: int, code: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>injected</Message></Error>'
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


def faithful(request: Request, ask: Callable[[Request], Answer]) -> Answer:
    return ask(request)


class FaultProxy(Stoppable):
    """Listens on a port of 127.0.0.1 and passes on to the server at ``upstream``, as ``behave`` decides.

    The ``Host`` header is passed on as it came, so that signatures stay right.
    """

    def __init__(self, upstream: str, behave: Behaviour = faithful) -> None:
        self.behave = behave
        #: Requests that came in, by method and path.
        self.seen: list[tuple[str, str]] = []
        self._host, self._port = urlsplit(upstream).hostname or "127.0.0.1", urlsplit(upstream).port or 80
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - the names that http.server calls

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server gives it
                pass

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = _body_of(handler)
        with self._lock:
            self.seen.append((handler.command, handler.path))
            number = len(self.seen)
        request = Request(number, handler.command, handler.path, dict(handler.headers.items()), body)
        answer = self.behave(request, self._ask)
        time.sleep(answer.delay)
        if answer.cut_after == 0:
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                handler.send_header(name, value)
        if handler.command != "HEAD":
            handler.send_header("Content-Length", str(len(answer.body)))
        elif "content-length" in {name.lower() for name in answer.headers}:
            handler.send_header("Content-Length", answer.headers["Content-Length"])
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(answer.body[: answer.cut_after])
        if answer.cut_after is not None:
            handler.close_connection = True

    def _ask(self, request: Request) -> Answer:
        """What the server says to this."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=60)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in _HOP_BY_HOP | {"expect"}:
                    connection.putheader(name, value)
            if request.body or request.method in {"PUT", "POST"}:
                connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body)
            found = connection.getresponse()
            return Answer(found.status, found.read(), dict(found.getheaders()))
        finally:
            connection.close()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _body_of(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    parts = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    while handler.rfile.readline().strip():
        pass
    return b"".join(parts)
