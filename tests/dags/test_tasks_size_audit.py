"""``xcom_size_audit``: its figures agree with a table that the test knows."""

from __future__ import annotations

import json

from local_stack.s3 import MotoS3
from tests.support.bundle import Bundle
from tests.support.history import History


def test_figures_agree_with_a_known_table(bundle: Bundle, history: History) -> None:
    import random

    noise = random.Random(1).randbytes(500).hex()
    big, small = history.run("big", 2), history.run("small", 1)
    for map_index in range(3):
        history.xcom(big, noise * 60 + str(map_index), age_days=2, task_id="mapped", map_index=map_index)
    history.xcom(big, noise * 11_000, age_days=2, key="huge")
    history.xcom(small, 1, age_days=1)
    rows = history.rows()
    outcome = bundle.run("xcom_size_audit").succeeded()
    stored = dict(
        history.connection.execute("SELECT dag_id, sum(pg_column_size(value))::int FROM xcom GROUP BY 1").fetchall()
    )
    headline = outcome.report["headline"]
    assert (headline["rows"], headline["bytes"]) == (5, sum(stored.values()))
    assert {row["DAG"]: row["stored bytes"] for row in outcome.table("By DAG")} == stored
    assert [row["rows"] for row in outcome.table("By DAG")] == [4, 1]
    assert {(r["DAG"], r["task"]): r["rows"] for r in outcome.table("By task")}["big", "mapped"] == 3
    assert sum(row["share of bytes"] for row in outcome.table("By key")) == 1
    bands = {row["band"]: row["rows"] for row in outcome.table("Size bands")}
    assert bands == {"below 1 KB": 1, "1-10 KB": 0, "10-48 KB": 0, "above 48 KB": 3, "above 10 MB": 1}
    assert outcome.table("Largest entries")[0]["key"] == "huge"
    assert "| big | 4 | 80.0% |" in outcome.markdown
    assert history.rows() == rows


def test_an_empty_table_gives_a_sensible_report(bundle: Bundle, history: History) -> None:
    outcome = bundle.run("xcom_size_audit").succeeded()
    assert outcome.report["status"] == "audited"
    assert outcome.report["headline"]["rows"] == 0
    assert "None." in outcome.markdown


def test_a_role_that_may_only_read_is_enough(bundle: Bundle, history: History) -> None:
    history.xcom(history.run("a", 1), age_days=1)
    history.connection.execute(
        """DROP ROLE IF EXISTS auditor; CREATE ROLE auditor LOGIN PASSWORD 'pw';
           GRANT SELECT ON xcom, dag_run, task_instance, dag, dag_tag, alembic_version TO auditor"""
    )
    try:
        bundle.connections["airflow_metadata_db"] |= {"login": "auditor", "password": "pw"}
        assert bundle.run("xcom_size_audit").succeeded().report["headline"]["rows"] == 1
    finally:
        history.connection.execute("DROP OWNED BY auditor; DROP ROLE auditor")


def test_names_that_look_like_markup_do_not_break_the_report(bundle: Bundle, history: History) -> None:
    history.xcom(history.run("a", 1), age_days=1, key="pipe|<b>*bold*\nline")
    markdown = bundle.run("xcom_size_audit").succeeded().markdown
    assert "pipe\\|\\<b\\>\\*bold\\* line" in markdown


def test_no_report_is_kept_for_longer_than_configured_and_none_of_another_dag_is_forgotten(
    bundle: Bundle, history: History
) -> None:
    import os

    old = [bundle.run(dag_id) for dag_id in ("xcom_cleanup", "xcom_size_audit") for _ in range(11)]
    for outcome in old:
        report = outcome.report | {"finished_at": "2020-01-01T00:00:00+00:00"}
        outcome.path(".json").write_text(json.dumps(report))
        for path in outcome.path("").parent.glob("*"):
            os.utime(path, (0, 0))
    bundle.variable = {"keep_reports_days": None}
    bundle.run("xcom_size_audit").succeeded()
    assert all(outcome.path(".html").exists() for outcome in old)
    bundle.variable = {"keep_reports_days": 30}
    audit = bundle.run("xcom_size_audit").succeeded()
    assert audit.report["headline"]["reports_pruned"] == 4  # this run and the one before are among the newest
    assert sum(not outcome.path(".json").exists() and not outcome.path(".md").exists() for outcome in old) == 4


def test_what_the_user_turns_off_is_not_done(bundle: Bundle, history: History) -> None:
    history.xcom(history.run("a", 1), {"password": "hunter2"}, age_days=1)
    bundle.variable = {"probe": False, "secrets_scan": False, "keep_reports_days": None}
    report = bundle.run("xcom_size_audit").succeeded().report
    assert not {"Secrets", "Live probe"} & {table["title"] for table in report["tables"]}
    assert not {"secrets_found", "reports_pruned"} & set(report["headline"])


def test_a_page_on_s3_is_shown_by_a_browser_and_not_saved(bundle: Bundle, history: History, moto: MotoS3) -> None:
    moto.client().create_bucket(Bucket="pages")
    bundle.report_path = "s3://aws_pages@pages/reports"
    bundle.connections["aws_pages"] = json.loads(moto.airflow_connection_json())
    outcome = bundle.run("xcom_size_audit", run_id="r").succeeded()
    assert outcome.summary is not None
    assert outcome.summary["html"] == "s3://aws_pages@pages/reports/xcom_size_audit/r.html"
    page = moto.client().get_object(Bucket="pages", Key="reports/xcom_size_audit/r.html")
    assert page["ContentType"] == "text/html; charset=utf-8"
    assert page["Body"].read().startswith(b"<!doctype html>")
