"""The DAGs under a real scheduler with LocalExecutor, where a task cannot reach Airflow's ORM.

``dag.test()`` and the task-level tests run in a process in which it can, so they cannot see that failure.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local_stack.airflow import Airflow
from local_stack.postgres import PostgresServer
from local_stack.s3 import RcloneS3
from tests.conftest import REPOSITORY, Database
from tests.support.archive import archive_rows
from tests.support.bucket import Bucket
from tests.support.collectors import Otlp
from tests.support.databases import Databases
from tests.support.history import History, has_column
from tests.support.schema import valid

pytestmark = pytest.mark.e2e

#: The states of the tasks of a cleanup: one that reports, one that was rejected, one that enforced.
REPORTED = REJECTED = {
    "plan": "success",
    "approve": "success",
    "share_out": "skipped",
    "delete_rows": "skipped",
    "finish": "skipped",
}
ENFORCED = dict.fromkeys(REPORTED, "success")

DAGS = (
    "xcom_cleanup",
    "xcom_size_audit",
    "xcom_orphan_reconciliation",
    "xcom_restore",
    "xcom_offload_large_values",
    "xcom_rotate_keys",
)

#: A DAG of a user, on the stock backend: values above the threshold go to the bucket.
USER_DAG = """
from airflow.sdk import dag, task

@dag(schedule=None)
def pushes():
    @task
    def small():
        return 1

    @task
    def large(n):
        return "x" * 5000

    @task
    def pull(values):
        assert [len(v) for v in values] == [5000, 5000]

    pull(large.expand(n=[1, 2]))
    small()

