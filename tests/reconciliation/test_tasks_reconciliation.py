"""``xcom_orphan_reconciliation``: what is an orphan, what is not, and what is never touched."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import quote

import pytest
from xcom_blob_backend import XComBlobBackend

from include.xcom_maintenance.reports.report import Approval
from tests.support.bucket import Bucket
from tests.support.bundle import Bundle
from tests.support.history import History, SeededRun

DAG = "xcom_orphan_reconciliation"
MARKER = "xcom/.xcom-maintenance-owner.json"


def orphan_of(bucket: Bucket, dag_id: str, *, age_days: float = 30) -> str:
    key = f"xcom/{dag_id}/run/t/{uuid.uuid4()}"
    bucket.put(key, b"orphan", age_days=age_days)
    return key


@pytest.fixture
def referenced(bucket: Bucket, history: History) -> str:
    """A blob that a row refers to, so that the guard sees a base path in use."""
    run = history.run("a", 30)
    reference = bucket.blob(run, age_days=30)
    history.xcom(run, reference, age_days=30)
    return reference


def test_report_mode_changes_nothing(bundle: Bundle, bucket: Bucket, history: History, referenced: str) -> None:
    orphan = orphan_of(bucket, "a")
    rows, keys = history.rows(), bucket.listing()
    outcome = bundle.run(DAG).succeeded()
    assert (history.rows(), bucket.listing()) == (rows, keys)
    assert outcome.report["headline"]["orphan_blobs"] == 1
    assert [row["key"] for row in outcome.table("Orphan blobs")] == [orphan.removeprefix("xcom/")]


def test_enforce_mode_deletes_exactly_the_orphans_that_the_report_listed(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    history.dag("b")
    orphans = {orphan_of(bucket, dag_id) for dag_id in ("a", "a", "b")}
    listed = bundle.run(DAG).succeeded()
    before = bucket.listing()
    bundle.variable = {"delete_without_conditions": True}
    enforced = bundle.run(DAG, mode="enforce", disposal="delete").succeeded()
    assert before - bucket.listing() == orphans
    assert {f"xcom/{line['key']}" for line in listed.manifest("orphan")} == orphans
    assert enforced.report["headline"]["orphans_deleted"] == 3
    assert enforced.report["headline"]["orphan_bytes_deleted"] == 3 * len(b"orphan")
    assert bucket.has(referenced)
    assert bundle.run(DAG, mode="enforce").succeeded().report["headline"]["orphan_blobs"] == 0


def test_blobs_that_rows_refer_to_in_any_spelling_are_no_orphans(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    run = history.run("a", 30)
    plain, nested, mentioned, archived, s3a = (bucket.blob(run, age_days=30) for _ in range(5))
    history.xcom(run, plain.replace("aws_xcom@", ""), age_days=30, key="without connection id")
    history.xcom(run, {"list": [nested]}, age_days=30, key="nested")
    history.xcom(run, f"written to {mentioned}, done", age_days=30, key="mentioned")
    history.xcom(run, s3a.replace("s3://", "s3a://"), age_days=30, key="another scheme")
    history.xcom(run, archived, age_days=30, key="archived")
    history.connection.execute("CREATE TABLE _airflow_deleted__xcom__1 AS SELECT * FROM xcom WHERE key = 'archived'")
    history.grant_role()
    history.connection.execute("DELETE FROM xcom WHERE key = 'archived'")
    keys = bucket.listing()
    bundle.run(DAG, mode="enforce").succeeded()
    assert bucket.listing() - {MARKER} == keys


def test_blobs_younger_than_the_grace_period_are_no_orphans(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    young = orphan_of(bucket, "a", age_days=3)
    assert bundle.run(DAG, mode="enforce").succeeded().report["headline"]["too_young_to_tell"] == 1
    assert young in bucket.listing()
    bundle.run(DAG, mode="enforce", grace_period_days=2).succeeded()
    assert young not in bucket.listing()


def test_objects_of_no_known_layout_and_of_others_are_left_alone(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    blob = "11111111-2222-4333-8444-555555555555"
    left = [
        "xcom/readme.txt",
        "xcom/a/run/t/result.json",
        f"xcom/{blob}",
        f"xcom/a/run/t/deeper/{blob}",
        "xcom/a/run/t/11111111-2222-1333-8444-555555555555",
        f"xcom/stranger/run/t/{blob}",
        f"xcom/state/a/run/{blob}",
        f"xcom-of-others/a/run/t/{blob}",
        f"elsewhere/a/run/t/{blob}",
    ]
    for key in left:
        bucket.put(key)
    bucket.set_age(dict.fromkeys(left, 30))
    bundle.common_io["state_store_objectstorage_path"] = f"{bucket.base}/state"
    history.dag("state")
    headline = bundle.run(DAG, mode="enforce").succeeded().report["headline"]
    assert set(left) <= bucket.listing()
    assert (headline["orphan_blobs"], headline["foreign_blobs"], headline["unrecognised_objects"]) == (0, 1, 6)


def test_blobs_of_a_deleted_dag_are_orphans_if_the_log_remembers_it(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    history.connection.execute("INSERT INTO log (dttm, dag_id, event) VALUES (now(), 'deleted', 'delete_dag')")
    orphan = orphan_of(bucket, "deleted")
    bundle.run(DAG, mode="enforce").succeeded()
    assert orphan not in bucket.listing()


def test_dangling_references_are_reported_and_their_rows_kept(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    run = history.run("a", 3)
    gone = bucket.blob(run, age_days=3)
    history.xcom(run, gone, age_days=3)
    history.xcom(run, f"it was at {gone}", age_days=3, key="a mention breaks no task")
    bucket.client.delete_object(Bucket=bucket.name, Key=gone.removeprefix(f"s3://aws_xcom@{bucket.name}/"))
    outcome = bundle.run(DAG, mode="enforce").succeeded()
    assert outcome.report["headline"]["dangling_references"] == 1
    [row] = outcome.table("Dangling references")
    assert (row["DAG"], row["run"], row["task"], row["age (days)"]) == ("a", run.run_id, "t", 3.0)
    assert len(history.rows()) == 3


def test_on_request_rows_whose_blob_is_gone_are_deleted_but_none_of_an_unfinished_run(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    done, going = history.run("a", 3), history.run("a", 4, state="running")
    references = {}
    for run in (done, going):
        references[run] = bucket.blob(run, age_days=3)
        history.xcom(run, references[run], age_days=3)
    history.xcom(done, f"it was at {references[done]}", age_days=3, key="a mention breaks no task")
    history.xcom(done, bucket.blob(done, age_days=3), age_days=3, key="there")
    back = bucket.blob(done, age_days=3)
    history.xcom(done, back, age_days=3, key="put back")
    for reference in (*references.values(), back):
        key = reference.removeprefix(f"s3://aws_xcom@{bucket.name}/")
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    rows = history.rows()
    found = bundle.find(run_id="r", mode="enforce", delete_dangling_rows=True)
    assert found["dangling_references"] == 3
    bucket.put(back.removeprefix(f"s3://aws_xcom@{bucket.name}/"))
    assert bundle.sweep(found, run_id="r", mode="enforce", delete_dangling_rows=True)["dangling_rows_deleted"] == 1
    assert rows - history.rows() == {("a", done.run_id, "t", -1, "return_value")}


@pytest.mark.parametrize("mode", ["report", "enforce"])
def test_a_path_that_no_backend_wrote_never_dangles_and_its_row_is_never_deleted(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str, mode: str
) -> None:
    run, other = history.run("a", 3), history.run("b", 3)
    base = bucket.base
    place = f"{run.dag_id}/{run.run_id}/t"
    texts = [
        f"{base}/exports/2026/report.csv",
        f"{base}/{uuid.uuid4()}",
        f"{base}/{place}/result.json",
        f"{base}/{place}/{uuid.uuid4()}.csv",
        f"{base}/{place}/{uuid.uuid4()}.tmp",
        f"{base}/{place}/{uuid.uuid4()}.xcb",  # our own backend writes an object around it
        f"{base}/{place}/deeper/{uuid.uuid4()}",
        f"{base}/{run.dag_id}/{run.run_id}/another_task/{uuid.uuid4()}",
        f"{base}/{run.dag_id}/another run/t/{uuid.uuid4()}",
        f"{base}/another_dag/{run.run_id}/t/{uuid.uuid4()}.gz",
        f"{base}/another_dag/{run.run_id}/t/ti-{uuid.uuid4()}/return_value.json",
        bucket.base + "/" + bucket.blob(other, age_days=3).split("/xcom/")[1].replace("b/", "c/", 1),
        f"{base}/data_{uuid.uuid4()}.csv",
    ]
    for number, text in enumerate(texts):
        history.xcom(run, text, age_days=3, key=f"text {number}")
        history.xcom(run, {"bucket": bucket.name, "key": text.split("/", 3)[3]}, age_days=3, key=f"object {number}")
    rows = history.rows()
    written = {
        "plain": f"{base}/{place}/{uuid.uuid4()}",
        "compressed": f"{base}/{place}/{uuid.uuid4()}.gz",
        "by instance": f"{base}/{place}/ti-{uuid.uuid4()}/k.json",
        "own": own_reference(f"{base}/{place}/{uuid.uuid4()}.xcb"),
    }
    for key, value in written.items():
        history.xcom(run, value, age_days=3, key=key)
    outcome = bundle.run(DAG, mode=mode, delete_dangling_rows=True).succeeded()
    assert {row["key"] for row in outcome.table("Dangling references")} == set(written)
    assert outcome.report["headline"]["dangling_references"] == len(written)
    if mode == "enforce":  # a pull of our own backend's row fails already, so that one stays
        assert {row[-1] for row in history.rows() - rows} == {"own"}
        assert rows <= history.rows()


def own_reference(uri: str) -> object:
    """As our own backend writes it into the row."""
    return {
        "__classname__": "xcom_blob_backend.BlobReference",
        "__version__": 1,
        "__data__": {"uri": uri, "bytes": 1, "stored_bytes": 1},
    }


class BuiltOnOurs(XComBlobBackend):
    """As somebody may write it, such as for metrics of their own."""


BACKENDS = {
    "ours": "xcom_blob_backend.XComBlobBackend",
    "built on ours": f"{__name__}.BuiltOnOurs",
    "broken": "no_such_module.Backend",
}


@pytest.mark.parametrize("active", ["stock", *BACKENDS])
def test_no_dangling_row_goes_where_a_pull_fails_already(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str, active: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own backend's rows whichever backend is active, and with it active any that it reads."""
    run = history.run("a", 3)
    stock = f"{bucket.base}/a/{run.run_id}/t/{uuid.uuid4()}"
    own = {"uri": f"{bucket.base}/a/{quote(run.run_id, safe='')}/t/{uuid.uuid4()}.xcb"}
    history.xcom(run, stock, age_days=3, key="stock")
    row = {"__classname__": "xcom_blob_backend.BlobReference", "__version__": 1, "__data__": own}
    history.xcom(run, row, age_days=3, key="own")
    bundle.variable = {"blob_base_path": bucket.base}
    fails = active in {"ours", "built on ours"}
    if active in BACKENDS:
        monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", BACKENDS[active])
    rows = history.rows()
    outcome = bundle.run(DAG, mode="enforce", delete_dangling_rows=True).succeeded()
    left = {"stock", "own"} if fails else {"own"}
    assert {key for *_, key in rows - history.rows()} == {"stock", "own"} - left
    headline = outcome.report["headline"]
    assert (headline["dangling_rows_deleted"], headline["dangling_rows_left"]) == (2 - len(left), len(left))
    kept = {row["reason"]: row["rows"] for row in outcome.table("Rows of dangling references kept")}
    assert kept == {"a task that pulls it fails already, and says why": len(left)}
    pulls = {found["key"]: found["a pull"] for found in outcome.table("Dangling references")}
    assert pulls == {"own": "fails", "stock": "fails" if fails else "gets the path, or fails"}


