"""The live probe through Airflow's own backend, which keeps values in the database: a whole run in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from local_stack.processes import clean_environment
from tests.conftest import REPOSITORY, Database
from tests.support.history import History
from tests.support.schema import valid


def test_canaries_in_the_database_are_measured_and_removed(
    database: Database, history: History, tmp_path: Path
) -> None:
    server = database.server
    env = {
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": server.url(database.name),
        "AIRFLOW_CONN_AIRFLOW_METADATA_DB": json.dumps(server.role_connection(database.name)),
        "AIRFLOW_VAR_XCOM_MAINTENANCE": json.dumps({"report_path": f"file://{tmp_path}/reports"}),
    }
    command = [sys.executable, "-m", "airflow", "dags", "test", "xcom_size_audit"]
    done = subprocess.run(
        command, env=clean_environment(env), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    found = list((tmp_path / "reports" / "xcom_size_audit").glob("*.json"))
    assert found, done.stdout[-3_000:] + done.stderr[-3_000:]
    report = valid(json.loads(found[0].read_text()))
    assert report["status"] == "audited", report["error"]
    [table] = [table for table in report["tables"] if table["title"] == "Live probe"]
    results = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [(r["error"], r["stored in"], r["intact"], r["removed"]) for r in results] == [
        ("", "database", "yes", "yes")
    ] * 3
    # Postgres compresses what is above 2 KB.
    assert [0.2 < result["reduction share"] < 0.8 for result in results] == [False, True, True]
    assert not [row for row in history.rows() if "canary" in row[4]]