pushes()
"""


@dataclass
class Deployment:
    airflow: Airflow
    history: History
    bucket: Bucket
    reports: Path
    metrics: Otlp
    told: Path

    def run(self, dag_id: str, **conf: Any) -> str:
        """Trigger a DAG through the REST API and wait; returns its run id."""
        run_id = self.airflow.trigger(dag_id, conf)
        self.airflow.wait_run(dag_id, run_id)
        return run_id

    def run_side_by_side(self, dag_id: str, count: int) -> list[str]:
        """The same several times at once; their ids, the one that is due first first."""
        run_ids = [self.airflow.trigger(dag_id, {}) for _ in range(count)]
        for run_id in run_ids:
            self.airflow.wait_run(dag_id, run_id)
        return run_ids

    def report(self, dag_id: str, run_id: str) -> dict[str, Any]:
        text = (self.reports / dag_id / f"{run_id}.json").read_text()
        return valid(json.loads(text))

    def news(self, run_id: str) -> list[tuple[str, str]]:
        """What the notifier was told about a run: (event, message)."""
        lines = [json.loads(line) for line in self.told.read_text().splitlines()] if self.told.exists() else []
        return [(line["event"], line["message"]) for line in lines if line["run_id"] == run_id]

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """The state of each task; of one that is mapped the states of all its instances, without repetition."""
        found: dict[str, set[str]] = {}
        for task in self.airflow.task_instances(dag_id, run_id):
            found.setdefault(task["task_id"], set()).add(str(task["state"]))
        return {task_id: " ".join(sorted(states)) for task_id, states in found.items()}

    def ask(self, **conf: Any) -> str:
        """Trigger a cleanup whose plan is above a limit, and wait for the question; returns its run id."""
        run_id = self.airflow.trigger("xcom_cleanup", {"mode": "enforce", "max_delete_rows": 1, **conf})
        self.airflow.wait_for_question("xcom_cleanup", run_id)
        return run_id

    def answer(self, run_id: str, option: str) -> str:
        """Answer the question of a cleanup and wait for its end; returns the state of the run."""
        self.airflow.answer("xcom_cleanup", run_id, option)
        return self.airflow.wait_run("xcom_cleanup", run_id)


@pytest.fixture(scope="module")
def deployment(
    postgres: PostgresServer, databases: Databases, rclone: RcloneS3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("e2e")
    name = databases.take()
    database = Database(postgres, name)
    bucket = Bucket(rclone, f"bucket-{uuid.uuid4().hex[:12]}")
    (folder / "user").mkdir()
    (folder / "user" / "pushes.py").write_text(USER_DAG)
    (folder / "library").mkdir()
    shutil.copy(REPOSITORY / "tests" / "support" / "notifier.py", folder / "library" / "users_notifier.py")
    settings = {
        "report_path": f"file://{folder}/reports",
        "delete_without_conditions": True,  # rclone ignores them
        "notifier": "users_notifier.ToFile",
        "notifier_kwargs": {"path": str(folder / "told.jsonl"), "text": "{{ ti.task_id }}"},
    }
    metadata = postgres.role_connection(name)
    env = {
        "AIRFLOW__CORE__XCOM_BACKEND": "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": bucket.base,
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "1000",
        "AIRFLOW_CONN_AWS_XCOM": rclone.airflow_connection_json(),
        "AIRFLOW_CONN_AIRFLOW_METADATA_DB": json.dumps(metadata),
        "AIRFLOW_CONN_WRONG_PASSWORD": json.dumps({**metadata, "password": "open-sesame"}),
        "AIRFLOW_VAR_XCOM_MAINTENANCE": json.dumps(settings),
        "PYTHONPATH": str(folder / "library"),
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",  # no DAG file changes
    }
    bundles = {"maintenance": REPOSITORY, "user": folder / "user"}
    with (
        database.connect(autocommit=True) as connection,
        Otlp() as metrics,
        Airflow(folder / "airflow", postgres.url(name), env={**env, **metrics.environment}, bundles=bundles) as airflow,
    ):
        airflow.wait_healthy()
        for dag_id in (*DAGS, "pushes"):
            airflow.wait_for_dag(dag_id)
            airflow.unpause(dag_id)
        yield Deployment(airflow, History(connection), bucket, folder / "reports", metrics, folder / "told.jsonl")


def pushed(deployment: Deployment) -> set[tuple[str, str, str, int, str]]:
    """The rows of the user's DAG; the bundle's own runs push summaries meanwhile."""
    return {row for row in deployment.history.rows() if row[0] == "pushes"}


def pushed_blobs(deployment: Deployment) -> set[str]:
    """The blobs of the user's DAG; those of the bundle's own runs, such as canaries, come and go meanwhile."""
    return {key for key in deployment.bucket.listing() if key.startswith("xcom/pushes/")}


def test_only_the_dags_of_the_bundle_are_parsed(deployment: Deployment) -> None:
    found = deployment.airflow.rest("GET", "/api/v2/dags", params={"limit": 100})["dags"]
    assert {dag["dag_id"] for dag in found} == {*DAGS, "pushes"}
    assert deployment.airflow.import_errors() == {}


def test_old_runs_lose_their_rows_and_blobs_and_nothing_else_does(deployment: Deployment) -> None:
    """Real runs on the stock backend; three of the four are made old, one of them unfinished."""
    history = deployment.history
    older, old, unfinished, young = deployment.run_side_by_side("pushes", 4)
    for run_id in (older, old, unfinished):
        history.connection.execute(
            "UPDATE xcom SET timestamp = now() - interval '30 days' WHERE run_id = %s", (run_id,)
        )
    for column in ("run_after", "created_at"):
        if has_column(history.connection, "dag_run", column):
            history.connection.execute(
                f"UPDATE dag_run SET {column} = {column} - interval '30 days' WHERE dag_id = 'pushes' AND run_id <> %s",
                (young,),
            )
    history.connection.execute(
        "UPDATE task_instance SET state = 'deferred' WHERE run_id = %s AND task_id = 'pull'", (unfinished,)
    )
    rows, blobs = pushed(deployment), pushed_blobs(deployment)
    assert len([key for key in blobs if "/large/" in key]) == 8

    reported = deployment.run("xcom_cleanup", mode="report")
    assert deployment.states("xcom_cleanup", reported) == REPORTED
    assert pushed(deployment) == rows
    assert pushed_blobs(deployment) == blobs

    refused = deployment.run("xcom_cleanup", mode="enforce", max_delete_rows=1, on_limit="refuse")
    assert deployment.airflow.run_state("xcom_cleanup", refused) == "failed"
    states = deployment.states("xcom_cleanup", refused)
    assert (states["plan"], states["approve"], states["finish"]) == ("failed", "upstream_failed", "failed")
    assert pushed(deployment) == rows
    [(event, message)] = deployment.news(refused)
    assert event == "plan_refused"
    assert "max_delete_rows" in message

    too_late = deployment.ask(approval_timeout_hours=0.0005)
    assert deployment.airflow.wait_run("xcom_cleanup", too_late) == "success"
    assert deployment.states("xcom_cleanup", too_late) == REJECTED
    report = deployment.report("xcom_cleanup", too_late)
    assert (report["status"], report["approval"]) == ("rejected", "rejected: no answer in time")

    rejected = deployment.ask()
    assert deployment.answer(rejected, "Reject") == "success"
    assert deployment.states("xcom_cleanup", rejected) == REJECTED
    report = deployment.report("xcom_cleanup", rejected)
    assert (report["status"], report["approval"]) == ("rejected", "rejected by admin")
    assert pushed(deployment) == rows
    assert pushed_blobs(deployment) == blobs

    enforced = deployment.ask(batch_rows=1, shard_rows=1)
    question = deployment.airflow.question("xcom_cleanup", enforced)
    planned = deployment.report("xcom_cleanup", enforced)["headline"]["rows_to_delete"]
    assert question["subject"].startswith(f"Delete {planned:,} XCom rows (")
    for words in ("max_delete_rows", "| pushes |", "older than max_age_days", f"| rows to delete | {planned} |"):
        assert words in question["body"]
    assert "raise the limit" not in question["body"]
    assert pushed(deployment) == rows
    assert deployment.answer(enforced, "Approve") == "success"
    assert deployment.states("xcom_cleanup", enforced) == ENFORCED
    report = deployment.report("xcom_cleanup", enforced)
    assert (report["status"], report["approval"]) == ("enforced", "approved by admin")
    [shares] = [table["rows"] for table in report["tables"] if table["title"] == "Rows deleted, by task"]
    tasks = deployment.airflow.task_instances("xcom_cleanup", enforced)
    assert len(shares) == 2 == len([task for task in tasks if task["task_id"] == "delete_rows"])
    assert sum(share[1] for share in shares) == report["headline"]["rows_deleted"]
    for run_id in (too_late, rejected, enforced):
        assert [event for event, _ in deployment.news(run_id)] == ["waiting_approval"]
    assert rows - pushed(deployment) == {row for row in rows if row[1] in {older, old}}
    why_blobs_stay = [table["rows"] for table in report["tables"] if table["title"] == "Blobs kept"]
    going = {key for key in blobs if f"/{older}/" in key or f"/{old}/" in key}
    assert blobs - pushed_blobs(deployment) == going, why_blobs_stay
    headline = deployment.report("xcom_cleanup", enforced)["headline"]
    assert headline["rows_deleted"] == deployment.report("xcom_cleanup", reported)["headline"]["rows_to_delete"]
    assert headline["blobs_deleted"] == 4
    assert deployment.news(reported) == []
    deadline = time.monotonic() + 20
    while "status.enforced" not in deployment.metrics.of("xcom_cleanup") and time.monotonic() < deadline:
        time.sleep(0.1)
    figures = deployment.metrics.of("xcom_cleanup")
    assert max(figures["rows_deleted"]) == headline["rows_deleted"]
    assert max(figures["blobs_deleted"]) == 4
    assert {"status.reported", "status.planned", "status.refused", "status.enforced"} <= set(figures)

    # Cleared, it goes through all of it again: nobody is asked again, and there is nothing left to do.
    rows, blobs = pushed(deployment), pushed_blobs(deployment)
    deployment.airflow.clear("xcom_cleanup", enforced, "approve")
    assert deployment.airflow.wait_run("xcom_cleanup", enforced) == "success"
    assert deployment.states("xcom_cleanup", enforced) == ENFORCED
    again = deployment.report("xcom_cleanup", enforced)
    assert (again["status"], again["approval"]) == ("enforced", "approved by admin")
    for name in ("rows_deleted", "blobs_deleted"):
        assert again["headline"][name] == headline[name]
    assert len(deployment.news(enforced)) == 1
    assert (pushed(deployment), pushed_blobs(deployment)) == (rows, blobs)


def test_archived_rows_come_back_with_the_values_that_they_had(deployment: Deployment) -> None:
    run_id = deployment.run("pushes")
    rows = pushed(deployment)
    root = f"file://{deployment.reports.parent}/archive"
    archive_rows(deployment.history, root, condition=f"x.run_id = '{run_id}'")
    assert rows - pushed(deployment) == {row for row in rows if row[1] == run_id}
    form = {"archive": "xcom_cleanup", "archive_path": root, "dag_ids": ["push*"]}
    reported = deployment.run("xcom_restore", **form)
    assert deployment.states("xcom_restore", reported) == {"plan": "success", "apply": "skipped"}
    enforced = deployment.run("xcom_restore", mode="enforce", **form)
    assert deployment.states("xcom_restore", enforced) == {"plan": "success", "apply": "success"}
    assert pushed(deployment) == rows
    headline = deployment.report("xcom_restore", enforced)["headline"]
    assert headline["rows_restored"] == headline["rows_to_restore"] == len([row for row in rows if row[1] == run_id])


def test_blobs_that_a_deleted_run_leaves_behind_are_found_and_moved_into_quarantine(deployment: Deployment) -> None:
    run_id, kept = deployment.run_side_by_side("pushes", 2)
    deployment.airflow.rest("DELETE", f"/api/v2/dags/pushes/dagRuns/{run_id}")
    orphans = {key for key in pushed_blobs(deployment) if f"/{run_id}/" in key}
    assert len(orphans) == 2
    deployment.bucket.set_age(dict.fromkeys(orphans, 30))
    before = pushed_blobs(deployment)
    reported = deployment.run("xcom_orphan_reconciliation", mode="report")
    found = dict.fromkeys(("plan", "split", "find", "decide", "approve"), "success")
    disposed = ("share_out", "sweep", "finish")
    states = deployment.states("xcom_orphan_reconciliation", reported)
    assert states == found | dict.fromkeys(disposed, "skipped")
    assert pushed_blobs(deployment) == before
    enforced = deployment.run("xcom_orphan_reconciliation", mode="enforce")
    states = deployment.states("xcom_orphan_reconciliation", enforced)
    assert states == found | dict.fromkeys(disposed, "success")
    assert before - pushed_blobs(deployment) == orphans
    assert any(f"/{kept}/" in key for key in pushed_blobs(deployment))


def test_the_audit_measures_and_its_xcom_is_small(deployment: Deployment) -> None:
    run_id = deployment.run("xcom_size_audit")
    assert deployment.states("xcom_size_audit", run_id) == {"audit": "success"}
    assert deployment.report("xcom_size_audit", run_id)["headline"]["rows"] > 0
    [(key, size)] = deployment.history.connection.execute(
        "SELECT key, octet_length(value::text) FROM xcom WHERE run_id = %s", (run_id,)
    ).fetchall()
    assert key == "return_value"
    assert size < 2_000
    log = deployment.airflow.task_log("xcom_size_audit", run_id, "audit")
    assert "rows above 48 KB" in log


def test_canaries_go_through_the_real_backend_and_leave_nothing_behind(deployment: Deployment) -> None:
    run_id = deployment.run("xcom_size_audit")
    report = deployment.report("xcom_size_audit", run_id)
    [table] = [table for table in report["tables"] if table["title"] == "Live probe"]
    results = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [result["error"] for result in results] == ["", "", ""]
    assert [result["value bytes"] for result in results] == [1024, 48 * 1024, 1024 * 1024]
    # All are above the threshold, and the stock backend compresses nothing here.
    assert all(result["stored in"] == "blob" and result["stored bytes"] > result["value bytes"] for result in results)
    assert all(0 < result["push seconds"] < 30 and 0 < result["pull seconds"] < 30 for result in results)
    assert all((result["intact"], result["removed"]) == ("yes", "yes") for result in results)
    assert not [row for row in deployment.history.rows() if "canary" in row[4]]
    # What the audit's task returned may be a blob itself; everything else is gone.
    returned = deployment.history.connection.execute(
        "SELECT value #>> '{}' FROM xcom WHERE dag_id = 'xcom_size_audit' AND key = 'return_value'"
    ).fetchall()
    kept = {key for key in deployment.bucket.listing() if "xcom_size_audit" in key}
    assert all(any(key in str(value) for (value,) in returned) for key in kept)


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        (
            {"metadata_conn_id": "nowhere"},
            ["no Connection 'nowhere'", "setting: metadata_conn_id", "AIRFLOW_CONN_NOWHERE"],
        ),
        ({"metadata_conn_id": "wrong_password"}, ["rejected the login or password", "metadata_conn_id=wrong_password"]),
        ({"blob_base_path": "s3://aws_xcom@no-such-bucket/x"}, ["'no-such-bucket'", "setting: blob_base_path"]),
        ({"max_aeg_days": 1}, ["Did you mean 'max_age_days'?"]),
    ],
)
def test_a_mistake_fails_at_once_and_is_explained_in_log_and_report(
    deployment: Deployment, conf: dict[str, Any], expected: list[str]
) -> None:
    rows = deployment.history.rows()
    run_id = deployment.run("xcom_cleanup", mode="enforce", **conf)
    assert deployment.airflow.run_state("xcom_cleanup", run_id) == "failed"
    [plan] = [t for t in deployment.airflow.task_instances("xcom_cleanup", run_id) if t["task_id"] == "plan"]
    assert plan["try_number"] == 1
    log = deployment.airflow.task_log("xcom_cleanup", run_id, "plan")
    message = deployment.report("xcom_cleanup", run_id)["error"]["message"]
    for words in expected:
        assert words in log
        assert words in message
    assert "open-sesame" not in log
    [(event, told)] = deployment.news(run_id)
    assert event == "failure"
    for words in expected:
        assert words in told
    assert rows <= deployment.history.rows()


def test_the_form_refuses_what_its_schema_forbids(deployment: Deployment) -> None:
    from local_stack.processes import StackError

    for conf in ({"mode": "delete"}, {"max_age_days": 0}, {"max_runs": -1}):
        with pytest.raises(StackError, match="400"):
            deployment.airflow.trigger("xcom_cleanup", conf)


def test_nobody_is_told_twice_of_a_run_that_failed(deployment: Deployment) -> None:
    """The worker tells; the DAG processor is asked too, a little later, and says no more."""
    run_id = deployment.run("xcom_cleanup", metadata_conn_id="nowhere")
    processor = deployment.airflow.logs / "dag_processor"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not any(
        run_id in path.read_text(errors="replace") for path in processor.rglob("xcom_cleanup*.log")
    ):
        time.sleep(0.5)
    time.sleep(1)
    assert [event for event, _ in deployment.news(run_id)] == ["failure"]
