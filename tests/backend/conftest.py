"""The XCom backend in this process: configured as a user does it, on real stores."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from xcom_blob_backend import XComBlobBackend, config, store, transfer

from local_stack.s3 import MotoS3, RcloneS3

KEYS = {name: base64.b64encode(name.encode().ljust(32, b".")).decode() for name in ("new", "old", "other")}

Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Sets options of ``[xcom_blob_backend]``; the others keep their defaults."""

    def forget() -> None:
        config.settings.cache_clear()
        store._store_for.cache_clear()

    def set_options(**options: Any) -> None:
        for name, value in options.items():
            monkeypatch.setenv(f"AIRFLOW__XCOM_BLOB_BACKEND__{name.upper()}", str(value))
        forget()

    yield set_options
    forget()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def on_files(configure: Configure, folder: Path) -> Path:
    """Everything goes to blobs in a local folder."""
    configure(path=f"file://{folder}", threshold=0)
    return folder


@pytest.fixture(params=["file", "rclone", "moto"])
def any_store(
    request: pytest.FixtureRequest, configure: Configure, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Everything goes to blobs: in a folder, or on an S3 server that a Connection names."""
    if request.param == "file":
        path = f"file://{folder}"
    else:
        server: RcloneS3 | MotoS3 = request.getfixturevalue(request.param)
        path = new_bucket(server, monkeypatch)
    configure(path=path, threshold=0)
    return path


def new_bucket(server: RcloneS3 | MotoS3, monkeypatch: pytest.MonkeyPatch) -> str:
    """A base path in a bucket of its own, whose Connection is in the environment."""
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    server.client().create_bucket(Bucket=bucket)
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", server.airflow_connection_json())
    return f"s3://blobs@{bucket}/airflow/xcom"


#: The entry that tests push.
AT = {"dag_id": "sales", "run_id": "manual__2026-01-01T00:00:00+00:00", "task_id": "group.load", "map_index": -1}


def push(value: Any, key: str = "return_value", **at: Any) -> Any:
    """What a row holds after a push, as the database gives it back."""
    return json.loads(json.dumps(XComBlobBackend.serialize_value(value, key=key, **{**AT, **at})))


def pull(row: Any) -> Any:
    return XComBlobBackend.deserialize_value(SimpleNamespace(value=row))


def name_in(row: Any) -> str:
    place = transfer.place_of(row)
    assert place is not None
    return place.name


def files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())
