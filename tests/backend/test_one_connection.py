"""One Connection, two clients: backend and maintenance DAGs trust the same servers and take the same proxy."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import select
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from xcom_blob_backend import network as of_backend
from xcom_blob_backend.errors import BackendNotConfigured, BlobMissing, StoreFailed

from include.xcom_maintenance.blobs.clients import s3_clients
from include.xcom_maintenance.blobs.s3 import network as of_maintenance
from include.xcom_maintenance.blobs.s3.requests import translated
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError
from include.xcom_maintenance.reports.paths import path_errors, storage_path
from local_stack.faults import Answer, FaultProxy, Request, s3_error
from local_stack.processes import free_port
from local_stack.s3 import MotoS3
from tests.backend.conftest import Configure, pull, push
from tests.backend.stored import in_bucket
from tests.backend.test_store_trouble import FakeS3

VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *PROXIES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ca.pem``, and ``server.pem`` that it has signed for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, issuer: str, signed_by: Any, key: Any, *, ca: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.public_key()), critical=False)
            .sign(signed_by, hashes.SHA256())
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(certificate("test ca", "test ca", ca_key, ca_key, ca=True).public_bytes(pem))
    (folder / "server.pem").write_bytes(
        certificate("server", "test ca", ca_key, key, ca=False).public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


@pytest.fixture
def tls(authority: Path) -> Iterator[FakeS3]:
    with FakeS3() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority / "server.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def plain() -> Iterator[FakeS3]:
    with FakeS3() as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


class Proxy(ThreadingHTTPServer):
    """Passes on what is asked of it, in the clear and by CONNECT."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        super().__init__(("127.0.0.1", 0), _ProxyHandler)


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_CONNECT(self) -> None:
        self.server.seen.append(f"CONNECT {self.path}")
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as upstream:
            self.send_response(200)
            self.end_headers()
            ends = [self.connection, upstream]
            while readable := select.select(ends, [], [], 10)[0]:
                for one in readable:
                    data = one.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    ends[1 - ends.index(one)].sendall(data)

    def do_any(self) -> None:
        self.server.seen.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        request = urllib.request.Request(self.path, body or None, headers, method=self.command)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            answer = opener.open(request, timeout=10)
        except HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
            self.send_response(answer.status)
            for name in ("ETag", "Last-Modified"):
                self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_PUT = do_any  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


Connect = Callable[..., None]


@pytest.fixture
def connect(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> Connect:
    def connect(endpoint: str, **extra: Any) -> None:
        found = {"endpoint_url": endpoint, "region_name": "eu-central-1", **extra}
        found["config_kwargs"] = {"retries": {"total_max_attempts": 1}, **extra.get("config_kwargs", {})}
        connection = {"conn_type": "aws", "login": "the-key-id", "password": "the-secret-key", "extra": found}
        monkeypatch.setenv("AIRFLOW_CONN_BLOBS", json.dumps(connection))
        configure(path="s3://blobs@bucket/x", threshold=0, request_timeout_seconds=5, retry_timeout_seconds=1)

    return connect


def by_backend() -> None:
    assert pull(push([1])) == [1]


def by_maintenance() -> None:
    with translated("blob base path", bucket="bucket", setting="blob_base_path"):
        client, _ = s3_clients("blobs", "blob_conn_id")
        with suppress(client.exceptions.NoSuchKey):  # the server has said so
            client.get_object(Bucket="bucket", Key="x/marker")


CLIENTS = [by_backend, by_maintenance]
both = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)


def https(server: FakeS3) -> str:
    return f"https://127.0.0.1:{server.server_port}"


# -- certificates ------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("setting", ["verify", *VARIABLES])
def test_an_authority_that_one_client_trusts_the_other_trusts_too(
    tls: FakeS3, connect: Connect, authority: Path, monkeypatch: pytest.MonkeyPatch, setting: str, client: Any
) -> None:
    bundle = str(authority / "ca.pem")
    if setting == "verify":
        connect(https(tls), verify=bundle)
    else:
        monkeypatch.setenv(setting, bundle)
        connect(https(tls))
    client()
    assert tls.requests


@both
def test_a_connection_that_verifies_nothing_does_so_for_both(tls: FakeS3, connect: Connect, client: Any) -> None:
    connect(https(tls), verify=False)
    client()


@both
def test_an_authority_that_is_not_trusted_is_an_error_that_says_tls_and_which_settings(
    tls: FakeS3, connect: Connect, client: Any
) -> None:
    connect(https(tls))
    with pytest.raises((StoreFailed, MaintenanceError), match=r"TLS: .*certificate") as caught:
        client()
    told = f"{caught.value} {getattr(caught.value, 'remedy', '')}"
    assert all(name in told for name in ("verify", *VARIABLES))
    assert not tls.requests


