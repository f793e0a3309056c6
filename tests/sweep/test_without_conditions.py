"""Stores that delete whatever is there, also what was written again just before: nothing is deleted for good."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.blobs.port import DeleteResult
from include.xcom_maintenance.core.blob_uri import BasePath
from local_stack.faults import Answer, FaultProxy, Request, s3_error
from local_stack.s3 import MotoS3
from tests.support.bucket import Bucket
from tests.support.bundle import Bundle
from tests.support.history import History

RECONCILIATION, CLEANUP, RESTORE = "xcom_orphan_reconciliation", "xcom_cleanup", "xcom_restore"


def quarantined(bucket: Bucket) -> set[str]:
    """The keys that blobs in quarantine had."""
    prefix = "xcom-quarantine/"
    return {key.removeprefix(prefix).partition("/")[2] for key in bucket.listing() if key.startswith(prefix)}


@pytest.fixture
def live(bucket: Bucket, history: History) -> str:
    run = history.run("a", 1)
    reference = bucket.blob(run, age_days=1)
    history.xcom(run, reference, age_days=1)
    return reference


def orphan(bucket: Bucket) -> str:
    key = f"a/gone/t/{uuid.uuid4()}"
    bucket.put(f"xcom/{key}", b"orphan", age_days=30)
    return key


def test_an_orphan_is_not_deleted_for_good_unless_a_setting_insists(
    bundle: Bundle, bucket: Bucket, history: History, live: str
) -> None:
    first = orphan(bucket)
    outcome = bundle.run(RECONCILIATION, mode="enforce", disposal="delete").succeeded()
    assert quarantined(bucket) == {first}
    headline = outcome.report["headline"]
    assert (headline["orphans_quarantined"], headline["orphans_deleted"]) == (1, 0)
    assert "delete_without_conditions" in " ".join(outcome.report["warnings"])
    second = orphan(bucket)
    bundle.variable = {"delete_without_conditions": True}
    outcome = bundle.run(RECONCILIATION, mode="enforce", disposal="delete").succeeded()
    assert quarantined(bucket) == {first}
    assert f"xcom/{second}" not in bucket.listing()
    assert outcome.report["headline"]["orphans_deleted"] == 1
    assert outcome.report["warnings"] == []
    assert bucket.has(live)


def test_the_blobs_of_a_cleanup_are_not_deleted_for_good_unless_a_setting_insists(
    bundle: Bundle, bucket: Bucket, history: History, live: str
) -> None:
    def old(age_days: int) -> str:
        run = history.run("a", age_days)
        reference = bucket.blob(run, age_days=age_days)
        history.xcom(run, reference, age_days=age_days)
        return reference.removeprefix(f"{bucket.base}/")

    first = old(30)
    outcome = bundle.run(CLEANUP, run_id="the run", mode="enforce").succeeded()
    assert quarantined(bucket) == {first}
    headline = outcome.report["headline"]
    assert (headline["rows_deleted"], headline["blobs_quarantined"], headline["blobs_deleted"]) == (1, 1, 0)
    assert "delete_without_conditions" in " ".join(outcome.report["warnings"])
    bundle.run(RESTORE, mode="enforce", quarantine="the run").succeeded()
    assert bucket.has(f"{bucket.base}/{first}")
    second = old(31)
    bundle.variable = {"delete_without_conditions": True}
    outcome = bundle.run(CLEANUP, mode="enforce").succeeded()
    assert outcome.report["headline"]["blobs_deleted"] == 1
    assert not bucket.has(f"{bucket.base}/{second}")
    assert quarantined(bucket) == set()


def test_no_archived_row_whose_blob_is_in_quarantine_is_called_lost_without_saying_where_that_may_be(
    bundle: Bundle, bucket: Bucket, history: History, live: str, tmp_path: Path
) -> None:
    bundle.variable = {"archive_path": f"file://{tmp_path}/archive"}
    run = history.run("a", 30)
    reference = bucket.blob(run, age_days=30)
    history.xcom(run, reference, age_days=30, key="archived")
    bundle.run(CLEANUP, run_id="the run", mode="enforce").succeeded()
    archive = {"mode": "enforce", "archive": f"{CLEANUP}/the run"}
    outcome = bundle.run(RESTORE, **archive).succeeded()
    assert outcome.report["headline"]["rows_whose_blob_is_gone"] == 1
    assert any("quarantine" in warning for warning in outcome.report["warnings"])
    bundle.run(RESTORE, mode="enforce", quarantine="the run").succeeded()
    assert bundle.run(RESTORE, **archive).succeeded().report["headline"]["rows_restored"] == 1
    assert bucket.has(reference)


# -- a proxy that does not know conditions --------------------------------------------------


class Proxied(Bucket):
    """A bucket in a server that takes conditions, behind a proxy."""

    def __init__(self, server: MotoS3, proxy: FaultProxy, bundle: Bundle) -> None:
        self.server = server  # type: ignore[assignment]
        self.name = f"proxied-{uuid.uuid4().hex[:8]}"
        self.client = server.client()
        self.client.create_bucket(Bucket=self.name)
        connection = json.loads(server.airflow_connection_json())
        connection["extra"]["endpoint_url"] = proxy.endpoint
        bundle.connections["aws_xcom"] = connection
        bundle.common_io["xcom_objectstorage_path"] = self.base

    def put(self, key: str, content: bytes = b"[1]", *, age_days: float = 0) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)


def _has_condition(request: Request) -> bool:
    names = {name.lower() for name in request.headers}
    return (request.method == "DELETE" and "if-match" in names) or (
        request.method == "POST" and "delete" in request.path and b"<ETag>" in request.body
    )


@pytest.fixture
def proxy(moto: MotoS3) -> Iterator[FaultProxy]:
    found = FaultProxy(moto.endpoint)
    yield found
    found.stop()


@pytest.mark.parametrize("answer", [501, 400])
@pytest.mark.usefixtures("_no_grace")
def test_a_store_that_refuses_conditions_is_not_deleted_from(
    bundle: Bundle, history: History, moto: MotoS3, proxy: FaultProxy, answer: int
) -> None:
    def behave(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        return s3_error(answer, "NotImplemented") if _has_condition(request) else ask(request)

    proxy.behave = behave
    bucket = Proxied(moto, proxy, bundle)
    run = history.run("a", 1)
    history.xcom(run, bucket.blob(run, age_days=0), age_days=1)
    gone = orphan(bucket)
    bundle.run(RECONCILIATION, mode="enforce", disposal="delete").succeeded()
    assert quarantined(bucket) == {gone}


@pytest.fixture
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written in the server just now counts as old."""
    from datetime import timedelta

    from include.xcom_maintenance.bundle.settings import Settings

    monkeypatch.setattr(Settings, "grace_period", property(lambda _: timedelta(seconds=-10)))


