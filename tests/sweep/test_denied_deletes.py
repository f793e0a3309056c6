"""Where a store denies deleting, nothing adds up: neither copies in the quarantine nor canaries."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.blobs.port import DeleteResult, Deletion
from include.xcom_maintenance.blobs.s3.store import S3BlobStore
from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.core.blob_uri import BasePath
from local_stack.faults import Answer, FaultProxy, Request, faithful, s3_error
from local_stack.s3 import MotoS3
from tests.support.bundle import Bundle
from tests.support.history import History, days_ago
from tests.sweep.test_quarantine import Folder, folder

__all__ = ["folder"]
DAG = "xcom_orphan_reconciliation"


@pytest.fixture
def proxy(moto: MotoS3) -> Iterator[FaultProxy]:
    found = FaultProxy(moto.endpoint)
    yield found
    found.stop()


class Denies:
    """As a bucket policy that allows no delete of what has a text in its name."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, request: Request, ask: Callable[[Request], Answer]) -> Answer:
        deletes = request.method == "DELETE" or (request.method == "POST" and "delete" in request.path)
        named = self.text in request.path or self.text.encode() in request.body
        return s3_error(403, "AccessDenied") if deletes and named else ask(request)


@pytest.mark.parametrize("denied", ["gone", ""])
@pytest.mark.parametrize("disposal", ["quarantine", "delete"])
def test_copies_never_add_up_where_neither_original_nor_copy_can_be_deleted(
    bundle: Bundle,
    history: History,
    moto: MotoS3,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    denied: str,
    disposal: str,
) -> None:
    monkeypatch.setattr(Settings, "grace_period", property(lambda _: timedelta(seconds=-10)))
    client, name = moto.client(), f"denied-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    connection = json.loads(moto.airflow_connection_json())
    connection["extra"]["endpoint_url"] = proxy.endpoint
    bundle.connections["aws_xcom"] = connection
    bundle.common_io["xcom_objectstorage_path"] = f"s3://aws_xcom@{name}/xcom"

    def put(run_id: str) -> str:
        key = f"xcom/a/{run_id}/t/{uuid.uuid4()}"
        client.put_object(Bucket=name, Key=key, Body=b"x")
        return key

    def keys() -> set[str]:
        return {item["Key"] for item in client.list_objects_v2(Bucket=name).get("Contents", [])}

    run = history.run("a", 1)
    history.xcom(run, f"s3://{name}/{put(run.run_id)}", age_days=1)
    orphans = {put("gone") for _ in range(7)}
    proxy.behave = Denies(denied)
    seen, versions = [], []
    for _ in range(3):
        assert bundle.run(DAG, mode="enforce", disposal=disposal).error is not None
        seen.append(keys())
        versions.append(len(client.list_object_versions(Bucket=name)["Versions"]))
    assert seen[0] == seen[1] == seen[2]
    assert versions[0] == versions[1] == versions[2]
    assert orphans < seen[0]
    assert len([key for key in seen[0] if key.startswith("xcom-quarantine/")]) in {0, 7}
    proxy.behave = faithful
    bundle.run(DAG, mode="enforce").succeeded()
    left = keys()
    assert not orphans & left
    copies = {key.split("/", 2)[2] for key in left if key.startswith("xcom-quarantine/")}
    assert copies == {key.removeprefix("xcom/") for key in orphans}
    assert len([key for key in left if key.startswith("xcom-quarantine/")]) == 7


def test_a_copy_that_an_earlier_run_left_is_used_and_keeps_its_time(
    bundle: Bundle, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphans = {folder.orphan() for _ in range(7)}
    delete = FileBlobStore._delete
    monkeypatch.setattr(FileBlobStore, "_delete", lambda _, blob: Deletion(blob, DeleteResult.FAILED, "denied"))
    for _ in range(3):
        assert "Could not dispose of 7 blobs" in str(bundle.run(DAG, mode="enforce").error)
        assert len([path for path in folder.quarantine.rglob("*") if path.is_file()]) == 7
    folder.grow_old(29)
    monkeypatch.setattr(FileBlobStore, "_delete", delete)
    bundle.run(DAG, mode="enforce").succeeded()
    assert set(folder.in_quarantine()) == orphans
    files = [path for path in folder.quarantine.rglob("*") if path.is_file()]
    [place] = {path.relative_to(folder.quarantine).parts[0] for path in files}
    assert not place.startswith(f"{days_ago(29):%Y%m%d}")
    assert len(files) == 7
    assert not orphans & folder.blobs()


def test_a_copy_of_what_was_written_again_is_never_taken_for_one_of_it(bundle: Bundle, folder: Folder) -> None:
    key = folder.put(f"a/gone/t/{uuid.uuid4()}", age_days=30, content="old")
    earlier = folder.quarantine / "20260101T000000Z-abcdef01" / key
    earlier.parent.mkdir(parents=True)
    earlier.write_text("OLD")  # of the same size, from before the blob was last written
    folder.set_age(earlier, 40)
    bundle.run(DAG, mode="enforce", quarantine_days=365).succeeded()
    texts = {path.read_text() for path in folder.quarantine.rglob("*") if path.is_file()}
    assert texts == {"old", "OLD"}


# -- canaries --------------------------------------------------


def test_a_probe_leaves_no_version_and_no_delete_marker_in_a_versioned_bucket(moto: MotoS3) -> None:
    client, name = moto.client(), f"versioned-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=name, Key="xcom/a/r/t/1", Body=b"x")
    store = S3BlobStore(moto.client(), BasePath.parse(f"s3://{name}/xcom", setting="x"), setting="x")
    store.honours_conditions()
    found: Any = client.list_object_versions(Bucket=name)
    assert [version["Key"] for version in found["Versions"]] == ["xcom/a/r/t/1"]
    assert "DeleteMarkers" not in found


@pytest.mark.parametrize("what", ["versionId", "versions"])
def test_a_missing_right_to_versions_fails_no_probe(moto: MotoS3, proxy: FaultProxy, what: str) -> None:
    client, name = moto.client(), f"versioned-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def behave(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        return s3_error(403, "AccessDenied") if f"{what}" in request.path.partition("?")[2] else ask(request)

    proxy.behave = behave
    store = S3BlobStore(
        moto.client(endpoint=proxy.endpoint), BasePath.parse(f"s3://{name}/xcom", setting="x"), setting="x"
    )
    assert isinstance(store.honours_conditions(), bool)
    assert "Contents" not in client.list_objects_v2(Bucket=name)
