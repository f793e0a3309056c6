"""How the backend gets at Google's and Azure's stores: by a Connection, and by what the environment has."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest
from azure.storage.blob import ContainerSasPermissions, generate_container_sas
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from xcom_blob_backend import XComBlobBackend, credentials
from xcom_blob_backend.errors import BackendNotConfigured, StoreFailed

from local_stack.azure import ACCOUNT, KEY, Azurite
from local_stack.faults import Answer, FaultProxy, Request
from local_stack.gcs import GcsEmulator
from tests.backend.conftest import Configure, pull, push
from tests.backend.stored import in_bucket


@pytest.fixture(autouse=True)
def _no_other_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "GOOGLE_", "GCE_", "IDENTITY_", "MSI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nowhere")


class Watched(FaultProxy):
    """Before a store: what the backend says who it is; and a place that gives tokens."""

    def __init__(self, upstream: str) -> None:
        self.authorizations: list[str] = []
        #: Forms in which tokens were asked for.
        self.asked: list[dict[str, Any]] = []
        super().__init__(upstream, self._behave)

    def _behave(self, request: Request, ask: Callable[[Request], Answer]) -> Answer:
        if "/token" in request.path:
            self.asked.append({"path": request.path, **parse_qs(request.body.decode())})
            token: dict[str, Any] = {"access_token": f"token-{len(self.asked)}", "token_type": "Bearer"}
            token |= {"expires_in": 3600, "expires_on": "4102444800"}
            return Answer(200, json.dumps(token).encode(), {"Content-Type": "application/json"})
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.authorizations.append(headers.get("authorization", ""))
        if self.authorizations[-1].startswith("Bearer token-"):
            return Answer(403)  # Azurite takes only tokens of Microsoft's own
        return ask(request)


def connection(monkeypatch: pytest.MonkeyPatch, conn_type: str, **fields: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", json.dumps({"conn_type": conn_type, **fields}))


# -- Google ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def google(gcs: GcsEmulator, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with Watched(gcs.endpoint) as found:
        configure(path=in_bucket(gcs, monkeypatch, endpoint=found.endpoint).path, threshold=0)
        yield found


@pytest.fixture(scope="module")
def service_account() -> tuple[dict[str, str], rsa.RSAPublicKey]:
    """What a key file holds, and what its signatures are checked with."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    told = {"type": "service_account", "client_email": "xcom@project.iam", "private_key_id": "1"}
    return {**told, "private_key": pem.decode(), "project_id": "project"}, key.public_key()


