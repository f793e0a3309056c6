"""Between plan and apply, in values and in names: whatever comes, nothing is lost and nothing leaks."""

from __future__ import annotations

import gzip
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from include.xcom_maintenance.core.errors import StoreUnavailable
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from tests.support.bucket import Bucket
from tests.support.bundle import Bundle
from tests.support.history import History, SeededRun

CLEANUP = "xcom_cleanup"
RECONCILIATION = "xcom_orphan_reconciliation"
MARKER = "xcom/.xcom-maintenance-owner.json"


@pytest.fixture
def old(history: History) -> SeededRun:
    """A run that any cleanup would take rows of."""
    history.run("a", 1)
    return history.run("a", 30)


def plan(bundle: Bundle, **conf: Any) -> Any:
    return bundle.task(CLEANUP, "plan", run_id="r", mode="enforce", **conf)


def apply(bundle: Bundle, planned: Any) -> Any:
    return bundle.apply(planned, run_id="r", mode="enforce")


# -- what changes between plan and apply --------------------------------------------------


def test_setting_the_mode_back_to_report_stops_a_run_that_is_under_way(
    bundle: Bundle, history: History, old: SeededRun
) -> None:
    history.xcom(old, age_days=30)
    bundle.variable = {"mode": "enforce"}
    planned = bundle.task(CLEANUP, "plan", run_id="r")
    bundle.variable = {"mode": "report"}
    with pytest.raises(AirflowSkipException):
        bundle.apply(planned, run_id="r")
    assert len(history.rows()) == 1


def test_the_plan_of_another_airflow_with_the_same_report_path_and_run_id_is_not_carried_out(
    bundle: Bundle, history: History, old: SeededRun
) -> None:
    history.xcom(old, age_days=30)
    planned = plan(bundle)
    plan(bundle)  # theirs, which overwrites ours
    with pytest.raises(AirflowFailException, match="report_path"):
        apply(bundle, planned)
    assert len(history.rows()) == 1


@pytest.mark.parametrize("policy", [{"retention": [{"hold": True}]}, {"min_runs": 5}, {"max_age_days": 60}])
def test_a_policy_that_keeps_more_counts_at_once(
    bundle: Bundle, history: History, old: SeededRun, policy: dict[str, Any]
) -> None:
    history.xcom(old, age_days=30)
    planned = plan(bundle)
    assert planned["rows_to_delete"] == 1
    bundle.variable = policy
    assert apply(bundle, planned)["rows_deleted"] == 0
    assert len(history.rows()) == 1


def test_a_policy_that_keeps_less_does_not_widen_the_plan(bundle: Bundle, history: History, old: SeededRun) -> None:
    history.xcom(old, age_days=30)
    history.xcom(old, age_days=5, key="young")
    planned = plan(bundle)
    bundle.variable = {"max_age_days": 1}
    assert apply(bundle, planned)["rows_deleted"] == 1
    assert {key for *_, key in history.rows()} == {"young"}


@pytest.mark.parametrize("dag_id", [CLEANUP, RECONCILIATION])
def test_a_base_path_that_somebody_else_claims_meanwhile_is_left_alone(
    bundle: Bundle, bucket: Bucket, history: History, old: SeededRun, dag_id: str
) -> None:
    history.xcom(old, bucket.blob(old, age_days=30), age_days=30)
    bucket.put(f"xcom/a/gone/t/{uuid.uuid4()}", age_days=30)
    planned = plan(bundle) if dag_id == CLEANUP else bundle.find(run_id="r", mode="enforce")
    bucket.put(MARKER, b'{"owner": "7000000000000000000/production"}')
    before = bucket.listing()
    with pytest.raises(AirflowFailException, match="7000000000000000000/production"):
        bundle.task(dag_id, "share_out", planned, run_id="r", mode="enforce")
    assert bucket.listing() == before
    assert len(history.rows()) == 1


def test_a_pending_manifest_is_not_finished_below_a_base_path_of_somebody_else(
    bundle: Bundle, bucket: Bucket, history: History, old: SeededRun
) -> None:
    reference = bucket.blob(old, age_days=30)
    history.xcom(old, reference, age_days=30)
    bundle.run(CLEANUP, run_id="killed").succeeded().path(".pending").touch()
    history.connection.execute("DELETE FROM xcom")
    planned = plan(bundle)
    bucket.put(MARKER, b'{"owner": "7000000000000000000/production"}')
    with pytest.raises(AirflowFailException, match="7000000000000000000/production"):
        apply(bundle, planned)
    assert bucket.has(reference)


def test_a_run_that_is_run_again_keeps_the_manifest_of_the_first_time(
    bundle: Bundle, history: History, old: SeededRun
) -> None:
    history.xcom(old, age_days=30)
    bundle.run(CLEANUP, run_id="r", mode="enforce").succeeded()
    again = bundle.run(CLEANUP, run_id="r", mode="enforce").succeeded()
    kept = gzip.decompress(again.path("~1.manifest.jsonl.gz").read_bytes()).decode()
    assert '"kind": "rows"' in kept
    assert again.manifest("rows") == []


