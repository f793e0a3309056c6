"""Multipart uploads that nobody has finished cost money: they are never invisible, and never stop a run."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from include.xcom_maintenance.blobs.s3 import uploads as module
from include.xcom_maintenance.blobs.s3.store import S3BlobStore
from include.xcom_maintenance.core.blob_uri import BasePath
from local_stack.faults import Answer, FaultProxy, Request, s3_error
from local_stack.s3 import MotoS3
from tests.support.bundle import Bundle
from tests.support.history import History

DAGS = ["xcom_size_audit", "xcom_orphan_reconciliation"]


class Place:
    def __init__(self, server: MotoS3) -> None:
        self.client, self.name = server.client(), f"uploads-{uuid.uuid4().hex[:8]}"
        self.client.create_bucket(Bucket=self.name)

    def begin(self, key: str, *sizes: int) -> None:
        upload = self.client.create_multipart_upload(Bucket=self.name, Key=key)["UploadId"]
        for number, size in enumerate(sizes, 1):
            self.client.upload_part(Bucket=self.name, Key=key, UploadId=upload, PartNumber=number, Body=b"x" * size)

    def store(self, client: Any) -> S3BlobStore:
        return S3BlobStore(client, BasePath.parse(f"s3://{self.name}/xcom", setting="x"), setting="x")


@pytest.fixture
def place(moto: MotoS3) -> Place:
    return Place(moto)


@pytest.fixture
def proxy(moto: MotoS3) -> Iterator[FaultProxy]:
    found = FaultProxy(moto.endpoint)
    yield found
    found.stop()


def test_no_unfinished_upload_below_the_base_path_is_passed_over_and_none_beside_it_counts(
    moto: MotoS3, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.begin("xcom/a/r/t/1", 1_000, 24)
    place.begin("xcom/a/r/t/2")
    place.begin("xcom-of-others/a/r/t/3", 5_000)
    found = place.store(moto.client()).unfinished_uploads()
    assert (found.number, found.bytes, found.more, found.more_bytes) == (2, 1_024, False, False)
    assert found.oldest is not None
    monkeypatch.setattr(module, "_MEASURED", 1)
    found = place.store(moto.client()).unfinished_uploads()
    assert (found.number, found.more_bytes) == (2, True)


@pytest.mark.parametrize("dag_id", DAGS)
def test_unfinished_uploads_are_never_invisible(
    bundle: Bundle, history: History, moto: MotoS3, place: Place, dag_id: str
) -> None:
    _use(bundle, history, place, json.loads(moto.airflow_connection_json()))
    assert bundle.run(dag_id).succeeded().report["headline"]["unfinished_uploads"] == 0
    place.begin("xcom/a/r/t/1", 2_048)
    place.begin("xcom-quarantine/20260101T000000Z-abcdef01/a/r/t/1", 1_024)
    outcome = bundle.run(dag_id).succeeded()
    headline = outcome.report["headline"]
    assert (headline["unfinished_uploads"], headline["unfinished_upload_bytes"]) == (2, 3_072)
    assert [row["uploads"] for row in outcome.table("Unfinished multipart uploads")] == [1, 1]
    [warning] = [text for text in outcome.report["warnings"] if "multipart" in text]
    assert "2 unfinished multipart uploads of 3.0 KB" in warning
    for words in ("AbortIncompleteMultipartUpload", "aws s3api abort-multipart-upload", place.name):
        assert words in warning


@pytest.mark.parametrize("answer", [s3_error(403, "AccessDenied"), s3_error(501, "NotImplemented")])
@pytest.mark.parametrize("dag_id", DAGS)
def test_a_missing_right_to_see_uploads_never_fails_a_run(
    bundle: Bundle, history: History, moto: MotoS3, place: Place, proxy: FaultProxy, dag_id: str, answer: Answer
) -> None:
    def behave(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        return answer if request.method == "GET" and "uploads" in request.path.partition("?")[2] else ask(request)

    proxy.behave = behave
    connection = json.loads(moto.airflow_connection_json())
    connection["extra"]["endpoint_url"] = proxy.endpoint
    _use(bundle, history, place, connection)
    place.begin("xcom/a/r/t/1", 2_048)
    outcome = bundle.run(dag_id).succeeded()
    assert outcome.report["headline"]["unfinished_uploads"] is None
    [table] = [table for table in outcome.report["tables"] if table["title"] == "Unfinished multipart uploads"]
    assert "s3:ListBucketMultipartUploads" in table["note"]


def _use(bundle: Bundle, history: History, place: Place, connection: Any) -> None:
    bundle.connections["aws_xcom"] = connection
    bundle.common_io["xcom_objectstorage_path"] = f"s3://aws_xcom@{place.name}/xcom"
    run = history.run("a", 1)
    key = f"xcom/a/{run.run_id}/t/{uuid.uuid4()}"
    place.client.put_object(Bucket=place.name, Key=key, Body=b"x")
    history.xcom(run, f"s3://{place.name}/{key}", age_days=1)