def assert_signed(authorization: str, key: rsa.RSAPublicKey) -> None:
    """That a request carries a token which the owner of the key has made."""
    head, claims, signature = authorization.removeprefix("Bearer ").split(".")
    plain = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (claims, signature)]
    assert json.loads(plain[0])["iss"] == "xcom@project.iam"
    key.verify(plain[1], f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("kind", ["keyfile_dict", "keyfile_dict as text", "key_path", "by the environment"])
def test_a_service_account_signs_for_itself(
    google: Watched,
    service_account: tuple[dict[str, str], rsa.RSAPublicKey],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
) -> None:
    told, public = service_account
    file = tmp_path / "key.json"
    file.write_text(json.dumps(told))
    extras = {
        "keyfile_dict": {"keyfile_dict": told},
        "keyfile_dict as text": {"extra__google_cloud_platform__keyfile_dict": json.dumps(told)},
        "key_path": {"key_path": str(file)},
    }
    connection(monkeypatch, "google_cloud_platform", extra={"project": "project", **extras.get(kind, {})})
    if kind not in extras:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert pull(push([1])) == [1]
    assert len(google.authorizations) == 2
    for authorization in google.authorizations:
        assert_signed(authorization, public)


def test_the_instance_is_asked_for_a_token_where_there_is_nothing_else(
    google: Watched, gcs: GcsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection(monkeypatch, "google_cloud_platform", extra={"project": "project"})
    with Watched(gcs.bare) as metadata:
        monkeypatch.setenv("GCE_METADATA_HOST", metadata.endpoint.removeprefix("http://"))
        with pytest.raises(StoreFailed):
            push([1])
    assert [asked["path"].split("?")[0] for asked in metadata.asked] == [
        "/computeMetadata/v1/instance/service-accounts/default/token"
    ]
    assert google.authorizations == ["Bearer token-1"]


@pytest.mark.parametrize("by_connection", [True, False])
def test_nobody_can_write_and_read_where_everybody_may(
    google: Watched, configure: Configure, monkeypatch: pytest.MonkeyPatch, by_connection: bool
) -> None:
    if not by_connection:
        configure(path=os.environ["AIRFLOW__XCOM_BLOB_BACKEND__PATH"].replace("blobs@", ""))
    assert pull(push([1])) == [1]
    assert {authorization.strip() for authorization in google.authorizations} <= {"", "Bearer"}


# -- Azure -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def azure(azurite: Azurite, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with Watched(azurite.endpoint) as found:
        configure(path=in_bucket(azurite, monkeypatch, endpoint=found.endpoint).path, threshold=0)
        yield found


def _bucket() -> str:
    return os.environ["AIRFLOW__XCOM_BLOB_BACKEND__PATH"].split("@")[1].split("/")[0]


def _sas() -> str:
    return str(
        generate_container_sas(
            ACCOUNT,
            _bucket(),
            account_key=KEY,
            permission=ContainerSasPermissions(read=True, write=True, create=True, delete=True),
            expiry=datetime.now(UTC) + timedelta(hours=1),
        )
    )


@pytest.mark.parametrize(
    "kind", ["password", "account_key", "shared_access_key", "sas_token", "a whole URL", "connection_string", "its SAS"]
)
def test_what_a_connection_says_is_used_and_not_what_the_environment_says(
    azure: Watched, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    url, sas = f"{azure.endpoint}/{ACCOUNT}", _sas()
    text = f"AccountName={ACCOUNT};BlobEndpoint={url}"
    fields: dict[str, Any] = {
        "password": {"password": KEY},
        "account_key": {"extra": {"account_key": KEY}},
        "shared_access_key": {"extra": {"extra__wasb__shared_access_key": KEY}},
        "sas_token": {"extra": {"sas_token": f"?{sas}"}},
        "a whole URL": {"host": "", "login": "", "extra": {"sas_token": f"{url}?{sas}"}},
        "connection_string": {"host": "", "extra": {"connection_string": f"{text};AccountKey={KEY}"}},
        "its SAS": {"host": "", "extra": {"connection_string": f"{text};SharedAccessSignature={sas}"}},
    }[kind]
    connection(monkeypatch, "wasb", **{"login": ACCOUNT, "host": url, **fields})
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "another")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"of the environment").decode())
    row = push([1])
    assert pull(row) == [1]
    XComBlobBackend.purge(SimpleNamespace(value=row))
    expected = "" if "sas" in kind.lower() or kind == "a whole URL" else f"SharedKey {ACCOUNT}:"
    assert [each[: len(expected)] if expected else each for each in azure.authorizations] == [expected] * 3


