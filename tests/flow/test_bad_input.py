"""Whatever a user gets wrong stops the run before anything is changed, and names the setting and the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.xcom_maintenance.core.errors import StoreUnavailable
from tests.support.bucket import Bucket
from tests.support.bundle import Bundle
from tests.support.history import History

CLEANUP = "xcom_cleanup"


@pytest.fixture
def rows(history: History) -> set[tuple[str, str, str, int, str]]:
    """An old row that any cleanup would delete."""
    history.xcom(history.run("a", 30), age_days=30)
    history.run("a", 1)
    return history.rows()


def fails(bundle: Bundle, history: History, *expected: str, dag_id: str = CLEANUP, **conf: Any) -> dict[str, Any]:
    """Enforce, and see it fail with nothing changed; the words are in the task's error and in the report."""
    before = history.rows()
    outcome = bundle.run(dag_id, mode="enforce", **conf)
    assert type(outcome.error).__name__ == "AirflowFailException"
    for words in expected:
        assert words in str(outcome.error)
        assert words in outcome.report["error"]["message"]
    assert outcome.report["status"] == "failed"
    assert outcome.report["error"]["remedy"]
    assert "FAILED" in outcome.markdown
    assert history.rows() == before
    return outcome.report


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ({"max_aeg_days": 3}, ["max_aeg_days", "Did you mean 'max_age_days'?", "Variable xcom_maintenance"]),
        ({"max_age_days": -1}, ["max_age_days", "greater than 0"]),
        ({"max_age_days": 0}, ["max_age_days", "greater than 0"]),
        ({"max_age_days": True}, ["max_age_days", "must be a number"]),
        ({"max_age_days": "soon"}, ["max_age_days", "must be a number"]),
        ({"max_age_days": None}, ["max_age_days"]),
        ({"max_runs": 0}, ["max_runs"]),
        ({"min_runs": -1}, ["min_runs"]),
        ({"mode": "delete"}, ["mode", "'report' or 'enforce'"]),
        ({"retention": []}, ["retention", "at least one rule"]),
        ({"retention": None}, ["retention"]),
        ({"retention": "all"}, ["retention"]),
        ({"retention": [{"dag_ids": []}]}, ["retention"]),
        ({"retention": [{"dags": "a"}]}, ["retention, rule 1, dags", "is not a setting of a rule"]),
        ({"retention": [{"max_age_days": 0}]}, ["retention, rule 1, max_age_days"]),
        ({"retention": [{"hold": True, "max_runs": 3}]}, ["hold keeps everything"]),
        ({"retention": [{"max_age_days": None}]}, ["use hold: true"]),
        ({"retention": [{}, {"dag_ids": "billing_*", "hold": True}]},
         ["rule 1 of retention (dag_ids: *) matches everything that rule 2 (dag_ids: billing_*) does",
          "rule 2 is never tried"]),
        ({"retention": ["a"]}, ["must be a rule"]),
        ({"mode": {"xcom_cleanup": "delete"}}, ["mode", "'report' or 'enforce'"]),
        ({"mode": {"my_dag": "report"}}, ["mode", "'my_dag' has no configurable mode"]),
        ({"lock_timeout_seconds": 0.0004}, ["lock_timeout_seconds"]),
        ({"batch_rows": 1.5}, ["batch_rows", "must be a whole number"]),
        ({"retention": [{"max_runs": 2, "min_runs": 3}]}, ["min_runs (3) is above max_runs (2)"]),
        ({"max_runs": 2, "min_runs": 3}, ["min_runs (3) is above max_runs (2)"]),
        ({"grace_period_days": 0.5}, ["grace_period_days", "at least 1"]),
        ({"batch_rows": 0}, ["batch_rows"]),
        ({"metadata_conn_id": ""}, ["metadata_conn_id"]),
        ("not json", ["Variable", "not valid JSON"]),
        ("[1]", ["Variable xcom_maintenance", "Write an object"]),
    ],
)  # fmt: skip
def test_a_wrong_setting(
    bundle: Bundle, history: History, rows: object, variable: dict[str, Any] | str, expected: list[str]
) -> None:
    bundle.variable = variable
    conf = {"report_path": bundle.report_path} if isinstance(variable, str) else {}
    before = history.rows()
    outcome = bundle.run(CLEANUP, **conf, **({} if "mode" in variable else {"mode": "enforce"}))
    assert type(outcome.error).__name__ == "AirflowFailException"
    for words in expected:
        assert words in str(outcome.error)
        assert words in outcome.report["error"]["message"]
    assert history.rows() == before


