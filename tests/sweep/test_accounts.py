"""Whatever was planned and does not happen has a line in the report with its reason: planned is done plus reasons."""

from __future__ import annotations

import json
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from include.xcom_maintenance.blobs.port import DeleteResult
from include.xcom_maintenance.blobs.s3.store import S3BlobStore
from include.xcom_maintenance.core.blob_uri import BasePath
from local_stack.faults import Answer, FaultProxy, Request
from local_stack.s3 import MotoS3
from tests.support.bucket import Bucket
from tests.support.bundle import Bundle, Outcome
from tests.support.history import History

CLEANUP, RECONCILIATION = "xcom_cleanup", "xcom_orphan_reconciliation"
#: As some tools write it, in two code points; composed it is one.
APART = unicodedata.normalize("NFD", "né")


def accounted(outcome: Outcome, planned: str, done: tuple[str, ...], table: str) -> dict[str, int]:
    """The reasons of a report, which with what was done make up what was planned."""
    report = outcome.report
    reasons = {
        reason: number for found in report["tables"] if found["title"] == table for reason, number in found["rows"]
    }
    assert report["headline"][planned] == sum(report["headline"][name] for name in done) + sum(reasons.values())
    return reasons


def of_cleanup(outcome: Outcome) -> dict[str, int]:
    return accounted(outcome, "blobs_to_purge", ("blobs_deleted", "blobs_quarantined"), "Blobs kept")


def of_reconciliation(outcome: Outcome) -> dict[str, int]:
    return accounted(outcome, "orphan_blobs", ("orphans_deleted", "orphans_quarantined"), "Orphans kept")


@pytest.fixture
def proxy(moto: MotoS3) -> Iterator[FaultProxy]:
    found = FaultProxy(moto.endpoint)
    yield found
    found.stop()


def test_no_blob_of_a_cleanup_stays_without_a_reason(bundle: Bundle, bucket: Bucket, history: History) -> None:
    old = history.run("a", 30)
    references = [bucket.blob(old, age_days=30) for _ in range(5)]
    for number, reference in enumerate([*references, references[0]]):  # one is named by two rows
        history.xcom(old, reference, age_days=30, key=str(number))
    live = history.run("a", 1)
    history.xcom(live, {"also": references[1]}, age_days=1)
    bucket.client.delete_object(Bucket=bucket.name, Key=references[2].removeprefix(f"s3://aws_xcom@{bucket.name}/"))
    bucket.set_age({references[3].removeprefix(f"s3://aws_xcom@{bucket.name}/"): -1})
    reasons = of_cleanup(bundle.run(CLEANUP, mode="enforce").succeeded())
    assert len(reasons) == 4
    assert set(reasons.values()) == {1}
    assert reasons["already gone"] == 1


