"""Switching to this backend, and back: what others wrote stays readable, and what looks like it is kept apart."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.io.xcom import backend as stock_backend
from airflow.providers.common.io.xcom.backend import XComObjectStorageBackend
from airflow.sdk.bases.xcom import BaseXCom
from xcom_blob_backend import XComBlobBackend
from xcom_blob_backend.errors import BlobDamaged, BlobMissing
from xcom_blob_backend.reference import BlobReference, SealedValue

from include.xcom_maintenance.settings import sources
from local_stack.s3 import RcloneS3
from tests.backend.conftest import AT, KEYS, Configure, files_in, pull, push
from tests.backend.stored import in_bucket
from tests.support.versions import serde, stringify

VALUE = {"rows": [[1, "a"], [2, "é"]], "pad": "x" * 500}


class Stock:
    """Airflow's own object storage backend, configured as its users do it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def configure(self, path: str, compression: str = "") -> None:
        for name, value in {"path": path, "threshold": "100", "compression": compression}.items():
            self._monkeypatch.setenv(f"AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_{name.upper()}", value)
        for cached in (stock_backend._get_base_path, stock_backend._get_compression, stock_backend._get_threshold):
            cached.cache_clear()

    def push(self, value: Any) -> Any:
        return json.loads(json.dumps(XComObjectStorageBackend.serialize_value(value, key="k", **AT)))


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Stock:
    return Stock(monkeypatch)


@pytest.mark.parametrize("compression", ["", "gzip", "zstd", "lz4", "bz2", "xz"])
@pytest.mark.parametrize("shared", [True, False], ids=["same path", "another path"])
def test_values_of_the_stock_backend_stay_readable(
    stock: Stock, configure: Configure, tmp_path: Path, compression: str, shared: bool
) -> None:
    stock.configure(f"file://{tmp_path}/old", compression)
    values = [VALUE, (1, "x" * 200), "small", 3, None, {"inline": (1, 2)}]
    rows = [stock.push(value) for value in values]
    configure(path=f"file://{tmp_path}/{'old' if shared else 'new'}")
    assert [pull(row) for row in rows] == [
        XComObjectStorageBackend.deserialize_value(SimpleNamespace(value=r)) for r in rows
    ]
    assert pull(rows[0]) == VALUE


def test_values_of_the_stock_backend_stay_readable_on_s3(
    stock: Stock, configure: Configure, rclone: RcloneS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_bucket(rclone, monkeypatch).path
    stock.configure(path, "gzip")
    row = stock.push(VALUE)
    configure(path=path)
    assert pull(row) == VALUE
    # Older rows lack the Connection's id.
    assert pull(row.replace("blobs@", "")) == VALUE


def test_a_missing_or_damaged_value_of_the_stock_backend_is_an_error_and_not_its_path(
    stock: Stock, configure: Configure, tmp_path: Path
) -> None:
    stock.configure(f"file://{tmp_path}/old", "gzip")
    row = stock.push(VALUE)
    configure(path=f"file://{tmp_path}/new")
    [file] = files_in(tmp_path / "old")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BlobDamaged, match="gzip JSON"):
        pull(row)
    file.unlink()
    with pytest.raises(BlobMissing):
        pull(row)


def test_a_value_of_the_stock_backend_is_purged(stock: Stock, configure: Configure, tmp_path: Path) -> None:
    stock.configure(f"file://{tmp_path}/old")
    row = stock.push(VALUE)
    configure(path=f"file://{tmp_path}/new")
    XComBlobBackend.purge(SimpleNamespace(value=row))
    assert not files_in(tmp_path / "old")


@pytest.mark.parametrize(
    "value",
    [1, "text", "s3://bucket/some/key", {"a": [(1, 2)]}, None, [None], {1, 2}],
    ids=lambda value: str(type(value)),
)
def test_values_of_the_default_backend_stay_readable(on_files: Path, value: Any) -> None:
    row = json.loads(json.dumps(BaseXCom.serialize_value(value)))
    assert pull(row) == BaseXCom.deserialize_value(SimpleNamespace(value=row))


