"""What every blob store must do; run over real S3 servers and local files."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from include.xcom_maintenance.blobs.azure import AzureBlobStore
from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.blobs.gcs import GcsBlobStore
from include.xcom_maintenance.blobs.port import BlobStore, DeleteResult
from include.xcom_maintenance.blobs.s3.store import S3BlobStore
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError, StoreUnavailable
from local_stack.azure import Azurite
from local_stack.gcs import GcsEmulator
from local_stack.s3 import RcloneS3

#: Keys that every store allows and that code gets wrong.
ODD_KEYS = [
    "a b/c+d/%2e%2e/~",
    "a/:=&?#/ü€",
    "a/" + "x" * 200,
    "a-b/1",
    "a/b/1",
    "a.b/1",
    "Z",
    "_",
    ".hidden/.dot",
    "%2F/%25/100%",
    "manual__2026-01-01T00:00:00+00:00/<t>&'",
    "日本/\U0001f600/\ufb01",  # in UTF-8 and in UTF-16 these sort differently
    "/".join(["k" * 200] * 5) + "/" + "k" * 14,  # with the base path 1,024 bytes
]
#: Keys that real object stores allow, and that nothing can keep which is a file system underneath.
ODDER_KEYS = ["a//b", "a/", "a/b", "c/./d", "c/../d", "y" * 1_019]
#: What the servers really do, whatever they are called.
CONDITIONS = {"rclone": False, "moto": True, "gcs": True, "azurite": True, "files": False}
#: What the other servers refuse or break off at; Azure's client resolves dots.
NOT_KEPT = {
    "rclone": ODDER_KEYS,
    "files": ODDER_KEYS,
    "gcs": ["c/../d", "a/b"],  # it takes a//b for a/b
    "azurite": ["c/./d", "c/../d"],
}
#: For every test of more than a page.
PAGE = 10
PAGED = [f"d/r/t/{number:04}" for number in range(4 * PAGE + 3)]


@dataclass(frozen=True)
class Given:
    """A store under test, and another way to write into the same place."""

    store: BlobStore
    write: Callable[[str, bytes], None]
    kind: str
    #: Another store in the same place, with another base path.
    beside: Callable[[BasePath], BlobStore]

    @property
    def odd_keys(self) -> list[str]:
        return ODD_KEYS + [key for key in ODDER_KEYS if self.kind == "moto" or key not in NOT_KEPT[self.kind]]

    def sibling(self, name: str) -> BasePath:
        uri = self.store.base.uri
        folder = uri.key.rpartition("/")[0]
        return BasePath.parse(
            f"{uri.scheme}://{uri.bucket}/{f'{folder}/' if folder else ''}{name}", setting="blob_base_path"
        )

    def listing(self) -> list[str]:
        return [blob.key for blob in self.store.list()]


def _files(folder: Path) -> Given:
    base = BasePath.parse(f"file://{folder}/base/xcom", setting="blob_base_path")
    (folder / "base/xcom").mkdir(parents=True)

    def write(key: str, content: bytes) -> None:
        path = folder / "base" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return Given(
        FileBlobStore(base, setting="blob_base_path"),
        write,
        "files",
        lambda other: FileBlobStore(other, setting="blob_base_path"),
    )


def _s3(kind: str, client: Any) -> Given:
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    base = BasePath.parse(f"s3://{bucket}/xcom", setting="blob_base_path")
    return Given(
        S3BlobStore(client, base, setting="blob_base_path", page_size=PAGE),
        lambda key, content: client.put_object(Bucket=bucket, Key=key, Body=content),
        kind,
        lambda other: S3BlobStore(client, other, setting="blob_base_path", page_size=PAGE),
    )


def _gcs(server: GcsEmulator) -> Given:
    client, name = server.client(), f"bucket-{uuid.uuid4().hex[:12]}"
    bucket = client.create_bucket(name)
    base = BasePath.parse(f"gs://{name}/xcom", setting="blob_base_path")
    return Given(
        GcsBlobStore(client, base, setting="blob_base_path", page_size=PAGE),
        lambda key, content: bucket.blob(key).upload_from_string(content),
        "gcs",
        lambda other: GcsBlobStore(client, other, setting="blob_base_path", page_size=PAGE),
    )


def _azure(server: Azurite) -> Given:
    client, name = server.client(), f"container-{uuid.uuid4().hex[:12]}"
    container = client.create_container(name)
    base = BasePath.parse(f"abfs://{name}/xcom", setting="blob_base_path")
    return Given(
        AzureBlobStore(client, base, setting="blob_base_path", page_size=PAGE),
        lambda key, content: container.upload_blob(key, content, overwrite=True),
        "azurite",
        lambda other: AzureBlobStore(client, other, setting="blob_base_path", page_size=PAGE),
    )


@pytest.fixture(params=["rclone", "moto", "gcs", "azurite", "files"])
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Given:
    if request.param == "files":
        return _files(tmp_path)
    if request.param == "gcs":
        return _gcs(request.getfixturevalue("gcs"))
    if request.param == "azurite":
        return _azure(request.getfixturevalue("azurite"))
    return _s3(request.param, request.getfixturevalue(request.param).client())


def test_the_listing_is_sorted_by_bytes_and_holds_nothing_from_outside(given: Given) -> None:
    for key in given.odd_keys:
        given.write(f"xcom/{key}", key.encode())
    given.write("xcom-of-others/a/r/t/1", b"1")
    given.write("xcomx", b"1")
    blobs = list(given.store.list())
    assert [blob.key for blob in blobs] == sorted(given.odd_keys, key=str.encode)
    now = datetime.now(UTC)
    for blob in blobs:
        assert blob.version
        assert blob.size == len(blob.key.encode())
        assert blob.last_modified is not None
        assert abs(blob.last_modified - now) < timedelta(minutes=1)


def test_no_odd_key_is_mistaken_for_another(given: Given) -> None:
    """Looked up, read, copied and deleted, each by itself."""
    for key in given.odd_keys:
        given.write(f"xcom/{key}", key.encode())
    blobs = {blob.key: blob for blob in given.store.list()}
    assert {blob.key for blob in given.store.head(given.odd_keys)} == set(given.odd_keys)
    kept = dict(list(blobs.items())[::2])
    for key in given.odd_keys:
        assert given.store.get(key) == key.encode()
    aside = given.sibling("asid")  # not longer than the base path: keys end at 1,024 bytes
    for key, blob in blobs.items():
        if key not in kept:
            assert given.store.copy_to(blob, target=aside, key=key), key
    doomed = [blob for key, blob in blobs.items() if key not in kept]
    assert {(d.blob.key, d.result) for d in given.store.delete_unchanged(doomed)} == {
        (blob.key, DeleteResult.DELETED) for blob in doomed
    }
    assert given.listing() == list(kept)


def test_on_azure_a_name_with_dots_never_deletes_what_it_resolves_to(azurite: Azurite) -> None:
    given = _azure(azurite)
    given.write("xcom/d", b"precious")
    [precious] = given.store.list()
    dotted = precious._replace(key="c/../d")
    assert list(given.store.head(["c/../d"])) == []
    assert not given.store.copy_to(dotted, target=given.sibling("aside"), key="1")
    [deletion] = given.store.delete_unchanged([dotted])
    assert deletion.result is DeleteResult.FAILED
    assert given.listing() == ["d"]


def test_a_store_that_ignores_generations_is_found_out_and_checked_just_before(gcs: GcsEmulator) -> None:
    client, name = gcs.client(gcs.bare), f"bucket-{uuid.uuid4().hex[:12]}"
    bucket = client.create_bucket(name)
    store = GcsBlobStore(client, BasePath.parse(f"gs://{name}/xcom", setting="x"), setting="blob_base_path")
    for key in ("1", "2"):
        bucket.blob(f"xcom/d/r/t/{key}").upload_from_string(b"old")
    seen = list(store.list())
    bucket.blob("xcom/d/r/t/1").upload_from_string(b"new")
    results = {deletion.blob.key: deletion.result for deletion in store.delete_unchanged(seen)}
    assert not store.honours_conditions()
    assert results == {"d/r/t/1": DeleteResult.CHANGED, "d/r/t/2": DeleteResult.DELETED}
    assert store.get("d/r/t/1") == b"new"


def test_a_listing_of_more_than_a_page_is_whole(given: Given) -> None:
    for key in PAGED:
        given.write(f"xcom/{key}", b"x")
    assert given.listing() == PAGED


def test_a_range_holds_all_keys_from_its_beginning_to_before_its_end_and_no_other(given: Given) -> None:
    keys = sorted([*PAGED[:23], "a/b", "a-b/c", "a.b/c", "a/b/c", "d!/1", "d/r/t/0005x", "ü/1", "z"], key=str.encode)
    if given.kind in {"rclone", "files"}:
        keys.remove("a/b")  # where a folder is
    for key in keys:
        given.write(f"xcom/{key}", b"x")
    bounds = [None, "", "a", "a/", "a/b", "d/", "d/r/t/0005", "d/r/t/0005x", "d0", "ü", "ü/1", "zz", "\U0010ffff"]
    for after in bounds:
        for before in bounds:
            expected = [
                key
                for key in keys
                if (after is None or key.encode() >= after.encode())
                and (before is None or key.encode() < before.encode())
            ]
            found = [blob.key for blob in given.store.list(after=after, before=before)]
            assert found == expected, (after, before)


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


@pytest.mark.parametrize("from_listing", [True, False])
@pytest.mark.parametrize("many", [True, False])
def test_two_times_of_one_object_are_not_taken_for_a_change(rclone: RcloneS3, from_listing: bool, many: bool) -> None:
    """rclone lists the time of the file, and says in a head when the writing began; deletes look either way."""
    client = rclone.client()
    given = _s3("rclone", client)
    keys = PAGED if many else PAGED[:1]
    for key in keys:
        client.put_object(
            Bucket=given.store.base.uri.bucket,
            Key=f"xcom/{key}",
            Body=b"x",
            Metadata={"mtime": str(time.time() - 5)},  # of the file
        )
    listed, heads = (sorted(blobs) for blobs in (given.store.list(), given.store.head(keys)))
    for one, other in zip(listed, heads, strict=True):
        assert one.last_modified is not None
        assert other.last_modified is not None
        assert other.last_modified - one.last_modified > timedelta(seconds=3)
    seen = listed if from_listing else heads
    assert given.store.copy_to(seen[0], target=given.sibling("aside"), key="1")
    if many:
        time.sleep(1.1)  # S3 tells times in seconds
        given.write(f"xcom/{keys[5]}", b"x")
    results = {deletion.blob.key: deletion.result for deletion in given.store.delete_unchanged(seen)}
    assert results == dict.fromkeys(keys, DeleteResult.DELETED) | ({keys[5]: DeleteResult.CHANGED} if many else {})
    assert given.listing() == ([keys[5]] if many else [])


def test_a_blob_that_is_gone_is_no_failure(given: Given) -> None:
    given.write("xcom/d/r/t/1", b"x")
    seen = list(given.store.list())
    assert [d.result for d in given.store.delete_unchanged(seen)] == [DeleteResult.DELETED]
    assert [d.result for d in given.store.delete_unchanged(seen)] == [DeleteResult.GONE]


def test_no_blob_is_skipped_when_many_are_deleted_wherever_they_lie(given: Given) -> None:
    """Close together and far apart, in no order, more than a page of them, with others in between."""
    sparse = [f"s/{number:02}/t/{n:02}" for number in range(12) for n in range(PAGE + 2)]
    for key in [*PAGED, *sparse]:
        given.write(f"xcom/{key}", b"x")
    blobs = list(given.store.list())
    doomed = [blob for blob in blobs if blob.key.startswith("d/") or blob.key.endswith("/05")]
    kept = [blob.key for blob in blobs if blob not in doomed]
    doomed = doomed[::2] + doomed[1::2][::-1]
    deletions = list(given.store.delete_unchanged(iter(doomed)))
    assert {deletion.blob.key for deletion in deletions} == {blob.key for blob in doomed}
    assert {deletion.result for deletion in deletions} == {DeleteResult.DELETED}
    assert len(deletions) == len(doomed)
    assert given.listing() == kept


def test_whether_conditions_hold_is_found_out_without_a_trace(given: Given) -> None:
    given.write("xcom/d/r/t/1", b"x")
    # Whether the store keeps what it promises, not whether its name says so.
    assert given.store.honours_conditions() is CONDITIONS[given.kind]
    assert given.listing() == ["d/r/t/1"]


def test_a_copy_is_whole_and_leaves_the_original(given: Given) -> None:
    given.write("xcom/d/r/t/1", b"content" * 1_000)
    [blob] = given.store.list()
    aside = given.sibling("xcom-aside")
    assert given.store.copy_to(blob, target=aside, key="2026/d/r/t/1")
    assert given.store.copy_to(blob, target=aside, key="2026/d/r/t/1")  # tried again
    assert given.store.get("d/r/t/1") == b"content" * 1_000
    assert list(given.store.list()) == [blob]
    other = given.beside(aside)  # the way back
    assert other.get("2026/d/r/t/1") == b"content" * 1_000
    [copied] = other.list()
    assert (copied.key, copied.size) == ("2026/d/r/t/1", blob.size)


def test_nothing_but_the_version_that_was_looked_at_is_copied(given: Given) -> None:
    given.write("xcom/d/r/t/1", b"old")
    given.write("xcom/d/r/t/2", b"old")
    blobs = list(given.store.list())
    time.sleep(1.1)  # S3 tells times in seconds
    given.write("xcom/d/r/t/1", b"new")
    [_] = given.store.delete_unchanged([blobs[1]])
    aside = given.sibling("xcom-aside")
    for blob in blobs:
        assert not given.store.copy_to(blob, target=aside, key=blob.key)
    assert given.store.get("d/r/t/1") == b"new"


def test_no_copy_leaves_the_bucket(given: Given) -> None:
    given.write("xcom/d/r/t/1", b"x")
    [blob] = given.store.list()
    scheme = "file" if given.kind != "files" else "s3"
    elsewhere = BasePath.parse(f"{scheme}://elsewhere/xcom", setting="x")
    with pytest.raises(ValueError, match="elsewhere"):
        given.store.copy_to(blob, target=elsewhere, key="1")


def test_a_small_object_comes_back_as_it_was_put(given: Given) -> None:
    assert given.store.get("marker") is None
    given.store.put("marker", b"mine")
    assert given.store.get("marker") == b"mine"


def test_an_empty_base_path_can_be_listed(given: Given) -> None:
    given.store.check()
    assert list(given.store.list()) == []


# -- places that cannot be used --------------------------------------------------


def test_a_missing_bucket_elsewhere_names_the_setting(gcs: GcsEmulator, azurite: Azurite) -> None:
    stores: list[BlobStore] = [
        GcsBlobStore(gcs.client(), BasePath.parse("gs://no-such-bucket/xcom", setting="x"), setting="blob_base_path"),
        AzureBlobStore(
            azurite.client(), BasePath.parse("abfs://no-such-bucket/x", setting="x"), setting="blob_base_path"
        ),
    ]
    for store in stores:
        for call in (store.check, lambda: list(store.list()), lambda: store.put("x", b"")):  # noqa: B023 - called at once
            with pytest.raises(ConfigurationError, match=r"no-such-bucket.*does not exist.*blob_base_path"):
                call()


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