def test_a_report_on_a_server_that_is_not_trusted_fails_with_the_setting_that_its_client_reads(
    tls: FakeS3, connect: Connect, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(https(tls), verify=str(authority / "ca.pem"))
    # Airflow keeps the file system of a Connection, so this one has a name of its own.
    monkeypatch.setenv("AIRFLOW_CONN_UNTRUSTED", os.environ["AIRFLOW_CONN_BLOBS"])
    place = storage_path("s3://untrusted@bucket/reports", setting="report_path")
    with pytest.raises(ConfigurationError, match="AWS_CA_BUNDLE"), path_errors(place, "written", setting="report_path"):
        (place / "r.json").write_text("{}")


@both
@pytest.mark.parametrize(
    "verify", ["/nope.pem", "false", "False", "true", "/etc/hostname", "/", "{key}", "{damaged}", 0, 1, []]
)
def test_a_file_of_certificates_that_cannot_be_used_is_an_error_of_the_configuration(
    tls: FakeS3, connect: Connect, authority: Path, tmp_path: Path, client: Any, verify: Any
) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("key", "damaged")}
    _, begin, key = (authority / "server.pem").read_text().partition("-----BEGIN PRIVATE KEY")
    files["key"].write_text(begin + key)
    files["damaged"].write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    verify = verify.format(**files) if isinstance(verify, str) else verify
    connect(https(tls), verify=verify)
    with pytest.raises((BackendNotConfigured, ConfigurationError)) as caught:
        client()
    told = f"{caught.value} {getattr(caught.value, 'setting', '')}"
    assert "verify" in told
    assert "blobs" in told
    assert str(verify) in told
    assert "gone" not in told