@pytest.mark.parametrize("missing", [{2}, {0, 1, 3, 4}])
def test_no_dangling_row_goes_alone_from_the_results_of_a_mapped_task(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str, missing: set[int]
) -> None:
    """The consumer, cleared and run again, would get a list that lacks some, or the value of another index."""
    run = history.run("a", 3)
    for key, gone in (("some", missing), ("all", set(range(5)))):
        for index in range(5):
            blob = bucket.blob(run, age_days=3, task_id="m")
            history.xcom(run, blob, age_days=3, task_id="m", key=key, map_index=index)
            if index in gone:
                bucket.client.delete_object(Bucket=bucket.name, Key=blob.removeprefix(f"s3://aws_xcom@{bucket.name}/"))
    rows = history.rows()
    outcome = bundle.run(DAG, mode="enforce", delete_dangling_rows=True).succeeded()
    assert {(key, index) for *_, index, key in rows - history.rows()} == {("all", index) for index in range(5)}
    headline = outcome.report["headline"]
    assert (headline["dangling_rows_deleted"], headline["dangling_rows_left"]) == (5, len(missing))
    kept = {row["reason"]: row["rows"] for row in outcome.table("Rows of dangling references kept")}
    assert kept == {"other rows of the same mapped result stay": len(missing)}