# -- folders --------------------------------------------------


@pytest.mark.parametrize("how", ["in place", "by a new file"])
def test_a_file_that_is_written_again_just_before_it_is_deleted_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    store, path = _one_file(tmp_path)
    [seen] = store.list()
    inside = FileBlobStore._is_inside

    def write_again(self: FileBlobStore, asked: Path) -> bool:
        found = inside(self, asked)
        if how == "in place":
            path.write_text("new, and needed")
        else:
            fresh = path.with_name("fresh")
            fresh.write_text("new, and needed")
            fresh.replace(path)
        return found

    monkeypatch.setattr(FileBlobStore, "_is_inside", write_again)
    [deletion] = store.delete_unchanged([seen])
    assert deletion.result is DeleteResult.CHANGED
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [(path.name, "new, and needed")]


def test_a_file_that_is_written_anew_while_the_old_one_is_deleted_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = _one_file(tmp_path)
    [seen] = store.list()
    rename = Path.rename

    def write_again(self: Path, target: Any) -> Path:
        renamed = rename(self, target)
        path.write_text("new, and needed")
        return renamed

    monkeypatch.setattr(Path, "rename", write_again)
    [deletion] = store.delete_unchanged([seen])
    assert deletion.result is DeleteResult.DELETED  # the one that was looked at
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [(path.name, "new, and needed")]


def _one_file(tmp_path: Path) -> tuple[FileBlobStore, Path]:
    path = tmp_path / "xcom/a/r/t/1"
    path.parent.mkdir(parents=True)
    path.write_text("old")
    base = BasePath.parse(f"file://{tmp_path}/xcom", setting="blob_base_path")
    return FileBlobStore(base, setting="blob_base_path"), path