@both
def test_a_connection_that_leaves_verify_empty_says_nothing_to_either(
    tls: FakeS3, connect: Connect, authority: Path, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    connect(https(tls), verify="")
    client()
    monkeypatch.delenv("SSL_CERT_FILE")
    connect(https(tls), verify="")
    with pytest.raises((StoreFailed, MaintenanceError), match="TLS: "):
        client()


@both
@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_that_names_no_file_of_certificates_is_an_error_that_names_it(
    tls: FakeS3, connect: Connect, client: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "/nope.pem")
    connect(https(tls))
    with pytest.raises((BackendNotConfigured, ConfigurationError)) as caught:
        client()
    assert name in f"{caught.value} {getattr(caught.value, 'setting', '')}"


def test_a_pull_with_an_unreadable_file_of_certificates_does_not_say_that_the_blob_is_gone(
    tls: FakeS3, connect: Connect, authority: Path
) -> None:
    connect(https(tls), verify=str(authority / "ca.pem"))
    row = push([1])
    connect(https(tls), verify="/nope.pem")
    with pytest.raises(BackendNotConfigured, match=r"verify of the Connection 'blobs'.*'/nope.pem'"):
        pull(row)
    connect(https(tls), verify=str(authority / "ca.pem"))
    tls.objects.clear()
    with pytest.raises(BlobMissing, match="missing"):
        pull(row)


@pytest.mark.parametrize(
    ("connection", "name"),
    [
        ({"conn_type": "google_cloud_platform", "extra": {"key_path": "/nope.json"}}, "key_path"),
        ({"conn_type": "google_cloud_platform", "extra": {}}, "GOOGLE_APPLICATION_CREDENTIALS"),
        ({"conn_type": "aws", "extra": {"region_name": "x"}}, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        ({"conn_type": "wasb", "login": "account"}, "AZURE_FEDERATED_TOKEN_FILE"),
    ],
)
def test_a_file_of_credentials_that_is_not_there_is_an_error_of_the_configuration(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any], name: str
) -> None:
    if name.isupper():
        monkeypatch.setenv(name, "/nope.json")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", json.dumps(connection))
    scheme = {"aws": "s3", "wasb": "abfs"}.get(connection["conn_type"], "gs")
    configure(path=f"{scheme}://blobs@bucket/x", threshold=0)
    with pytest.raises(BackendNotConfigured, match=rf"{name}.*'/nope.json'"):
        push([1])


def test_a_file_that_a_hook_cannot_find_is_no_missing_blob(
    plain: FakeS3, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xcom_blob_backend import credentials_s3

    def missing(_: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory", "/nope/credentials")

    monkeypatch.setattr(credentials_s3._Hook, "__call__", missing)
    connect(f"http://127.0.0.1:{plain.server_port}", role_arn="arn:aws:iam::123456789012:role/x")
    with pytest.raises(BackendNotConfigured, match=r"a file of the credentials cannot be read.*nope/credentials"):
        push([1])


@pytest.mark.parametrize("page", ["<html><body>404 Not Found</body></html>", '{"error": "no route"}'])
def test_a_server_that_is_no_store_has_not_said_that_a_blob_is_missing(
    moto: MotoS3, configure: Configure, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    stored = in_bucket(moto, monkeypatch)
    with FaultProxy(moto.endpoint) as server:
        connection = json.loads(moto.airflow_connection_json())
        connection["extra"]["endpoint_url"] = server.endpoint
        monkeypatch.setenv("AIRFLOW_CONN_BLOBS", json.dumps(connection))
        configure(path=stored.path, threshold=0)
        row = push([1])
        server.behave = lambda *_: Answer(404, page.encode())
        with pytest.raises(StoreFailed, match="404 Not Found: "):
            pull(row)


# -- proxies -----------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("way", ["config_kwargs", "scheme", "SCHEME", "all_proxy"])
def test_both_clients_take_the_same_proxy(
    tls: FakeS3,
    plain: FakeS3,
    proxy: Proxy,
    connect: Connect,
    authority: Path,
    monkeypatch: pytest.MonkeyPatch,
    client: Any,
    way: str,
    secure: bool,
) -> None:
    url, scheme = f"http://127.0.0.1:{proxy.server_port}", "https" if secure else "http"
    extra: dict[str, Any] = {"verify": str(authority / "ca.pem")}
    if way == "config_kwargs":
        extra["config_kwargs"] = {"proxies": {scheme: url}}
    else:
        name = f"{scheme}_proxy" if way != "all_proxy" else way
        monkeypatch.setenv(name.upper() if way == "SCHEME" else name, url)
    connect(https(tls) if secure else f"http://127.0.0.1:{plain.server_port}", **extra)
    client()
    assert proxy.seen
    assert (tls if secure else plain).requests


@both
@pytest.mark.parametrize(
    "no_proxy", ["127.0.0.1", "127.0.0.0/8", "10.0.0.0/8, 127.0.0.1", "*", "127.0.0.1:{port}", "localhost,127.0.0.1/32"]
)
def test_both_clients_leave_the_proxy_out_for_the_same_servers(
    plain: FakeS3, connect: Connect, monkeypatch: pytest.MonkeyPatch, client: Any, no_proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", no_proxy.format(port=plain.server_port))
    connect(f"http://127.0.0.1:{plain.server_port}")
    client()
    assert plain.requests


@both
def test_a_connection_that_names_no_proxies_overrules_the_environment_for_both(
    plain: FakeS3, connect: Connect, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    connect(f"http://127.0.0.1:{plain.server_port}", config_kwargs={"proxies": {}})
    client()


@both
@pytest.mark.parametrize("proxies", ["http://proxy", ["http://proxy"], {"http": "http://me:S3CRET@[bad"}])
def test_proxies_that_are_none_are_an_error_that_names_them_and_no_password(
    plain: FakeS3, connect: Connect, client: Any, proxies: Any
) -> None:
    connect(f"http://127.0.0.1:{plain.server_port}", config_kwargs={"proxies": proxies})
    with pytest.raises((BackendNotConfigured, MaintenanceError)) as caught:
        client()
    told = f"{caught.value} {getattr(caught.value, 'setting', '')} {getattr(caught.value, 'remedy', '')}"
    assert "proxies" in told
    assert "S3CRET" not in told


@both
def test_a_proxy_that_is_not_there_is_an_error_that_names_the_settings(
    plain: FakeS3, connect: Connect, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "192.168.0.0/16,.example.com,127.0.0.1:1")
    connect(f"http://127.0.0.1:{plain.server_port}")
    with pytest.raises((StoreFailed, MaintenanceError)) as caught:
        client()
    assert "NO_PROXY" in f"{caught.value} {getattr(caught.value, 'remedy', '')}"
    assert not plain.requests


@pytest.mark.parametrize("host", ["s3.example.com", "example.com", "10.1.2.3", "127.0.0.1", "::1", "notexample.com"])
@pytest.mark.parametrize("port", [None, 443, 9000])
@pytest.mark.parametrize(
    "no_proxy",
    [
        "",
        "*",
        "example.com",
        ".example.com",
        "*.example.com",
        "10.0.0.0/8",
        "10.1.2.3:9000",
        "::1",
        "[::1]",
        "x, 127.0.0.0/8",
    ],
)
def test_the_two_rules_of_no_proxy_never_differ(host: str, port: int | None, no_proxy: str) -> None:
    assert of_backend.is_excepted(host, port, no_proxy) == of_maintenance.is_excepted(host, port, no_proxy)


# -- checksums ---------------------------------------------------------------------------------------------------------


def test_no_push_is_without_the_checksum_that_buckets_with_object_lock_ask_for(plain: FakeS3, connect: Connect) -> None:
    connect(f"http://127.0.0.1:{plain.server_port}")
    push(["x" * 1_000])
    [(_, _, headers)] = plain.requests
    assert "x-amz-checksum-sha256" in {name.lower() for name in headers}


def test_a_bucket_that_asks_for_a_checksum_takes_our_pushes(
    moto: MotoS3, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_object_lock(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        names = {name.lower() for name in request.headers}
        if request.method == "PUT" and not {"content-md5", "x-amz-checksum-sha256"} & names:
            return s3_error(400, "InvalidRequest")
        return ask(request)

    stored = in_bucket(moto, monkeypatch)
    with FaultProxy(moto.endpoint, with_object_lock) as before:
        connection = json.loads(moto.airflow_connection_json())
        connection["extra"]["endpoint_url"] = before.endpoint
        monkeypatch.setenv("AIRFLOW_CONN_BLOBS", json.dumps(connection))
        configure(path=stored.path, threshold=0)
        assert pull(push(["x" * 10_000])) == ["x" * 10_000]
    assert before.seen
    assert len(stored.objects()) == 1