def test_no_dangling_row_goes_whose_blob_is_in_quarantine(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    """Nothing would refer to the blob any more, and it would be purged."""
    run = history.run("a", 3)
    key = bucket.blob(run, age_days=3).split("/xcom/")[1]
    history.xcom(run, f"{bucket.base}/{key}", age_days=3)
    bucket.put(f"xcom-quarantine/20260101T000000Z-abcdef01/{key}", age_days=3)
    bucket.client.delete_object(Bucket=bucket.name, Key=f"xcom/{key}")
    rows = history.rows()
    outcome = bundle.run(DAG, mode="enforce", delete_dangling_rows=True).succeeded()
    assert history.rows() == rows
    assert "is in quarantine" in outcome.table("Rows of dangling references kept")[0]["reason"]
    bundle.run("xcom_restore", mode="enforce", quarantine="all").succeeded()
    assert bucket.has(f"{bucket.base}/{key}")


def test_a_row_that_appears_after_the_find_keeps_its_blob(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    run = history.run("a", 1)
    blob = bucket.blob(run, age_days=30)
    found = bundle.find(run_id="r", mode="enforce")
    assert found["orphan_blobs"] == 1
    history.xcom(run, {"deep": [blob]}, age_days=0)
    swept = bundle.sweep(found, run_id="r", mode="enforce")
    assert swept["orphans_deleted"] == 0
    assert bucket.has(blob)


def test_a_blob_of_a_run_that_goes_on_is_kept(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    """A task of it may be about to write the row of a path that it has just overwritten."""
    run = history.run("a", 1)
    blob = bucket.blob(run, age_days=30)
    found = bundle.find(run_id="r", mode="enforce")
    history.connection.execute("UPDATE dag_run SET state = 'running' WHERE id = %s", (run.dag_run_id,))
    bundle.sweep(found, run_id="r", mode="enforce")
    assert bucket.has(blob)


def test_a_blob_that_is_written_again_after_the_find_is_kept(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    orphan = orphan_of(bucket, "a")
    found = bundle.find(run_id="r", mode="enforce")
    bucket.put(orphan, b"again")
    bundle.sweep(found, run_id="r", mode="enforce")
    assert orphan in bucket.listing()


def test_a_sweep_deletes_only_what_its_manifest_names(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    orphan_of(bucket, "a")
    found = bundle.find(run_id="r", mode="enforce")
    later = orphan_of(bucket, "a")
    bundle.sweep(found, run_id="r", mode="enforce")
    assert later in bucket.listing()


# -- what the guard refuses --------------------------------------------------


def refused(bundle: Bundle, bucket: Bucket, setting: str) -> str:
    """Enforcing must fail, change nothing, and be visible in a report."""
    keys = bucket.listing()
    outcome = bundle.run(DAG, mode="enforce")
    assert type(outcome.error).__name__ == "AirflowFailException"
    assert setting in str(outcome.error)
    assert bucket.listing() == keys
    assert outcome.report["status"] == "refused"
    reported = bundle.run(DAG).succeeded().report
    assert reported["status"] == "reported"
    assert reported["objections"][0]["setting"] == setting
    return str(outcome.error)


def test_blobs_without_any_reference_are_refused(bundle: Bundle, bucket: Bucket, live: SeededRun) -> None:
    orphan_of(bucket, "live")
    assert "wrong database" in refused(bundle, bucket, "blob_base_path")


def test_a_reference_that_cannot_be_read_is_refused_and_its_value_not_shown(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    orphan_of(bucket, "a")
    history.xcom(history.run("a", 2), f"s3://{bucket.name}/xcom/../hidden-value", age_days=2)
    assert "hidden-value" not in refused(bundle, bucket, "blob_base_path")


def test_a_base_path_of_another_database_is_refused(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    orphan_of(bucket, "a")
    bucket.put(MARKER, json.dumps({"owner": "7000000000000000000/airflow"}).encode())
    refused(bundle, bucket, "metadata_conn_id")


def test_an_enforcing_run_marks_its_base_path_and_recognises_its_own_mark(
    bundle: Bundle, bucket: Bucket, history: History, referenced: str
) -> None:
    bundle.run(DAG, mode="enforce").succeeded()
    assert MARKER not in bucket.listing()  # nothing to delete, so nothing to claim
    orphan_of(bucket, "a")
    bundle.run(DAG, mode="enforce").succeeded()
    assert MARKER in bucket.listing()
    assert bundle.run(DAG, mode="enforce").succeeded().report["headline"]["unrecognised_objects"] == 0


def test_a_sharp_share_of_orphans_is_refused_or_asked_about(bundle: Bundle, history: History, tmp_path: Any) -> None:
    base = tmp_path / "blobs"
    bundle.common_io["xcom_objectstorage_path"] = f"file://{base}"
    folder = base / "a" / "run" / "t"
    folder.mkdir(parents=True)
    import os

    for _ in range(1_001):
        blob = folder / str(uuid.uuid4())
        blob.write_text("x")
        os.utime(blob, (1_700_000_000, 1_700_000_000))
    history.xcom(history.run("a", 1), f"file://{blob}", age_days=1)
    outcome = bundle.run(DAG, mode="enforce", on_limit="refuse")
    assert "max_orphan_share" in str(outcome.error)
    rejected = bundle.run(DAG, mode="enforce", answer=Approval.REJECTED)
    assert rejected.error is None
    assert rejected.report["status"] == "rejected"
    assert len(list(folder.iterdir())) == 1_001
    allowed = bundle.run(DAG, mode="enforce", disposal="delete", answer=Approval.GIVEN).succeeded()
    assert allowed.report["headline"]["orphans_deleted"] == 1_000
    assert [path.name for path in folder.iterdir()] == [blob.name]


def test_without_a_blob_store_the_error_names_the_setting(bundle: Bundle, history: History) -> None:
    outcome = bundle.run(DAG)
    assert "blob_base_path" in str(outcome.error)
    assert outcome.report["status"] == "failed"
