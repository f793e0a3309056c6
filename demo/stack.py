"""The deployment of the demo: Postgres, an S3 server, and Airflow with the stock object storage XCom backend."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.screen import Screen
from local_stack.airflow import Airflow
from local_stack.postgres import PostgresServer, migrate
from local_stack.s3 import RcloneS3

REPOSITORY = Path(__file__).resolve().parents[1]
DATABASE = "airflow"
BUCKET = "xcoms"
PREFIX = "airflow/xcom/"
#: Values of this many bytes of JSON and more go to object storage.
THRESHOLD = 1024
GRACE_PERIOD_DAYS = 7
#: The defaults, set all the same: the demo tells its story whatever the policy file in ``include/`` says.
POLICY = {
    "mode": "report",
    "max_age_days": 7,
    "min_runs": 1,
    "grace_period_days": GRACE_PERIOD_DAYS,
    "retention": [{"dag_ids": "*"}],
}


@dataclass(frozen=True)
class Stack:
    """The running servers, and where the maintenance DAGs put their reports."""

    postgres: PostgresServer
    s3: RcloneS3
    airflow: Airflow
    reports: Path
    archive: Path


@contextlib.contextmanager
def running_stack(folder: Path, screen: Screen) -> Iterator[Stack]:
    """Start everything in ``folder``; stop everything at the end, whatever the end is."""
    reports, archive = folder / "reports", folder / "archive"
    with contextlib.ExitStack() as servers:
        s3 = servers.enter_context(RcloneS3(folder / "s3"))
        s3.client().create_bucket(Bucket=BUCKET)
        screen.line(f"S3 server: {s3.endpoint}, bucket {BUCKET}, XComs under {PREFIX}")
        postgres = servers.enter_context(PostgresServer(folder / "postgres", durable=False))
        screen.line(f"Postgres: {postgres.host}:{postgres.port}, database {DATABASE}; creating Airflow's schema")
        postgres.create_database(DATABASE)
        migrate(postgres.url(DATABASE))
        postgres.grant_role(DATABASE, "GRANT INSERT")  # for xcom_restore
        screen.line("Airflow: starting scheduler, DAG processor, API server and triggerer")
        airflow = Airflow(
            folder / "airflow",
            postgres.url(DATABASE),
            env=_environment(postgres, s3, reports, archive),
            bundles={"xcom-maintenance": REPOSITORY, "workload": REPOSITORY / "demo" / "workload"},
        )
        _preload(airflow.home / "config")
        servers.enter_context(airflow)
        screen.line(f"Airflow is healthy: {airflow.url}")
        yield Stack(postgres, s3, airflow, reports, archive)
        screen.line("Stopping Airflow, Postgres and the S3 server")


def _preload(config: Path) -> None:
    """Have the scheduler import what every task needs that touches S3, so that its forked workers have it.

    Otherwise each task of the demo spends about a second of CPU on it, on what may be two slow cores.
    """
    config.mkdir(parents=True)
    modules = ["s3fs", "aiobotocore.session", "airflow.providers.amazon.aws.hooks.s3"]
    text = "".join(f"import {module}\n" for module in modules)
    (config / "airflow_local_settings.py").write_text(text, encoding="utf-8")


def _environment(postgres: PostgresServer, s3: RcloneS3, reports: Path, archive: Path) -> dict[str, str]:
    return {
        "AIRFLOW__CORE__XCOM_BACKEND": "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"s3://aws_xcom@{BUCKET}/{PREFIX.rstrip('/')}",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": str(THRESHOLD),
        "AIRFLOW_CONN_AWS_XCOM": s3.airflow_connection_json(),
        "AIRFLOW_CONN_AIRFLOW_METADATA_DB": json.dumps(postgres.role_connection(DATABASE)),
        "AIRFLOW_VAR_XCOM_MAINTENANCE": json.dumps(
            {
                "report_path": f"file://{reports}",
                "archive_path": f"file://{archive}",
                "delete_without_conditions": True,  # rclone ignores them
            }
            | POLICY
        ),
    }


def failed_task_logs(airflow: Airflow, dag_id: str, run_id: str, lines: int = 25) -> str:
    """The end of the log of each task of a run that failed or is to be tried again."""
    parts = []
    for task in airflow.task_instances(dag_id, run_id):
        if task["state"] in {"failed", "up_for_retry"}:
            log = airflow.task_log(dag_id, run_id, task["task_id"], max(1, task["try_number"]), task["map_index"])
            parts.append(f"--- task {task['task_id']}, try {task['try_number']}")
            parts += log.splitlines()[-lines:]
    return "\n".join(parts)
