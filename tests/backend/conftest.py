"""The XCom backend in this process: configured as a user does it, on real stores."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from xcom_blob_backend import XComBlobBackend, config, store, transfer

from tests.backend.stored import Stored, in_bucket, in_folder

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


@pytest.fixture(params=["file", "rclone", "moto", "gcs", "azurite"])
def stored(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """A base path on every kind of store: a folder, or a bucket that a Connection reaches."""
    if request.param == "file":
        return in_folder(folder)
    return in_bucket(request.getfixturevalue(request.param), monkeypatch)


@pytest.fixture
def any_store(stored: Stored, configure: Configure) -> str:
    """Everything goes to blobs, on every kind of store."""
    configure(path=stored.path, threshold=0)
    return stored.path


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