def test_a_wrong_field_of_the_form_names_the_form(bundle: Bundle, history: History, rows: object) -> None:
    fails(bundle, history, "max_age_days", "trigger form", max_age_days=-3)
    fails(bundle, history, "Unknown setting 'max_age'", "trigger form", max_age=3)


def test_a_missing_connection(bundle: Bundle, history: History, rows: object) -> None:
    fails(bundle, history, "no Connection 'nowhere'", "metadata_conn_id", "AIRFLOW_CONN_NOWHERE",
          metadata_conn_id="nowhere")  # fmt: skip


def test_a_connection_of_another_kind(bundle: Bundle, history: History, rows: object) -> None:
    bundle.connections["airflow_metadata_db"]["conn_type"] = "mysql"
    fails(bundle, history, "has the type 'mysql'", "metadata_conn_id")


def test_a_wrong_password_is_named_and_not_shown(bundle: Bundle, history: History, rows: object) -> None:
    bundle.connections["airflow_metadata_db"]["password"] = "sesame-17"
    report = fails(bundle, history, "login and password", "metadata_conn_id")
    assert "sesame-17" not in json.dumps(report)


def test_an_unreachable_database_is_tried_again(bundle: Bundle, history: History, rows: object) -> None:
    """Not an AirflowFailException: the retries of the task outlast a failover."""
    bundle.connections["airflow_metadata_db"]["port"] = 1
    outcome = bundle.run(CLEANUP, mode="enforce")
    assert isinstance(outcome.error, StoreUnavailable)
    assert "cannot be reached" in outcome.report["error"]["message"]
    assert "metadata_conn_id" in outcome.report["error"]["message"]


def test_a_database_that_is_not_airflows(bundle: Bundle, history: History, rows: object) -> None:
    bundle.connections["airflow_metadata_db"]["schema"] = "postgres"
    fails(bundle, history, "not an Airflow metadata database", "metadata_conn_id")


def test_a_schema_that_is_not_known(bundle: Bundle, history: History, rows: object) -> None:
    history.connection.execute("UPDATE alembic_version SET version_num = 'abcdef123456'")
    fails(bundle, history, "'abcdef123456'", "accept_schema_revision")


def test_a_role_without_the_right_to_delete(bundle: Bundle, history: History, rows: object) -> None:
    history.connection.execute(
        """DROP ROLE IF EXISTS looker; CREATE ROLE looker LOGIN PASSWORD 'pw';
           GRANT SELECT ON xcom, dag_run, task_instance, dag, dag_tag, alembic_version TO looker"""
    )
    try:
        bundle.connections["airflow_metadata_db"] |= {"login": "looker", "password": "pw"}
        fails(bundle, history, "DELETE on xcom", 'GRANT DELETE ON xcom TO "looker"')
        assert bundle.run(CLEANUP).succeeded().report["headline"]["rows_to_delete"] == 1
    finally:
        history.connection.execute("DROP OWNED BY looker; DROP ROLE looker")


