"""``xcom_cleanup``: what must stay, what goes, and what is said about it."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from tests.support.bucket import Bucket
from tests.support.bundle import Bundle
from tests.support.history import History, SeededRun, days_ago


def test_report_mode_changes_nothing(bundle: Bundle, bucket: Bucket, history: History) -> None:
    old = history.run("a", 30)
    history.run("a", 1)
    history.xcom(old, bucket.blob(old, age_days=30), age_days=30)
    rows, keys = history.rows(), bucket.listing()
    outcome = bundle.run("xcom_cleanup").succeeded()
    assert (history.rows(), bucket.listing()) == (rows, keys)
    assert outcome.report["status"] == "reported"
    assert outcome.report["headline"]["rows_to_delete"] == 1
    assert outcome.report["headline"]["blobs_to_purge"] == 1
    assert "report only: nothing was changed" in outcome.markdown


def test_enforce_mode_deletes_exactly_what_the_report_listed(bundle: Bundle, bucket: Bucket, history: History) -> None:
    blobs: dict[str, tuple[str, str]] = {}
    for dag_id in ("a", "b"):
        for age in (30, 20, 10, 3, 1):
            run = history.run(dag_id, age)
            reference = bucket.blob(run, age_days=age)
            blobs[reference] = (dag_id, run.run_id)
            history.xcom(run, reference, age_days=age)
            history.xcom(run, {"small": True}, age_days=age, key="small")
    listed = bundle.run("xcom_cleanup").succeeded()
    before = history.rows()
    bundle.variable = {"delete_without_conditions": True}
    enforced = bundle.run("xcom_cleanup", mode="enforce").succeeded()
    gone = before - history.rows()
    listed_runs = {(run["dag_id"], run["run_id"]): run["rows"] for run in listed.planned_runs()}
    assert {(dag_id, run_id) for dag_id, run_id, *_ in gone} == set(listed_runs)
    assert len(gone) == sum(listed_runs.values()) == 12
    gone_blobs = {reference for reference in blobs if not bucket.has(reference)}
    assert {r.removeprefix(f"{bucket.base}/") for r in gone_blobs} == {line["key"] for line in listed.manifest("blob")}
    assert {blobs[reference] for reference in gone_blobs} == set(listed_runs)
    headline = enforced.report["headline"]
    assert headline["rows_deleted"] == headline["rows_to_delete"] == listed.report["headline"]["rows_to_delete"]
    assert headline["blobs_deleted"] == 6
    assert enforced.report["status"] == "enforced"


def test_a_second_run_finds_nothing_to_do(bundle: Bundle, history: History) -> None:
    history.xcom(history.run("a", 30), age_days=30)
    history.run("a", 1)
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    again = bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert again.report["headline"]["rows_to_delete"] == again.report["headline"]["rows_deleted"] == 0


@pytest.mark.parametrize(
    ("state", "task_state"),
    [("running", "running"), ("running", "deferred"), ("queued", None), ("running", "awaiting_input"),
     ("success", "up_for_retry"), ("failed", None)],
)  # fmt: skip
def test_rows_and_blobs_of_unfinished_runs_survive_however_old(
    bundle: Bundle, bucket: Bucket, history: History, state: str, task_state: str | None
) -> None:
    old = history.run("a", 400, state=state, task_state="success")
    reference = bucket.blob(old, age_days=400)
    history.xcom(old, reference, age_days=400)
    history.task(old, "unfinished", task_state)
    history.run("a", 1)
    outcome = bundle.run("xcom_cleanup", mode="enforce", max_runs=1).succeeded()
    assert history.left() == {("a", old.run_id)}
    assert bucket.has(reference)
    reasons = {row["reason"] for row in outcome.table("Why rows are kept")}
    assert reasons & {"run not finished", "run has unfinished tasks"}


def test_a_run_cleared_between_plan_and_apply_keeps_its_rows_and_blobs(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    old = history.run("a", 30)
    reference = bucket.blob(old, age_days=30)
    history.xcom(old, reference, age_days=30)
    history.run("a", 1)
    planned = bundle.task("xcom_cleanup", "plan", run_id="r", mode="enforce")
    assert planned["rows_to_delete"] == 1
    history.connection.execute("UPDATE dag_run SET state = 'queued' WHERE id = %s", (old.dag_run_id,))
    applied = bundle.apply(planned, run_id="r", mode="enforce")
    assert applied["rows_deleted"] == applied["blobs_deleted"] == 0
    assert history.left() == {("a", old.run_id)}
    assert bucket.has(reference)


def test_the_newest_finished_runs_keep_their_rows_however_old(bundle: Bundle, history: History) -> None:
    runs = [history.run("yearly", age) for age in (900, 600, 300)]
    history.run("yearly", 200, state="running", task_state="running")
    for run, age in zip(runs, (900, 600, 300), strict=True):
        history.xcom(run, age_days=age)
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert history.left() == {("yearly", runs[2].run_id)}


def test_runs_are_ordered_by_when_they_were_due_and_ages_counted_from_the_rows(
    bundle: Bundle, history: History
) -> None:
    """A fresh backfill of an old date keeps its rows, and does not count as the newest run."""
    backfill = history.run("a", 500, run_id="backfill")
    history.xcom(backfill, age_days=0.1)
    newest = history.run("a", 20)
    history.xcom(newest, age_days=20)
    older = history.run("a", 25)
    history.xcom(older, age_days=25)
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert history.left() == {("a", "backfill"), ("a", newest.run_id)}


def test_old_rows_in_young_runs_go(bundle: Bundle, history: History) -> None:
    """A row keeps its timestamp when other tasks of its run are cleared and run again."""
    history.run("a", 0.1)
    run = history.run("a", 1)
    history.xcom(run, age_days=30, key="old")
    history.xcom(run, age_days=1, key="young")
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert {key for *_, key in history.rows()} == {"young"}


def test_rules_are_tried_in_order_and_the_first_that_matches_decides(bundle: Bundle, history: History) -> None:
    runs: dict[str, list[str]] = {}
    for dag_id in ("billing_a", "hourly_a", "hourly_report", "other"):
        runs[dag_id] = []
        for age in (30, 5, 4, 3, 2, 1):
            run = history.run(dag_id, age)
            history.xcom(run, age_days=age)
            runs[dag_id].append(run.run_id)
    bundle.variable = {
        "retention": [
            {"dag_ids": "billing_*", "hold": True},
            {"dag_ids": ["hourly_*"], "exclude_dag_ids": ["hourly_report"], "max_runs": 2, "max_age_days": None},
            {"dag_ids": ["hourly_*"], "max_age_days": 3.5, "min_runs": 4},
            {},
        ]
    }
    outcome = bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert history.left() == {
        *(("billing_a", run_id) for run_id in runs["billing_a"]),
        *(("hourly_a", run_id) for run_id in runs["hourly_a"][-2:]),
        *(("hourly_report", run_id) for run_id in runs["hourly_report"][-4:]),
        *(("other", run_id) for run_id in runs["other"][1:]),
    }
    kept = {row["reason"]: row["runs"] for row in outcome.table("Why rows are kept")}
    assert kept["hold: true"] == 6
    plan = outcome.table("The plan, by DAG and rule")
    going = {row["DAG"]: (row["rule"], row["reason"], row["rows"]) for row in plan if row["action"] == "delete"}
    assert going["hourly_a"] == (2, "beyond the newest max_runs runs", 4)
    assert going["other"] == (4, "older than max_age_days", 1)
    assert {cut["rule"] for line in outcome.manifest("rows") for cut in line["cuts"]} == {2, 3, 4}


def test_what_no_rule_matches_stays(bundle: Bundle, history: History) -> None:
    old = history.run("unmentioned", 100)
    history.xcom(old, age_days=100)
    history.run("unmentioned", 1)
    bundle.variable = {"retention": [{"dag_ids": ["mentioned"]}]}
    outcome = bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert history.left() == {("unmentioned", old.run_id)}
    [stays] = outcome.table("Why rows are kept")
    assert (stays["reason"], stays["runs"], stays["rows"]) == ("no rule matches", 2, 1)
    assert [(row["rule"], row["DAGs matched"]) for row in outcome.table("Retention rules")] == [(1, 0), (None, 1)]


def test_a_blob_that_another_row_refers_to_stays(bundle: Bundle, bucket: Bucket, history: History) -> None:
    old, young = history.run("a", 30), history.run("a", 1)
    shared = bucket.blob(old, age_days=30)
    nested = bucket.blob(old, age_days=30)
    archived = bucket.blob(old, age_days=30)
    for key, reference in {"1": shared, "2": nested, "3": archived}.items():
        history.xcom(old, reference, age_days=30, key=key)
    history.xcom(young, shared, age_days=1)
    history.xcom(young, {"passed": ["on", nested]}, age_days=1, key="nested")
    history.connection.execute("CREATE TABLE _airflow_deleted__xcom__1 AS SELECT * FROM xcom WHERE key = '3'")
    history.grant_role()
    outcome = bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert outcome.report["headline"]["rows_deleted"] == 3
    assert bucket.has(shared)
    assert bucket.has(nested)
    assert bucket.has(archived)
    assert outcome.table("Blobs kept") == [{"reason": "a row refers to it", "blobs": 3}]


def test_a_blob_that_was_overwritten_since_the_plan_stays(bundle: Bundle, bucket: Bucket, history: History) -> None:
    """A backend with deterministic paths writes the blob first and its row later."""
    old = history.run("a", 30)
    reference = bucket.blob(old, age_days=30)
    history.xcom(old, reference, age_days=30)
    history.run("a", 1)
    planned = bundle.task("xcom_cleanup", "plan", run_id="r", mode="enforce")
    bucket.put(reference.removeprefix(f"s3://aws_xcom@{bucket.name}/"), b"new")
    bundle.apply(planned, run_id="r", mode="enforce")
    assert history.left() == set()
    assert bucket.has(reference)


def test_references_to_other_places_are_left_alone(bundle: Bundle, bucket: Bucket, history: History) -> None:
    old = history.run("a", 30)
    bucket.put("private/a/r/t/11111111-2222-4333-8444-555555555555", age_days=30)
    bucket.put("xcom-of-others/a/r/t/11111111-2222-4333-8444-555555555555", age_days=30)
    keys = bucket.listing()
    for number, place in enumerate(("private", "xcom-of-others", "xcom/../private")):
        reference = f"s3://aws_xcom@{bucket.name}/{place}/a/r/t/11111111-2222-4333-8444-555555555555"
        history.xcom(old, reference, age_days=30, key=str(number))
    history.run("a", 1)
    bundle.run("xcom_cleanup", mode="enforce")
    assert bucket.listing() == keys


def test_local_files_are_purged_too(bundle: Bundle, history: History, tmp_path: Any) -> None:
    base = tmp_path / "blobs"
    bundle.common_io["xcom_objectstorage_path"] = f"file://{base}"
    old = history.run("a", 30)
    blob = base / "a" / old.run_id / "t" / "11111111-2222-4333-8444-555555555555"
    blob.parent.mkdir(parents=True)
    blob.write_text("x")
    os.utime(blob, (1_700_000_000, 1_700_000_000))
    history.xcom(old, f"file://{blob}", age_days=30)
    history.run("a", 1)
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert not blob.exists()


def test_without_a_blob_store_rows_go_and_the_report_says_that_blobs_were_not_looked_at(
    bundle: Bundle, history: History
) -> None:
    history.xcom(history.run("a", 30), age_days=30)
    history.run("a", 1)
    outcome = bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert history.left() == set()
    assert "No blob store is configured" in outcome.report["warnings"][0]


@pytest.mark.parametrize(
    "limit",
    [{"max_delete_rows": 3}, {"max_delete_bytes": 100}, {"max_delete_share": 0.0001}],
    ids=lambda x: next(iter(x)),
)
def test_a_plan_above_a_limit_is_refused_and_changes_nothing(
    bundle: Bundle, history: History, limit: dict[str, Any]
) -> None:
    old = history.run("a", 30)
    history.task(old, "m")
    history.connection.execute(
        """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
           SELECT %s, 'a', %s, 'm', -1, 'k' || n, '1'::jsonb, now() - interval '30 days'
           FROM generate_series(1, 1000) n""",
        (old.dag_run_id, old.run_id),
    )
    history.run("a", 1)
    bundle.variable = {**limit, "on_limit": "refuse"}
    outcome = bundle.run("xcom_cleanup", mode="enforce")
    assert type(outcome.error).__name__ == "AirflowFailException"
    [name] = limit
    assert name in str(outcome.error)
    assert outcome.report["status"] == "refused"
    assert len(history.rows()) == 1000
    reported = bundle.run("xcom_cleanup").succeeded()
    assert reported.report["objections"][0]["setting"] == name


def test_a_run_larger_than_a_batch_is_deleted_in_several_transactions(bundle: Bundle, history: History) -> None:
    giant = history.run("a", 30)
    for i in range(25):
        history.xcom(giant, "x" * 100, age_days=30, key=f"k{i}")
    history.run("a", 1)
    bundle.variable = {"batch_rows": 10}
    outcome = bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert outcome.report["headline"]["rows_deleted"] == 25
    assert outcome.report["headline"]["transactions"] == 3


def test_no_results_of_a_mapped_task_are_cut_by_the_size_of_a_batch_or_the_end_of_the_time(
    bundle: Bundle, history: History
) -> None:
    giant = history.run("a", 30)
    history.run("a", 1)
    for number, fan_out in enumerate((7, 25, 4)):
        for i in range(fan_out):
            history.xcom(giant, "x" * 100, age_days=30, task_id=f"m{number}", map_index=i)
    bundle.variable = {"batch_rows": 10, "max_minutes": 1e-9}
    left = {"m0": 7, "m1": 25, "m2": 4}
    sizes = set()
    for _ in range(10):
        bundle.run("xcom_cleanup", mode="enforce").succeeded()
        found = Counter(task_id for _, _, task_id, _, _ in history.rows())
        assert all(found[task_id] in (0, rows) for task_id, rows in left.items())
        sizes.add(found.total())
        if not found:
            break
        bundle.variable["max_minutes"] = None
        bundle.variable["batch_rows"] = 3
    assert sizes == {36, 0}


def test_the_report_says_where_each_setting_came_from(bundle: Bundle, bucket: Bucket, history: History) -> None:
    bundle.variable = {"max_age_days": 14, "min_runs": 2}
    settings = bundle.run("xcom_cleanup", max_age_days=30).succeeded().report["settings"]
    assert settings["max_age_days"] == {"value": 30, "source": "trigger form"}
    assert settings["min_runs"] == {"value": 2, "source": "Variable xcom_maintenance"}
    assert settings["batch_rows"] == {"value": 40_000, "source": "default"}
    assert settings["blob_base_path"] == {"value": bucket.base, "source": "[common.io] xcom_objectstorage_path"}


def test_the_plan_of_a_report_is_never_carried_out(bundle: Bundle, history: History) -> None:
    """The configuration may change to enforce between the two tasks of a run."""
    history.xcom(history.run("a", 30), age_days=30)
    history.run("a", 1)
    planned = bundle.task("xcom_cleanup", "plan", run_id="r")
    from airflow.providers.common.compat.sdk import AirflowSkipException

    with pytest.raises(AirflowSkipException):
        bundle.apply(planned, run_id="r", mode="enforce")
    assert len(history.rows()) == 1


def test_a_base_path_of_another_database_is_refused_and_no_row_deleted(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    """A copy of the production database, in staging, still points at the production bucket."""
    old = history.run("a", 30)
    history.xcom(old, bucket.blob(old, age_days=30), age_days=30)
    history.run("a", 1)
    bucket.put("xcom/.xcom-maintenance-owner.json", b'{"owner": "7000000000000000000/production"}')
    keys = bucket.listing()
    outcome = bundle.run("xcom_cleanup", mode="enforce")
    assert "7000000000000000000/production" in str(outcome.error)
    assert outcome.report["status"] == "refused"
    assert len(history.rows()) == 1
    assert bucket.listing() == keys


def test_a_null_base_path_means_what_airflow_is_configured_with(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    bundle.variable = {"blob_base_path": None, "report_path": bundle.report_path}
    assert bundle.run("xcom_cleanup").succeeded().report["settings"]["blob_base_path"]["value"] == bucket.base


def test_reports_and_manifests_may_lie_in_a_bucket(bundle: Bundle, bucket: Bucket, history: History) -> None:
    """Also what a killed run left there is found by the next."""
    old = history.run("a", 30)
    reference = bucket.blob(old, age_days=30)
    history.xcom(old, reference, age_days=30)
    history.run("a", 1)
    bundle.report_path = f"s3://aws_xcom@{bucket.name}/some/reports"
    run_id = "manual__2026-01-01T00:00:00.123456+00:00"
    bundle.task("xcom_cleanup", "plan", run_id=run_id, mode="enforce")
    folder = "some/reports/xcom_cleanup/"
    suffixes = {key.removeprefix(folder + run_id) for key in bucket.listing() if key.startswith(folder + run_id)}
    assert suffixes == {".json", ".md", ".html", ".manifest.jsonl.gz"}
    bucket.put(f"{folder}{run_id}.pending")
    history.connection.execute("DELETE FROM xcom")
    bundle.run("xcom_cleanup", mode="enforce", run_id="next")
    assert not bucket.has(reference)
    assert not any(key.endswith(".pending") for key in bucket.listing())


def test_every_run_is_either_affected_or_kept_for_a_reason(bundle: Bundle, history: History) -> None:
    for dag_id in ("a", "b"):
        for age in (30, 20, 5, 1):
            history.xcom(history.run(dag_id, age), age_days=age)
    history.run("b", 40, state="running")
    headline = bundle.run("xcom_cleanup").succeeded().report["headline"]
    assert (headline["runs_affected"], headline["runs_kept"]) == (4, 5)
    assert (headline["rows_to_delete"], headline["rows_in_table"], headline["share_of_rows_to_delete"]) == (4, 8, 0.5)


def test_an_archive_table_that_may_not_be_read_stops_the_run_before_any_row_goes(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    """Its rows may refer to blobs, so no blob can be purged without it."""
    old = history.run("a", 30)
    history.xcom(old, bucket.blob(old, age_days=30), age_days=30)
    history.run("a", 1)
    history.connection.execute(
        """DROP ROLE IF EXISTS half; CREATE ROLE half LOGIN PASSWORD 'pw';
           GRANT SELECT ON xcom, dag_run, task_instance, dag, dag_tag, alembic_version TO half;
           GRANT DELETE ON xcom TO half;
           CREATE TABLE _airflow_deleted__xcom__1 AS SELECT * FROM xcom"""
    )
    try:
        bundle.connections["airflow_metadata_db"] |= {"login": "half", "password": "pw"}
        outcome = bundle.run("xcom_cleanup", mode="enforce")
        assert 'GRANT SELECT ON _airflow_deleted__xcom__1 TO "half"' in str(outcome.error)
        assert len(history.rows()) == 1
    finally:
        history.connection.execute("DROP OWNED BY half; DROP ROLE half")


def test_a_base_path_that_cannot_be_written_stops_the_run_before_any_row_goes(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    from include.xcom_maintenance.blobs.s3.store import S3BlobStore
    from include.xcom_maintenance.core.errors import ConfigurationError

    old = history.run("a", 30)
    history.xcom(old, bucket.blob(old, age_days=30), age_days=30)
    history.run("a", 1)

    def denied(*_: object) -> None:
        raise ConfigurationError("The store answered AccessDenied", setting="blob_base_path", remedy="Grant it")

    # rclone knows one key pair with every right; a role that may read and not write cannot be had from it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3BlobStore, "put", denied)
        outcome = bundle.run("xcom_cleanup", mode="enforce")
    assert "AccessDenied" in str(outcome.error)
    assert len(history.rows()) == 1


def test_a_base_path_that_looks_wrong_is_doubted_in_the_report(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    bundle.variable = {"blob_base_path": f"s3://aws_xcom@{bucket.name}/xcon"}
    warnings = bundle.run("xcom_cleanup").succeeded().report["warnings"]
    assert any("is not the one that Airflow's own XCom backend" in warning for warning in warnings)
    assert any("not a single object" in warning for warning in warnings)


def test_a_pending_manifest_of_another_base_path_is_kept_for_when_that_is_configured_again(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    old = history.run("a", 30)
    reference = bucket.blob(old, age_days=30)
    history.xcom(old, reference, age_days=30)
    history.run("a", 1)
    killed = bundle.run("xcom_cleanup", run_id="killed").succeeded()
    killed.path(".pending").touch()
    history.connection.execute("DELETE FROM xcom")
    bundle.variable = {"blob_base_path": f"s3://aws_xcom@{bucket.name}/elsewhere"}
    outcome = bundle.run("xcom_cleanup", mode="enforce", run_id="mistaken").succeeded()
    assert any("killed.manifest.jsonl.gz" in warning for warning in outcome.report["warnings"])
    assert bucket.has(reference)
    bundle.variable = {"delete_without_conditions": True}
    assert any("killed" in warning for warning in bundle.run("xcom_cleanup").succeeded().report["warnings"])
    finished = bundle.run("xcom_cleanup", mode="enforce", run_id="mended").succeeded()
    assert finished.report["headline"]["blobs_deleted_for_earlier_runs"] == 1
    assert not bucket.has(reference)


def test_what_was_deleted_is_written_down_blob_by_blob(bundle: Bundle, bucket: Bucket, history: History) -> None:
    import gzip
    import json

    old = history.run("a", 30)
    reference = bucket.blob(old, age_days=30, size=123)
    history.xcom(old, reference, age_days=30)
    history.run("a", 1)
    outcome = bundle.run("xcom_cleanup", mode="enforce", run_id="r").succeeded()
    lines = gzip.decompress(outcome.path(".deleted-1.jsonl.gz").read_bytes()).decode().splitlines()
    header, deleted, end = map(json.loads, lines)
    assert (header["dag_id"], header["run_id"]) == ("xcom_cleanup", "r")
    assert (deleted["key"], deleted["bytes"]) == (reference.removeprefix(f"{bucket.base}/"), 123)
    assert deleted["reason"] == "its row was deleted by run r"
    assert end == {"kind": "end", "lines": 2}


def test_the_mode_may_be_set_for_each_dag(bundle: Bundle, history: History) -> None:
    history.xcom(history.run("a", 30), age_days=30)
    history.run("a", 1)
    bundle.variable = {"mode": {"xcom_orphan_reconciliation": "enforce"}}
    assert bundle.run("xcom_cleanup").succeeded().report["mode"] == "report"
    bundle.variable = {"mode": {"xcom_cleanup": "enforce"}}
    assert bundle.run("xcom_cleanup").succeeded().report["status"] == "enforced"
    assert history.rows() == set()


# -- runs that are over, and tasks that never will be ---------------------------------------


def stuck(history: History, dag_id: str, age_days: float, *, touched: float | None = None) -> SeededRun:
    """A failed run, of which a task was never run."""
    run = history.run(dag_id, age_days, state="failed")
    history.task(run, "never", None)
    when = days_ago(age_days if touched is None else touched)
    history.connection.execute("UPDATE dag_run SET end_date = %s WHERE id = %s", (days_ago(age_days), run.dag_run_id))
    history.connection.execute(
        "UPDATE task_instance SET updated_at = %s WHERE dag_id = %s AND run_id = %s AND task_id = 'never'",
        (when, dag_id, run.run_id),
    )
    return run


def test_no_row_of_a_run_that_is_over_stays_for_ever_for_a_task_that_is_stuck(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    """Nor its blob; and the plan has a reason of its own for it."""
    old, touched = stuck(history, "a", 30), stuck(history, "b", 30, touched=2)
    for run in (old, touched):
        history.xcom(run, bucket.blob(run, age_days=30), age_days=30)
        history.run(run.dag_id, 1)
    assert len(bucket.listing()) == 2
    outcome = bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert history.left() == {("b", touched.run_id)}
    # This store ignores conditions, so the blob that goes is in quarantine.
    assert len([key for key in bucket.listing() if key.startswith("xcom/") and "/t/" in key]) == 1
    by_dag = {row["DAG"]: row["reason"] for row in outcome.table("The plan, by DAG and rule") if row["rows"]}
    assert "unfinished tasks idle for stuck_after_days" in by_dag["a"]
    assert by_dag["b"] == "run has unfinished tasks"


@pytest.mark.parametrize(
    ("settings", "goes"),
    [
        ({}, True),
        ({"stuck_after_days": None}, False),
        ({"stuck_after_days": 20}, False),
        ({"stuck_after_days": 5}, True),
        ({"max_age_days": 12}, False),
        ({"retention": [{"max_age_days": 12}]}, False),
        ({"retention": [{"max_age_days": None, "max_runs": 1}]}, True),
        ({"retention": [{"hold": True}]}, False),
        ({"min_runs": 2}, False),
    ],
)
def test_no_task_counts_as_stuck_before_its_time(
    bundle: Bundle, history: History, settings: dict[str, Any], goes: bool
) -> None:
    run = stuck(history, "a", 10)
    history.xcom(run, age_days=30)
    history.run("a", 1)
    bundle.variable = settings
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert (not history.rows()) == goes


# -- what a cleanup leaves behind ------------------------------------------------------------


def test_no_run_loses_rows_without_being_named_as_one_that_cannot_be_rerun_in_part(
    bundle: Bundle, history: History
) -> None:
    """A task of it that is cleared alone pulls None and succeeds: nothing in Airflow would say so."""
    bundle.variable = {"top_entries": 2, "retention": [{"task_ids": ["u"], "max_age_days": 20}, {}]}
    for age in (40, 30, 25, 10, 1):
        run = history.run("a", age, run_id=f"run_{age}")
        for task_id in ("t", "u"):
            history.xcom(run, age_days=age, task_id=task_id)
    outcome = bundle.run("xcom_cleanup").succeeded()
    assert outcome.report["headline"]["runs_not_to_rerun_in_part"] == 4
    rows = outcome.table("Runs that can no longer be re-run in part")
    assert [(row["run"], row["rows that go"]) for row in rows] == [("run_10", 1), ("run_25", 2)]
    [note] = [table["note"] for table in outcome.report["tables"] if "re-run in part" in table["title"]]
    assert note.startswith("The newest 2 of 4")
    assert "gets None" in note
    named = {run_id for line in outcome.manifest("rows") for _, _, run_id, *_ in line["runs"]}
    assert named == {"run_10", "run_25", "run_30", "run_40"}
    history.connection.execute("DELETE FROM xcom")
    outcome = bundle.run("xcom_cleanup").succeeded()
    assert outcome.report["headline"]["runs_not_to_rerun_in_part"] == 0
    assert not [table for table in outcome.report["tables"] if "re-run in part" in table["title"]]