@pytest.mark.parametrize("kind", ["key", "SAS"])
def test_the_environments_own_credentials_are_used_without_a_connection(
    azure: Watched, configure: Configure, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    sas = _sas()
    configure(path=os.environ["AIRFLOW__XCOM_BLOB_BACKEND__PATH"].replace("blobs@", ""))
    monkeypatch.delenv("AIRFLOW_CONN_BLOBS")
    with pytest.raises(BackendNotConfigured, match="AZURE_STORAGE_ACCOUNT_NAME"):
        push([1])
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{azure.endpoint}/{ACCOUNT}")
    monkeypatch.setenv(*(("AZURE_STORAGE_ACCOUNT_KEY", KEY) if kind == "key" else ("AZURE_STORAGE_SAS_KEY", sas)))
    assert pull(push([1])) == [1]


def test_an_application_shows_its_own_secret_and_not_the_key_of_the_environment(
    azure: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection(
        monkeypatch,
        "wasb",
        login="the-client",
        password="the-secret",
        host=f"{azure.endpoint}/{ACCOUNT}",
        extra={"tenant_id": "the-tenant", "client_secret_auth_config": {"authority": azure.endpoint}},
    )
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    with pytest.raises(StoreFailed) as caught:
        push([1])
    assert "the-secret" not in str(caught.value)
    [asked] = azure.asked
    assert asked["path"] == "/the-tenant/oauth2/v2.0/token"
    assert (asked["client_id"], asked["client_secret"]) == (["the-client"], ["the-secret"])
    assert azure.authorizations == ["Bearer token-1"]


def test_an_application_that_gets_no_token_is_an_error_without_its_secret(
    azure: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = {"client_secret_auth_config": {"authority": f"{azure.endpoint}/nowhere"}}
    fields = {"login": "the-client", "password": "the-secret", "host": f"{azure.endpoint}/{ACCOUNT}"}
    connection(monkeypatch, "wasb", **fields, extra={"tenant_id": "t", **authority})
    azure.behave = lambda request, ask: Answer(401)
    with pytest.raises(StoreFailed, match="did not return a token") as caught:
        push([1])
    assert "the-secret" not in str(caught.value)


@pytest.mark.parametrize("variables", ["workload identity", "managed identity"])
def test_an_identity_of_the_environment_is_used_where_a_connection_has_no_credentials(
    azure: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: str
) -> None:
    extra = {"managed_identity_client_id": "the-client", "workload_identity_tenant_id": "the-tenant"}
    connection(monkeypatch, "wasb", login=ACCOUNT, host=f"{azure.endpoint}/{ACCOUNT}", extra=extra)
    if variables == "workload identity":
        (tmp_path / "token").write_text("of-the-cluster")
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", azure.endpoint)
    else:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{azure.endpoint}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "x")
    with pytest.raises(StoreFailed):
        push([1])
    [asked] = azure.asked
    assert "the-client" in json.dumps(asked)
    if variables == "workload identity":
        assert asked["path"] == "/the-tenant/oauth2/v2.0/token"
        assert asked["client_assertion"] == ["of-the-cluster"]


# -- what a Connection means -------------------------------------------------------------------------------------------


def connection_string(text: str) -> dict[str, Any]:
    return {"conn_type": "wasb", "extra": {"connection_string": text}}


@pytest.mark.parametrize(
    ("scheme", "connection", "config"),
    [
        ("s3", {"conn_type": "aws", "extra": {"region_name": "r"}}, {"region": "r"}),
        ("gs", {"conn_type": "google_cloud_platform"}, {}),
        ("abfs", {"conn_type": "wasb", "login": "account", "password": "key"}, {"account_name": "account"}),
        (
            "abfs",
            {"conn_type": "wasb", "login": "client", "host": "https://acc.blob.core.windows.net/"},
            {"account_name": "acc"},
        ),
        ("abfs", {"conn_type": "wasb", "login": "c", "host": "acc.blob.core.windows.net"}, {"account_name": "acc"}),
        (
            "abfs",
            connection_string("AccountName=a;AccountKey=b==;BlobEndpoint=http://127.0.0.1:1/a"),
            {"account_name": "a", "endpoint": "http://127.0.0.1:1/a"},
        ),
        (
            "abfs",
            connection_string("DefaultEndpointsProtocol=https;AccountName=a;EndpointSuffix=core.windows.net;"),
            {"account_name": "a"},
        ),
        (
            "abfs",
            connection_string("accountname=a;accountkey=b==;EndpointSuffix=core.usgovcloudapi.net"),
            {"account_name": "a", "endpoint": "https://a.blob.core.usgovcloudapi.net"},
        ),
    ],
)
def test_connections_of_every_cloud_are_understood(
    monkeypatch: pytest.MonkeyPatch, scheme: str, connection: dict[str, Any], config: dict[str, Any]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", json.dumps(connection))
    assert credentials.access(scheme, "blobs").config == config


def test_a_connection_that_names_no_account_is_an_error_that_names_it(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection(monkeypatch, "wasb", extra={"sas_token": "sig=x"})
    configure(path="abfs://blobs@bucket/x", threshold=0)
    with pytest.raises(BackendNotConfigured, match="'blobs' names no storage account"):
        push([1])