def test_a_text_that_looks_like_a_reference_comes_back_as_it_was_pushed(configure: Configure, folder: Path) -> None:
    """A path of a blob is what a maintenance task would push, and it is a value like any other."""
    configure(path=f"file://{folder}")
    for suffix in ("", ".gz"):
        text = f"file://{folder}/d/r/t/{uuid.uuid4()}{suffix}"
        row = push(text)
        assert SealedValue.data_of(row)
        assert pull(row) == text


@pytest.mark.parametrize("suffix", [".csv", ".tmp", ".parquet", ".xcb", ".json.bak"])
def test_a_file_of_a_users_own_beside_the_blobs_is_never_taken_for_one_or_deleted(
    stock: Stock, configure: Configure, folder: Path, suffix: str
) -> None:
    stock.configure(f"file://{folder}")
    configure(path=f"file://{folder}")
    file = folder / AT["dag_id"] / AT["run_id"] / AT["task_id"] / f"{uuid.uuid4()}{suffix}"
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    row = BaseXCom.serialize_value(f"file://{file}")
    assert pull(row) == push(f"file://{file}") == f"file://{file}"
    XComBlobBackend.purge(SimpleNamespace(value=row))
    assert file.read_text() == "mine"


def test_another_backend_refuses_a_reference_aloud(on_files: Path) -> None:
    row = push(VALUE)
    for backend in (BaseXCom, XComObjectStorageBackend):
        with pytest.raises(ImportError, match=r"xcom_blob_backend.BlobReference was not found in allow list"):
            backend.deserialize_value(SimpleNamespace(value=row))


@pytest.mark.parametrize("threshold", [0, 100_000], ids=["blob", "inline"])
def test_another_backend_reads_a_reference_once_it_is_allowed_to(
    on_files: Path, configure: Configure, stock: Stock, monkeypatch: pytest.MonkeyPatch, threshold: int
) -> None:
    configure(encryption_keys=f"new:{KEYS['new']}", encrypt_inline=True, threshold=threshold)
    row = push(VALUE)
    stock.configure(f"file://{on_files.parent}/stock")
    monkeypatch.setattr(serde, "_match", lambda classname: classname.startswith("xcom_blob_backend."))
    for backend in (BaseXCom, XComObjectStorageBackend):
        assert backend.deserialize_value(SimpleNamespace(value=row)) == VALUE


def test_no_user_can_make_a_reference_up(on_files: Path) -> None:
    """Airflow refuses such a dict from tasks and through its API, whatever the backend."""
    made_up = BlobReference.row(uri="x")
    with pytest.raises(Exception, match="reserved key"):
        push(made_up)
    try:
        from airflow._shared.serialization import FORBIDDEN_XCOM_KEYS
    except ImportError:  # Airflow before 3.2
        from airflow.utils.json import XComEncoder

        with pytest.raises(Exception, match="reserved key"):
            json.dumps(made_up, cls=XComEncoder)
    else:
        assert set(made_up) <= FORBIDDEN_XCOM_KEYS


def test_people_see_what_a_reference_is(on_files: Path) -> None:
    """The UI shows rows without asking the backend: no listing of entries fetches a blob."""
    shown = str(stringify(push(VALUE))).replace("'", "")
    assert shown.startswith("xcom_blob_backend.BlobReference@version=1(uri=file://")


def test_the_maintenance_dags_find_the_blobs_of_the_backend_that_is_configured(
    on_files: Path, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock.configure("s3://aws@bucket/stock")
    assert sources.airflow_layers()[0].values == {"blob_base_path": "s3://aws@bucket/stock"}
    monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", "xcom_blob_backend.XComBlobBackend")
    layer = sources.airflow_layers()[0]
    assert (layer.name, dict(layer.values)) == ("[xcom_blob_backend] path", {"blob_base_path": f"file://{on_files}"})
