"""S3 that is down, slow, throttling or closed; and how the backend gets its credentials."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from xcom_blob_backend import credentials
from xcom_blob_backend.errors import BackendNotConfigured, StoreFailed

from local_stack.processes import free_port
from local_stack.s3 import MotoS3, RcloneS3
from tests.backend.conftest import Configure, pull, push
from tests.backend.stored import in_bucket

SECRET = "the-secret-access-key"


class FakeS3(ThreadingHTTPServer):
    """A server that keeps what is put, and answers some requests first as it is told to."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        #: Status codes of the next answers; then all goes well.
        self.statuses: list[int] = []
        self.pause = 0.0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeS3

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._goes_well():
            self.server.objects[self.path] = body
            self._answer(200, b"")

    def do_GET(self) -> None:
        if self._goes_well():
            found = self.server.objects.get(self.path)
            self._answer(404 if found is None else 200, found or b"<Error><Code>NoSuchKey</Code></Error>")

    def _goes_well(self) -> bool:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        time.sleep(self.server.pause)
        if self.server.statuses:
            status = self.server.statuses.pop(0)
            code = {503: "SlowDown", 403: "AccessDenied"}.get(status, "InternalError")
            self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())
            return False
        return True

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def fake(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    with FakeS3() as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        aws(monkeypatch, server.server_port)
        configure(path="s3://blobs@bucket/x", threshold=0, request_timeout_seconds=2, retry_timeout_seconds=4)
        yield server
        server.shutdown()


def aws(monkeypatch: pytest.MonkeyPatch, port: int, **extra: Any) -> None:
    """The Connection ``blobs``, to a server on this machine."""
    extra = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "eu-central-1", **extra}
    connection = {"conn_type": "aws", "login": "the-key-id", "password": SECRET, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", json.dumps(connection))


def test_a_push_is_one_request_and_a_pull_is_another(fake: FakeS3) -> None:
    row = push(["x" * 20_000_000])
    assert [method for method, *_ in fake.requests] == ["PUT"]
    pull(row)
    assert [method for method, *_ in fake.requests] == ["PUT", "GET"]


@pytest.mark.parametrize("status", [503, 500, 429])
def test_a_store_that_throttles_is_asked_again(fake: FakeS3, status: int) -> None:
    fake.statuses = [status, status]
    row = push([1])
    fake.statuses = [status]
    assert pull(row) == [1]
    assert len(fake.requests) == 5


def test_a_store_that_never_stops_throttling_is_an_error_in_time(fake: FakeS3) -> None:
    fake.statuses = [503] * 100
    started = time.monotonic()
    with pytest.raises(StoreFailed, match=r"writing s3://blobs@bucket/x/sales/.* failed: .*503"):
        push([1])
    assert time.monotonic() - started < 30
    assert fake.objects == {}


def test_a_store_that_does_not_answer_is_an_error_in_time(fake: FakeS3) -> None:
    row = push([1])
    fake.pause = 60
    started = time.monotonic()
    with pytest.raises(StoreFailed, match="reading s3://blobs@bucket/x/sales/"):
        pull(row)
    assert time.monotonic() - started < 30


def test_a_store_that_is_down_is_an_error_that_names_no_secret(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws(monkeypatch, free_port())
    configure(path="s3://blobs@bucket/x", threshold=0, request_timeout_seconds=2, retry_timeout_seconds=2)
    with pytest.raises(StoreFailed, match="failed: ") as caught:
        push([1])
    assert SECRET not in str(caught.value)
    assert "Debug source" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("status", "told"), [(403, "403|ermission|AccessDenied"), (401, "401|nauth")])
def test_a_store_that_refuses_is_not_asked_again(fake: FakeS3, status: int, told: str) -> None:
    fake.statuses = [status]
    with pytest.raises(StoreFailed, match=told):
        push([1])
    assert len(fake.requests) == 1


def test_a_wrong_secret_is_an_error(rclone: RcloneS3, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(path=in_bucket(rclone, monkeypatch).path, threshold=0)
    aws(monkeypatch, rclone.port)
    with pytest.raises(StoreFailed):
        push([1])


# -- credentials -------------------------------------------------------------------------------------------------------


def test_session_tokens_are_sent_and_those_of_the_environment_are_not(
    fake: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-environment")
    aws(monkeypatch, fake.server_port, aws_session_token="of-the-connection")
    push([1])
    aws(monkeypatch, fake.server_port)
    from xcom_blob_backend import store

    store._store_for.cache_clear()
    push([1])
    first, second = ({name.lower(): value for name, value in headers.items()} for _, _, headers in fake.requests)
    assert first["x-amz-security-token"] == "of-the-connection"
    assert "x-amz-security-token" not in second
    assert "Credential=the-key-id/" in second["authorization"]
    assert "/eu-central-1/s3/" in second["authorization"]


def test_the_environments_own_credentials_are_used_without_a_connection(
    fake: FakeS3, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{fake.server_port}")
    configure(path="s3://bucket/x")
    assert pull(push([1])) == [1]
    assert "Credential=of-the-environment/" in fake.requests[0][2]["authorization"]


def test_a_role_is_assumed(moto: MotoS3, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    path = in_bucket(moto, monkeypatch).path
    sts = {"sts": {"endpoint_url": moto.endpoint}, "s3": {"endpoint_url": moto.endpoint}}
    aws(monkeypatch, moto.port, role_arn="arn:aws:iam::123456789012:role/xcom", service_config=sts)
    configure(path=path, threshold=0)
    assert pull(push([1])) == [1]
    [connection] = [credentials.access("s3", "blobs")]
    assert connection.provider is not None
    found = connection.provider()
    assert found["access_key_id"].startswith("ASIA")
    assert found["token"]
    assert found["expires_at"].tzinfo is not None


def test_a_connection_that_is_not_there_is_an_error_that_names_it(configure: Configure) -> None:
    configure(path="s3://nobody@bucket/x", threshold=0)
    with pytest.raises(BackendNotConfigured, match="no Connection 'nobody'"):
        push([1])