@pytest.mark.parametrize("dag_id", [CLEANUP, "xcom_orphan_reconciliation"])
@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("", ["empty"]),
        ("  ", ["empty"]),
        ("s3://{bucket}", ["root of a bucket"]),
        ("s3://aws_xcom@{bucket}/", ["root of a bucket"]),
        ("file:///", ["root of a bucket"]),
        ("s3://aws_xcom@no-such-bucket/xcom", ["no-such-bucket", "does not exist"]),
        ("s3://no_such_connection@{bucket}/xcom", ["no Connection 'no_such_connection'", "blob_conn_id"]),
        ("s3://denied@{bucket}/xcom", ["cannot be used"]),
        ("s3://aws_xcom@{bucket}/xcom/../other", ["'..'"]),
        ("s3://aws_xcom@{bucket}/xcom//other", ["empty"]),
        ("ftp://host/xcom", ["not supported"]),
        ("/local/folder", ["scheme://bucket/key"]),
        ("file:///no/such/folder", ["cannot be used"]),
    ],
)
def test_a_base_path_that_cannot_be_used(
    bundle: Bundle, bucket: Bucket, history: History, rows: object, dag_id: str, base: str, expected: list[str]
) -> None:
    denied = dict(bundle.connections["aws_xcom"])
    bundle.connections["denied"] = {**denied, "password": "wrong-secret"}
    bundle.variable = {"blob_base_path": base.format(bucket=bucket.name)}
    report = fails(bundle, history, *expected, dag_id=dag_id)
    assert report["error"]["setting"] in {"blob_base_path", "blob_conn_id"}
    assert "wrong-secret" not in json.dumps(report)


def test_a_wrong_base_path_of_the_stock_backend_names_its_own_setting(
    bundle: Bundle, bucket: Bucket, history: History, rows: object
) -> None:
    bundle.common_io["xcom_objectstorage_path"] = f"s3://aws_xcom@{bucket.name}"
    fails(bundle, history, "[common.io] xcom_objectstorage_path")


@pytest.mark.parametrize(
    "path",
    [
        "file:///proc/nowhere",
        "s3://aws_xcom@no-such-bucket/reports",
        "nonsense://x/y",
        "relative/folder",
        "{base}/reports",
        "{base}",
        "{base}/",
        "{base}-quarantine",
        "{base}-quarantine/20260101T000000Z-abcdef01",
        "{base}-quarantine/reports",
    ],
)
def test_a_report_path_that_cannot_be_written(
    bundle: Bundle, bucket: Bucket, history: History, rows: object, path: str
) -> None:
    before = history.rows()
    outcome = bundle.run(CLEANUP, mode="enforce", report_path=path.format(base=bucket.base))
    assert type(outcome.error).__name__ == "AirflowFailException"
    assert "report_path" in str(outcome.error)
    assert history.rows() == before


@pytest.mark.parametrize("setting", ["report_path", "archive_path"])
@pytest.mark.parametrize("below", ["", "/", "/r", "-quarantine", "-quarantine/", "-quarantine/a/b", "-link/r"])
@pytest.mark.parametrize("dag_id", [CLEANUP, "xcom_orphan_reconciliation"])
def test_nothing_is_ever_written_among_the_blobs_or_into_the_quarantine(
    bundle: Bundle, history: History, tmp_path: Path, dag_id: str, setting: str, below: str
) -> None:
    history.run("a", 1)
    base = tmp_path / "blobs"
    base.mkdir()
    Path(f"{base}-link").symlink_to(base)
    bundle.common_io["xcom_objectstorage_path"] = f"file://{base}"
    outcome = bundle.run(dag_id, mode="enforce", **{setting: f"file://{base}{below}"})
    assert type(outcome.error).__name__ == "AirflowFailException"
    assert setting in str(outcome.error)
    assert not Path(f"{base}-quarantine").exists()
    assert list(base.iterdir()) == []
    beside = bundle.run(dag_id, **{setting: f"file://{base}-reports/r"}).succeeded()
    assert beside.summary is not None


def test_a_policy_file_that_is_not_yaml(bundle: Bundle, history: History, rows: object, tmp_path: Any) -> None:
    from include.xcom_maintenance.settings import sources

    path = tmp_path / "xcom_maintenance.yaml"
    path.write_text("retention: [\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources.file_layer, "__defaults__", (path,))
        fails(bundle, history, "xcom_maintenance.yaml", "not valid YAML at line 2")
        path.write_text("max_age_days: -2\n")
        fails(bundle, history, "max_age_days from the include/xcom_maintenance.yaml")