def test_a_second_attempt_adds_to_the_counts_of_the_first(bundle: Bundle, history: History, old: SeededRun) -> None:
    for run in (old, history.run("a", 31)):
        history.xcom(run, age_days=30)
    bundle.variable = {"batch_rows": 1}
    planned = plan(bundle)
    delete, calls = PostgresMetadataStore.delete, 0

    def fails_at_the_second(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoreUnavailable("No lock", setting="lock_timeout_seconds", remedy="Wait")
        return delete(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresMetadataStore, "delete", fails_at_the_second)
        with pytest.raises(AirflowFailException, match="No lock"):
            apply(bundle, planned)
    [report] = Path(bundle.report_path.removeprefix("file://"), CLEANUP).glob("r.json")
    failed = json.loads(report.read_text())
    assert (failed["status"], failed["headline"]["rows_deleted"]) == ("failed", 1)
    assert apply(bundle, planned)["rows_deleted"] == 2


# -- what stands in values ----------------------------------------------------------------


def test_a_cleanup_deletes_only_the_blob_that_a_backend_wrote_for_that_very_row(
    bundle: Bundle, bucket: Bucket, history: History, old: SeededRun
) -> None:
    name = "11111111-2222-4333-8444-555555555555"
    places = [
        "xcom/exports/report.csv",
        MARKER,
        f"xcom/a/another_run/t/{name}",
        f"xcom/a/{old.run_id}/another_task/{name}",
        f"xcom/b/{old.run_id}/t/{name}",
        f"xcom/state/{old.run_id}/t/{name}",
    ]
    bundle.common_io["state_store_objectstorage_path"] = f"{bucket.base}/state"
    owner = bundle.run(RECONCILIATION).succeeded().manifest("reconciliation")[0]["database"]
    for number, place in enumerate(places):
        bucket.put(place, json.dumps({"owner": owner}).encode())
        history.xcom(old, f"s3://aws_xcom@{bucket.name}/{place}", age_days=30, key=str(number))
    own = bucket.blob(old, age_days=30)
    history.xcom(old, own, age_days=30, key="own")
    bucket.set_age(dict.fromkeys(places, 30))
    bundle.variable = {"delete_without_conditions": True}
    outcome = bundle.run(CLEANUP, mode="enforce").succeeded()
    assert bucket.listing() == set(places)
    assert outcome.report["headline"]["blobs_deleted"] == 1
    assert "6 rows to delete hold a path below the blob base path" in outcome.report["warnings"][0]


@pytest.mark.parametrize("text", ["--input={}", "s3://other/x,{}", '"{}"', "[here]({})", "{}?versionId=3", "{}/"])
def test_a_blob_that_a_live_value_mentions_in_any_way_is_neither_purged_nor_an_orphan(
    bundle: Bundle, bucket: Bucket, history: History, old: SeededRun, text: str
) -> None:
    young = history.run("b", 0.5)
    purged, orphan = bucket.blob(old, age_days=30), bucket.blob(old, age_days=30)
    history.xcom(old, purged, age_days=30)
    history.xcom(young, {"command": [text.format(purged)]}, age_days=0.5, key="1")
    history.xcom(young, text.format(orphan), age_days=0.5, key="2")
    assert bundle.run(RECONCILIATION).succeeded().report["headline"]["orphan_blobs"] == 0
    bundle.run(CLEANUP, mode="enforce").succeeded()
    assert bucket.has(purged)
    assert bucket.has(orphan)


def test_one_stray_mention_does_not_make_a_wrong_base_path_plausible(
    bundle: Bundle, bucket: Bucket, history: History, old: SeededRun
) -> None:
    for _ in range(3):
        bucket.put(f"xcom/a/gone/t/{uuid.uuid4()}", age_days=30)
    history.xcom(old, f"Blobs lie at {bucket.base}/somewhere", age_days=30)
    outcome = bundle.run(RECONCILIATION, mode="enforce")
    assert "wrong database" in str(outcome.error)


def test_no_value_shows_in_reports_manifests_or_logs(
    bundle: Bundle, bucket: Bucket, history: History, old: SeededRun, caplog: pytest.LogCaptureFixture
) -> None:
    for number, value in enumerate(
        (
            f"{bucket.base}/report.csv?password=hunter2",
            f"{bucket.base}/../hunter2",
            {"hunter2": f"{bucket.base}/hunter2 {bucket.base}/a/r/t/11111111-2222-4333-8444-555555555555"},
        )
    ):
        history.xcom(old, value, age_days=30, key=str(number))
    bundle.run(CLEANUP).succeeded()
    bundle.run(RECONCILIATION).succeeded()
    bundle.run("xcom_size_audit").succeeded()
    bundle.run(RECONCILIATION, mode="enforce")
    written = [path for path in Path(bundle.report_path.removeprefix("file://")).rglob("*") if path.is_file()]
    assert len(written) > 8
    for path in written:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert b"hunter2" not in content, path
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "setting",
    [
        {"metadata_conn_id": "postgresql://user:hunter2@host/db"},
        {"blob_conn_id": "aws://KEY:hunter2@"},
        {"blob_base_path": "s3://KEY:hunter2@bucket/xcom"},
        {"report_path": "s3://KEY:hunter2@bucket/reports"},
    ],
)
def test_a_secret_in_the_wrong_field_is_not_repeated(
    bundle: Bundle, history: History, setting: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    bundle.variable = setting
    outcome = bundle.run(CLEANUP)
    [name] = setting
    assert name in str(outcome.error)
    assert "hunter2" not in str(outcome.error) + caplog.text
    for path in Path(bundle.report_path.removeprefix("file://")).rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


def test_an_odd_string_in_an_old_row_does_not_stop_the_cleanup(
    bundle: Bundle, bucket: Bucket, history: History, old: SeededRun
) -> None:
    for number, text in enumerate(("/../x", "//x", "/./x", "", "/", "?", "/" + "x" * 900)):
        history.xcom(old, bucket.base + text, age_days=30, key=str(number))
    bundle.run(CLEANUP, mode="enforce").succeeded()
    assert history.rows() == set()


# -- what stands in names and files -------------------------------------------------------


@pytest.fixture
def base(bundle: Bundle, tmp_path: Path) -> Path:
    """A base path of local files."""
    folder = tmp_path / "blobs"
    folder.mkdir()
    bundle.common_io["xcom_objectstorage_path"] = f"file://{folder}"
    return folder


def test_file_names_that_are_not_utf_8_are_left_alone_and_stop_nothing(
    bundle: Bundle, history: History, old: SeededRun, base: Path
) -> None:
    odd = os.fsencode(base) + b"/a/r\xff/t/11111111-2222-4333-8444-555555555555"
    os.makedirs(os.path.dirname(odd))
    with open(odd, "w"):
        os.utime(odd, (1_700_000_000, 1_700_000_000))
    history.xcom(old, age_days=30)
    outcome = bundle.run(RECONCILIATION, mode="enforce").succeeded()
    assert outcome.report["headline"]["unrecognised_objects"] == 1
    assert os.path.exists(odd)


def test_a_folder_or_an_impossible_name_in_place_of_a_blob_stops_nothing(
    bundle: Bundle, history: History, old: SeededRun, base: Path
) -> None:
    uuids = [f"11111111-2222-4333-8444-{n:012}" for n in range(3)]
    (base / "a" / old.run_id).mkdir(parents=True)
    (base / "a" / old.run_id / "t").mkdir()
    (base / "a" / old.run_id / "t" / uuids[0]).mkdir()
    (base / "a" / old.run_id / "file").write_text("")
    history.xcom(old, f"file://{base}/a/{old.run_id}/t/{uuids[0]}", age_days=30, key="a folder")
    history.xcom(old, f"file://{base}/a/{old.run_id}/file/{uuids[1]}", age_days=30, key="below", task_id="file")
    history.xcom(
        old, f"file://{base}/a/{old.run_id}/{'n' * 250}/{uuids[2]}", age_days=30, key="long", task_id="n" * 250
    )
    bundle.run(CLEANUP, mode="enforce").succeeded()
    assert history.rows() == set()


def test_a_pending_manifest_that_is_cut_short_is_reported_and_stops_nothing(
    bundle: Bundle, bucket: Bucket, history: History, old: SeededRun
) -> None:
    killed = bundle.run(CLEANUP, run_id="killed").succeeded()
    manifest = killed.path(".manifest.jsonl.gz")
    manifest.write_bytes(manifest.read_bytes()[:-20])
    killed.path(".pending").touch()
    outcome = bundle.run(CLEANUP, mode="enforce").succeeded()
    assert any("killed.manifest.jsonl.gz" in warning and "by hand" in warning for warning in outcome.report["warnings"])


@pytest.mark.parametrize("run_id", ["x" * 245, "ü" * 150, "a b#?%"])
def test_a_long_or_odd_run_id_still_gives_a_report(bundle: Bundle, history: History, run_id: str) -> None:
    assert bundle.run(CLEANUP, run_id=run_id).error is None


def test_days_have_24_hours_whatever_the_session_says(bundle: Bundle, history: History, old: SeededRun) -> None:
    history.connection.execute("ALTER ROLE airflow SET timezone = 'Europe/Berlin'")
    try:
        history.xcom(old, age_days=30)
        [line] = bundle.run(CLEANUP).succeeded().planned_runs()
        [header] = bundle.run(CLEANUP).succeeded().manifest("cleanup")
        assert line["cutoff"].endswith("+00:00")
        assert header["planned_at"].endswith("+00:00")
    finally:
        history.connection.execute("ALTER ROLE airflow RESET timezone")