@pytest.mark.parametrize("dag_id", [APART, "résumé of 東京", "한국"])
def test_a_blob_that_the_store_does_not_find_by_its_name_is_never_passed_over_in_silence(
    bundle: Bundle, history: History, moto: MotoS3, proxy: FaultProxy, dag_id: str
) -> None:
    bucket = _behind(proxy, moto, bundle)
    lost = f"/{quote(dag_id)}/"

    def behave(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        is_lost = request.method == "HEAD" and lost.lower() in request.path.lower()
        return Answer(404) if is_lost else ask(request)

    proxy.behave = behave
    for name in ("plain", dag_id):
        run = history.run(name, 30)
        history.xcom(run, bucket.blob(run, age_days=0), age_days=30)
        history.run(name, 1)
    outcome = bundle.run(CLEANUP, mode="enforce").succeeded()
    reasons = of_cleanup(outcome)
    assert [reason for reason in reasons if "spell otherwise" in reason]
    assert any("could not be found under the names" in warning for warning in outcome.report["warnings"])


def test_a_blob_that_is_listed_under_another_spelling_does_not_stay_for_ever(moto: MotoS3, proxy: FaultProxy) -> None:
    def composed(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        answer = ask(request)
        if request.method != "GET" or "list-type" not in request.path:
            return answer
        text = answer.body.decode()
        spelled = unicodedata.normalize("NFC", text.replace(quote(APART), APART))
        return Answer(answer.status, spelled.encode(), answer.headers)

    client, name = moto.client(), f"spelled-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    key = f"{APART}/r/t/{uuid.uuid4()}"
    client.put_object(Bucket=name, Key=f"xcom/{key}", Body=b"x")
    proxy.behave = composed
    store = S3BlobStore(
        moto.client(endpoint=proxy.endpoint), BasePath.parse(f"s3://{name}/xcom", setting="x"), setting="x"
    )
    [blob] = store.head([key])
    [deletion] = store.delete_unchanged([blob])
    assert deletion.result is DeleteResult.DELETED
    assert "Contents" not in client.list_objects_v2(Bucket=name)


def test_no_orphan_stays_without_a_reason(bundle: Bundle, bucket: Bucket, history: History) -> None:
    run = history.run("a", 1)
    history.xcom(run, bucket.blob(run, age_days=1), age_days=1)
    keys = [f"xcom/a/gone/t/{uuid.uuid4()}" for _ in range(5)]
    for key in keys:
        bucket.put(key, b"orphan", age_days=30)
    found = bundle.find(run_id="r", mode="enforce")
    bucket.client.delete_object(Bucket=bucket.name, Key=keys[0])
    bucket.put(keys[1], b"new")
    history.xcom(run, f"s3://{bucket.name}/{keys[2]}", age_days=0, key="late")
    summary: Any = bundle.sweep(found, run_id="r", mode="enforce")
    outcome = Outcome(bundle, RECONCILIATION, "r", summary, None)
    assert sum(of_reconciliation(outcome).values()) == 3
    assert summary["orphans_quarantined"] == 2


def test_no_row_of_a_cleanup_stays_without_a_reason(bundle: Bundle, history: History) -> None:
    old, cleared = history.run("a", 30), history.run("a", 29)
    for number in range(3):
        history.xcom(old, age_days=30, key=str(number))
        history.xcom(cleared, age_days=29, key=str(number))
    history.run("a", 1)
    planned = bundle.task(CLEANUP, "plan", run_id="r", mode="enforce")
    history.connection.execute("UPDATE dag_run SET state = 'queued' WHERE id = %s", (cleared.dag_run_id,))
    outcome = Outcome(bundle, CLEANUP, "r", bundle.apply(planned, run_id="r", mode="enforce"), None)
    assert outcome.report["headline"]["rows_to_delete"] == 6
    reasons = accounted(outcome, "rows_to_delete", ("rows_deleted",), "Rows of the plan that were not deleted")
    assert list(reasons.values()) == [3]


def test_no_blob_of_a_restore_stays_without_a_reason(bundle: Bundle, bucket: Bucket, history: History) -> None:
    run = history.run("a", 1)
    history.xcom(run, bucket.blob(run, age_days=1), age_days=1)
    keys = [f"xcom/a/gone/t/{uuid.uuid4()}" for _ in range(3)]
    for key in keys:
        bucket.put(key, b"orphan", age_days=30)
    bundle.run(RECONCILIATION, mode="enforce").succeeded()
    planned = bundle.task("xcom_restore", "plan", run_id="r", mode="enforce", quarantine="all")
    bucket.put(keys[0], b"new")
    summary = bundle.task("xcom_restore", "apply", planned, run_id="r", mode="enforce", quarantine="all")
    outcome = Outcome(bundle, "xcom_restore", "r", summary, None)
    reasons = accounted(outcome, "blobs_to_restore", ("blobs_restored",), "Blobs not restored")
    assert reasons == {"a blob is there already": 1}


def test_no_dangling_row_stays_without_a_reason(bundle: Bundle, bucket: Bucket, history: History) -> None:
    done, going = history.run("a", 3), history.run("a", 4, state="running")
    live = history.run("a", 1)
    history.xcom(live, bucket.blob(live, age_days=1), age_days=1)
    back = f"a/{done.run_id}/t/{uuid.uuid4()}"
    history.xcom(done, f"{bucket.base}/{back}", age_days=3, key="back")
    for run in (done, going):
        history.xcom(run, f"{bucket.base}/a/{run.run_id}/t/{uuid.uuid4()}", age_days=3)
    conf = {"mode": "enforce", "delete_dangling_rows": True}
    found = bundle.find(run_id="r", **conf)
    bucket.put(f"xcom/{back}")
    outcome = Outcome(bundle, RECONCILIATION, "r", bundle.sweep(found, run_id="r", **conf), None)
    reasons = accounted(outcome, "dangling_references", ("dangling_rows_deleted",), "Rows of dangling references kept")
    assert sorted(reasons.values()) == [1, 1]


def _behind(proxy: FaultProxy, server: MotoS3, bundle: Bundle) -> Bucket:
    bucket = object.__new__(Bucket)
    bucket.server, bucket.name = server, f"accounts-{uuid.uuid4().hex[:8]}"  # type: ignore[assignment]
    bucket.client = server.client()
    bucket.client.create_bucket(Bucket=bucket.name)
    connection = json.loads(server.airflow_connection_json())
    connection["extra"]["endpoint_url"] = proxy.endpoint
    bundle.connections["aws_xcom"] = connection
    bundle.common_io["xcom_objectstorage_path"] = bucket.base
    return bucket
