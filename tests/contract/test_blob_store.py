"""What every blob store must do; run over real S3 servers and local files."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.blobs.port import BlobStore, DeleteResult
from include.xcom_maintenance.blobs.s3 import S3BlobStore
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError, StoreUnavailable

#: Keys that object stores allow and that code gets wrong; rclone refuses some, being a file system underneath.
ODD_KEYS = ["a b/c+d/%2e%2e/~", "a/:=&?#/ü€", "a/" + "x" * 200, "a-b/1", "a/b/1", "a.b/1", "a/b", "Z", "_"]


@dataclass(frozen=True)
class Given:
    """A store under test, and another way to write into the same place."""

    store: BlobStore
    write: Callable[[str, bytes], None]
    #: Whether times of modification are told finer than a second.
    kind: str


@pytest.fixture(params=["rclone", "moto", "files"])
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Given]:
    if request.param == "files":
        base = BasePath.parse(f"file://{tmp_path}/base/xcom", setting="blob_base_path")
        root = tmp_path / "base/xcom"
        root.mkdir(parents=True)

        def write(key: str, content: bytes) -> None:
            path = tmp_path / "base" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        yield Given(FileBlobStore(base, setting="blob_base_path"), write, "files")
        return
    client = request.getfixturevalue(request.param).client()
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    base = BasePath.parse(f"s3://{bucket}/xcom", setting="blob_base_path")
    yield Given(
        S3BlobStore(client, base, setting="blob_base_path"),
        lambda key, content: client.put_object(Bucket=bucket, Key=key, Body=content),
        request.param,
    )


def test_the_listing_is_sorted_by_bytes_and_holds_nothing_from_outside(given: Given) -> None:
    for key in ODD_KEYS:
        given.write(f"xcom/{key}" if key != "a/b" else "xcom/a/bb", key.encode())
    given.write("xcom-of-others/a/r/t/1", b"1")
    given.write("xcomx", b"1")
    blobs = list(given.store.list())
    keys = [blob.key for blob in blobs]
    assert sorted(keys) == sorted("a/bb" if key == "a/b" else key for key in ODD_KEYS)
    assert keys == sorted(keys, key=str.encode)
    now = datetime.now(UTC)
    for blob in blobs:
        assert blob.version
        assert blob.last_modified is not None
        assert abs(blob.last_modified - now) < timedelta(minutes=1)


def test_a_listing_of_more_than_a_page_is_whole(given: Given) -> None:
    for number in range(1_203):
        given.write(f"xcom/d/r/t/{number:04}", b"x")
    assert [blob.key for blob in given.store.list()] == [f"d/r/t/{number:04}" for number in range(1_203)]


def test_head_finds_those_that_exist_with_what_the_listing_says(given: Given) -> None:
    for key in ("a/1", "a/2"):
        given.write(f"xcom/{key}", b"abc")
    listed = {blob.key: blob for blob in given.store.list()}
    found = {blob.key: blob for blob in given.store.head(["a/1", "a/2", "a/3"])}
    assert set(found) == {"a/1", "a/2"}
    for key, blob in found.items():
        assert (blob.size, blob.version) == (3, listed[key].version)


def test_unchanged_blobs_are_deleted_and_nothing_else(given: Given) -> None:
    for number in range(5):
        given.write(f"xcom/d/r/t/{number}", b"x")
    given.write("xcom/d/r/t/odd +%", b"x")
    blobs = list(given.store.list())
    doomed = [blob for blob in blobs if blob.key.endswith(("1", "3", "%"))]
    results = {deletion.blob.key: deletion.result for deletion in given.store.delete_unchanged(doomed)}
    assert results == dict.fromkeys(["d/r/t/1", "d/r/t/3", "d/r/t/odd +%"], DeleteResult.DELETED)
    assert [blob.key for blob in given.store.list()] == ["d/r/t/0", "d/r/t/2", "d/r/t/4"]


@pytest.mark.parametrize("from_listing", [True, False])
def test_a_blob_that_was_written_again_is_not_deleted(given: Given, from_listing: bool) -> None:
    given.write("xcom/d/r/t/1", b"old")
    given.write("xcom/d/r/t/2", b"old")
    seen = list(given.store.list() if from_listing else given.store.head(["d/r/t/1", "d/r/t/2"]))
    given.write("xcom/d/r/t/1", b"new")
    results = {deletion.blob.key: deletion.result for deletion in given.store.delete_unchanged(seen)}
    assert results == {"d/r/t/1": DeleteResult.CHANGED, "d/r/t/2": DeleteResult.DELETED}
    assert given.store.get("d/r/t/1") == b"new"


def test_a_blob_that_was_written_again_with_the_same_content_is_not_deleted(given: Given) -> None:
    given.write("xcom/d/r/t/1", b"same")
    seen = list(given.store.list())
    time.sleep(1.1)  # S3 tells times in seconds
    given.write("xcom/d/r/t/1", b"same")
    assert [d.result for d in given.store.delete_unchanged(seen)] == [DeleteResult.CHANGED]
    assert given.store.get("d/r/t/1") == b"same"


def test_a_blob_that_is_gone_is_no_failure(given: Given) -> None:
    given.write("xcom/d/r/t/1", b"x")
    seen = list(given.store.list())
    assert [d.result for d in given.store.delete_unchanged(seen)] == [DeleteResult.DELETED]
    assert [d.result for d in given.store.delete_unchanged(seen)] == [DeleteResult.GONE]


def test_a_small_object_comes_back_as_it_was_put(given: Given) -> None:
    assert given.store.get("marker") is None
    given.store.put("marker", b"mine")
    assert given.store.get("marker") == b"mine"


def test_an_empty_base_path_can_be_listed(given: Given) -> None:
    given.store.check()
    assert list(given.store.list()) == []


# -- places that cannot be used --------------------------------------------------


def test_a_missing_bucket_names_the_setting(rclone: object, moto: object) -> None:
    base = BasePath.parse("s3://no-such-bucket/xcom", setting="blob_base_path")
    for server in (rclone, moto):
        store = S3BlobStore(server.client(), base, setting="blob_base_path")  # type: ignore[attr-defined]
        with pytest.raises(ConfigurationError, match=r"no-such-bucket.*does not exist.*blob_base_path"):
            store.check()


def test_a_wrong_secret_names_the_setting_and_not_the_secret(rclone: object) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=rclone.endpoint,  # type: ignore[attr-defined]
        aws_access_key_id=rclone.access_key,  # type: ignore[attr-defined]
        aws_secret_access_key="wrong-secret",
        region_name="us-east-1",
    )
    store = S3BlobStore(client, BasePath.parse("s3://bucket/xcom", setting="x"), setting="blob_base_path")
    with pytest.raises(ConfigurationError, match="blob_base_path") as caught:
        store.check()
    assert "wrong-secret" not in str(caught.value)


def test_an_unreachable_store_can_be_tried_again() -> None:
    client = boto3.client(
        "s3",
        endpoint_url="http://127.0.0.1:1",
        aws_access_key_id="abc",
        aws_secret_access_key="def",
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}, connect_timeout=1),
    )
    store = S3BlobStore(client, BasePath.parse("s3://bucket/xcom", setting="x"), setting="blob_base_path")
    for call in (store.check, lambda: list(store.list()), lambda: list(store.head(["a"])), lambda: store.get("a")):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            call()


def test_a_missing_folder_names_the_setting(tmp_path: Path) -> None:
    base = BasePath.parse(f"file://{tmp_path}/nowhere", setting="blob_base_path")
    with pytest.raises(ConfigurationError, match="blob_base_path"):
        FileBlobStore(base, setting="blob_base_path").check()


def test_a_link_is_never_followed_out_of_the_base_path(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1").write_text("precious")
    (tmp_path / "base").mkdir()
    os.symlink(outside, tmp_path / "base/link")
    os.symlink(outside / "1", tmp_path / "base/file")
    base = BasePath.parse(f"file://{tmp_path}/base", setting="blob_base_path")
    store = FileBlobStore(base, setting="blob_base_path")
    assert list(store.list()) == []
    [seen] = store.head(["link/1"])
    [deletion] = store.delete_unchanged([seen])
    assert deletion.result is DeleteResult.FAILED
    assert (outside / "1").read_text() == "precious"


def test_a_blob_that_cannot_be_deleted_does_not_stop_the_others(tmp_path: Path) -> None:
    """Permissions would not stop root; a link out of the base path stops everybody."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a").write_text("x")
    (tmp_path / "base").mkdir()
    os.symlink(tmp_path / "outside", tmp_path / "base/link")
    store = FileBlobStore(BasePath.parse(f"file://{tmp_path}/base", setting="x"), setting="blob_base_path")
    store.put("b", b"x")
    blobs = [next(iter(store.head(["link/a"]))), *store.list()]
    results = [(deletion.result, bool(deletion.detail)) for deletion in store.delete_unchanged(blobs)]
    assert results == [(DeleteResult.FAILED, True), (DeleteResult.DELETED, False)]


def test_a_folder_is_no_blob(tmp_path: Path) -> None:
    store = FileBlobStore(BasePath.parse(f"file://{tmp_path}", setting="x"), setting="blob_base_path")
    (tmp_path / "a").mkdir()
    assert list(store.head(["a", "a/b", "n" * 300])) == []


def test_every_error_is_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    base = BasePath.parse(f"file://{tmp_path}/file", setting="blob_base_path")
    with pytest.raises(MaintenanceError):
        FileBlobStore(base, setting="blob_base_path").check()
