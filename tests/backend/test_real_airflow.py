"""Real tasks under a real scheduler that push and pull through the backend, to an S3 server, encrypted."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local_stack.airflow import Airflow
from local_stack.postgres import PostgresServer
from local_stack.s3 import RcloneS3
from tests.backend.conftest import KEYS
from tests.conftest import REPOSITORY, Database
from tests.support.bucket import Bucket
from tests.support.collectors import Statsd
from tests.support.databases import Databases
from tests.support.history import History

pytestmark = pytest.mark.e2e

USER_DAG = """
from datetime import timedelta

from airflow.sdk import dag, get_current_context, task
from airflow.sdk.bases.xcom import BaseXCom


def pad(n):
    return {"n": n, "nested": (1, [2, (3,)]), "pad": "x" * 5000}


@dag(schedule=None, default_args={"retries": 1, "retry_delay": timedelta(seconds=0)})
def pushes():
    @task
    def small():
        return {"small": (1, 2)}

    @task
    def mapped(n):
        return pad(n)

    @task
    def fails_first(ti=None):
        ti.xcom_push(key="attempt", value=pad(ti.try_number))
        if ti.try_number == 1:
            raise RuntimeError("the first try fails after its push")
        return pad(-1)

    @task.branch
    def branch():
        return "taken"

    @task
    def taken():
        return pad(-2)

    @task
    def not_taken():
        raise AssertionError("it is to be skipped")

    @task
    def pull(lazy, small_value, ti=None):
        expected = [pad(n) for n in range(4)]
        assert len(lazy) == 4
        assert lazy[2] == expected[2]
        assert lazy[1:3] == expected[1:3]
        assert list(lazy) == expected
        assert [value["nested"] for value in lazy] == [(1, [2, (3,)])] * 4
        assert ti.xcom_pull(task_ids="mapped", map_indexes=[3, 0]) == [expected[3], expected[0]]
        assert ti.xcom_pull(task_ids=["mapped", "small"])[-1] == {"small": (1, 2)}
        assert small_value == {"small": (1, 2)}
        assert ti.xcom_pull(task_ids="fails_first", key="attempt")["n"] > 1
        return "pulled"

    @task
    def pull_of_a_former_run(ti=None):
        former = ti.xcom_pull(task_ids="first_run_only", key="kept", include_prior_dates=True)
        assert former == (None if get_current_context()["params"]["first"] else pad("kept"))

    @task
    def first_run_only(ti=None):
        if get_current_context()["params"]["first"]:
            ti.xcom_push(key="kept", value=pad("kept"))

    if hasattr(BaseXCom, "aset"):

        @task
        async def asynchronous(ti=None):
            import asyncio

            await asyncio.gather(*(ti.axcom_push(key=f"k{n}", value=pad(n)) for n in range(12)))
            assert await ti.axcom_pull(task_ids="asynchronous", key="k3") == pad(3)
            assert (await ti.axcom_pull(task_ids="mapped"))[1] == pad(1)

    else:  # Airflow before 3.2

        @task
        def asynchronous(ti=None):
            for n in range(12):
                ti.xcom_push(key=f"k{n}", value=pad(n))
            assert ti.xcom_pull(task_ids="asynchronous", key="k3") == pad(3)

    pulled = pull(mapped.expand(n=[0, 1, 2, 3]), small())
    fails_first() >> pulled
    pulled >> asynchronous()
    branch() >> [taken(), not_taken()]
    pull_of_a_former_run() >> first_run_only()


dag = pushes()
dag.params["first"] = True
"""


METRICS = ("blob", "inline", "raw_bytes", "stored_bytes")
OFFLOAD = "xcom_offload_large_values"


@dataclass
class Deployment:
    airflow: Airflow
    history: History
    bucket: Bucket
    base: str
    keys: Path
    metrics: Statsd
    #: The run of ``pushes`` that ended last.
    latest: str = ""

    def configure_keys(self, *names: str) -> None:
        """What every task that begins from now on seals and opens with."""
        self.keys.write_text("\n".join(f"{name}:{KEYS[name]}" for name in names))

    def blobs(self) -> list[str]:
        return sorted(key.removeprefix("xcom/") for key in self.bucket.listing())

    def references(self) -> list[str]:
        """What the rows refer to, relative to the base path."""
        rows = self.history.connection.execute("SELECT value #>> '{__data__,uri}' FROM xcom").fetchall()
        return sorted(uri.removeprefix(self.base + "/") for (uri,) in rows if uri)

    def states(self, run_id: str) -> set[tuple[str, str]]:
        return {(task["task_id"], task["state"]) for task in self.airflow.task_instances("pushes", run_id)}

    def run(self, **conf: Any) -> str:
        run_id = self.airflow.trigger("pushes", conf)
        state = self.airflow.wait_run("pushes", run_id, timeout=300)
        failed = [task for task in self.airflow.task_instances("pushes", run_id) if task["state"] == "failed"]
        logs = [self.airflow.task_log("pushes", run_id, t["task_id"], t["try_number"], t["map_index"]) for t in failed]
        assert state == "success", "\n\n".join(logs)
        self.latest = run_id
        return run_id


@pytest.fixture(scope="module")
def deployment(
    postgres: PostgresServer, databases: Databases, rclone: RcloneS3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    folder: Path = tmp_path_factory.mktemp("backend")
    name = databases.take()
    bucket = Bucket(rclone, f"bucket-{uuid.uuid4().hex[:12]}")
    (folder / "dags").mkdir()
    (folder / "keys").write_text(f"old:{KEYS['old']}")
    postgres.grant_role(name, "GRANT UPDATE (value)")
    (folder / "dags" / "pushes.py").write_text(USER_DAG)
    env = {
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__XCOM_BACKEND": "xcom_blob_backend.XComBlobBackend",
        "AIRFLOW__XCOM_BLOB_BACKEND__PATH": bucket.base,
        "AIRFLOW__XCOM_BLOB_BACKEND__THRESHOLD": "1000",
        "AIRFLOW__XCOM_BLOB_BACKEND__ENCRYPTION_KEYS_FILE": str(folder / "keys"),
        "AIRFLOW__XCOM_BLOB_BACKEND__ENCRYPT_INLINE": "true",
        "AIRFLOW_CONN_AWS_XCOM": rclone.airflow_connection_json(),
        "AIRFLOW_CONN_AIRFLOW_METADATA_DB": json.dumps(postgres.role_connection(name)),
        "AIRFLOW_VAR_XCOM_MAINTENANCE": json.dumps({"report_path": f"file://{folder}/reports"}),
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",  # no DAG file changes
    }
    bundles = {"maintenance": REPOSITORY, "user": folder / "dags"}
    with (
        Database(postgres, name).connect(autocommit=True) as connection,
        Statsd() as metrics,
        Airflow(folder / "airflow", postgres.url(name), env=env | metrics.environment, bundles=bundles) as airflow,
    ):
        airflow.wait_healthy()
        for dag_id in ("pushes", "xcom_rotate_keys"):
            airflow.wait_for_dag(dag_id)
            airflow.unpause(dag_id)
        yield Deployment(airflow, History(connection), bucket, bucket.base.rstrip("/"), folder / "keys", metrics)


def test_real_tasks_get_what_others_pushed(deployment: Deployment) -> None:
    """Mapped tasks, lazy sequences, a retry, a branch, former runs, asynchronous tasks, and what is left behind."""
    first = deployment.run(first=True)
    assert ("not_taken", "skipped") in deployment.states(first)
    # 4 mapped, 2 of the retried task (what its first try pushed is gone), 1 of the branch, 1 kept, 12 asynchronous.
    assert len(deployment.references()) == 20
    # The first push of the failed try was deleted when the second began; nothing was written over.
    assert deployment.blobs() == deployment.references()

    second = deployment.run(first=False)
    assert len(deployment.references()) == 39
    assert deployment.blobs() == deployment.references()

    deployment.airflow.clear("pushes", second, "mapped", "fails_first")
    assert deployment.airflow.wait_run("pushes", second, timeout=300) == "success"
    assert len(deployment.references()) == 39
    assert deployment.blobs() == deployment.references()

    # The API shows what a row holds, and asks no store for it; no value is in the database in the clear.
    path = f"/api/v2/dags/pushes/dagRuns/{second}/taskInstances/mapped/xcomEntries/return_value"
    shown = str(deployment.airflow.rest("GET", path, params={"map_index": 1, "deserialize": True})["value"])
    assert "BlobReference" in shown
    clear = "SELECT count(*) FROM xcom WHERE key <> 'skipmixin_key' AND value::text NOT LIKE '%xcom_blob_backend.%'"
    assert deployment.history.connection.execute(clear).fetchone() == (0,)


def test_every_push_and_pull_of_real_tasks_is_measured(deployment: Deployment) -> None:
    if not deployment.latest:
        deployment.run(first=True)
    for direction in ("push", "pull"):
        prefix = f"airflow.xcom_blob_backend.{direction}."
        measured = {name: deployment.metrics.received[prefix + name] for name in METRICS}
        assert all(measured.values())
        assert len(measured["blob"]) >= 12
        assert min(measured["blob"] + measured["inline"]) > 0
        # The padding of these values compresses well.
        assert sum(measured["raw_bytes"]) > 2 * sum(measured["stored_bytes"])


def test_after_a_rotation_of_keys_real_tasks_need_nothing_but_the_new_one(deployment: Deployment) -> None:
    run_id = deployment.latest or deployment.run(first=True)
    former = set(deployment.references())
    deployment.configure_keys("new", "old")
    rotation = deployment.airflow.trigger("xcom_rotate_keys", {"mode": "enforce"})
    assert deployment.airflow.wait_run("xcom_rotate_keys", rotation, timeout=300) == "success"
    folder = deployment.keys.parent / "reports" / "xcom_rotate_keys"
    headline = json.loads((folder / f"{rotation}.json").read_text())["headline"]
    assert headline["values_reencrypted"] > len(former)
    assert (headline["values_under_old_keys"], headline["removable_keys"]) == (0, "old")
    assert not former & set(deployment.references())
    assert former < set(deployment.blobs())

    deployment.configure_keys("new")
    deployment.airflow.clear("pushes", run_id, "pull")
    assert deployment.airflow.wait_run("pushes", run_id, timeout=300) == "success"


def test_a_missing_blob_fails_the_task_that_pulls_it_and_says_why(deployment: Deployment) -> None:
    run_id = deployment.run(first=not deployment.references())
    key = next(key for key in deployment.blobs() if key.startswith(f"pushes/{run_id}/mapped/"))
    deployment.bucket.client.delete_object(Bucket=deployment.bucket.name, Key=f"xcom/{key}")
    deployment.airflow.clear("pushes", run_id, "pull")
    assert deployment.airflow.wait_run("pushes", run_id, timeout=300) == "failed"
    log = deployment.airflow.task_log("pushes", run_id, "pull", 2)
    assert "BlobMissing" in log
    assert key in log


def test_large_values_from_before_the_switch_move_there_and_back_under_a_real_scheduler(deployment: Deployment) -> None:
    """In a supervised task, whose Connections come from the supervisor, and which cannot reach Airflow's ORM."""
    airflow, connection = deployment.airflow, deployment.history.connection
    run = deployment.history.run("before", 10)
    value = {"n": 1, "rows": [{"id": n, "name": "x" * 20} for n in range(100)]}
    for key in ("a", "b", "c"):
        deployment.history.xcom(run, value, age_days=10, key=key)
    airflow.wait_for_dag(OFFLOAD)
    airflow.unpause(OFFLOAD)

    def move(**conf: Any) -> set[str]:
        run_id = airflow.trigger(OFFLOAD, {"mode": "enforce", "dag_ids": "before", **conf})
        assert airflow.wait_run(OFFLOAD, run_id, timeout=300) == "success"
        rows = connection.execute("SELECT value ->> '__classname__' FROM xcom WHERE dag_id = 'before'").fetchall()
        return {str(classname) for (classname,) in rows}

    assert move(offload_threshold_bytes=1024) == {"xcom_blob_backend.BlobReference"}
    assert len([name for name in deployment.blobs() if name.startswith("before/")]) == 3
    # Small values are encrypted here, so what comes back is.
    assert move(direction="inline") == {"xcom_blob_backend.SealedValue"}
