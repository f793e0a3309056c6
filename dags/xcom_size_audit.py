"""
### XCom size audit

Who takes the space in the `xcom` table: rows, stored bytes and share by DAG, task and key; the size bands below 1 KB,
1-10 KB, 10-48 KB, above 48 KB and above 10 MB; the largest entries; heap, TOAST and index size and dead rows. How
long three canary values take through the XCom backend (they are removed again), and which of the newest values hold
secrets: where, never what.

Reads the database only, so a role that may `SELECT` is enough. The report lies under
`<report path>/xcom_size_audit/<run_id>.html` (and `.md`, `.json`); old reports of all DAGs are pruned.
"""

from __future__ import annotations

import pkgutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task

# `include/` lies beside this file or above it, wherever the bundle was dropped; it joins an `include` that is there.
_HERE = Path(__file__).absolute()
_HOME = next((p for p in _HERE.parents if (p / "include" / "xcom_maintenance").is_dir()), _HERE.parent)
sys.path += [str(_HOME)] if str(_HOME) not in sys.path else []
import include

include.__path__ = pkgutil.extend_path(include.__path__, "include")

from include.xcom_maintenance import callbacks, trigger_form


@dag(
    dag_id="xcom_size_audit",
    schedule="0 1 * * *",
    start_date=datetime(2025, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "platform",
        "retries": 2,
        "retry_delay": timedelta(minutes=1),
        "on_failure_callback": callbacks.on_failure,
    },
    on_failure_callback=callbacks.on_run_failure,
    tags=["xcom", "maintenance"],
    params=trigger_form.size_audit(),
    doc_md=__doc__,
)
def xcom_size_audit() -> None:
    @task(multiple_outputs=False)
    def audit() -> dict[str, Any]:
        """Measure the table and write the report."""
        from airflow.sdk import get_current_context

        from include.xcom_maintenance import audit_parts, tasks
        from include.xcom_maintenance.jobs import size_audit

        parts = audit_parts.of_task(get_current_context())
        return tasks.run_plan(lambda job: size_audit.audit(job, *parts), may_delete=False, needs_blobs=False)

    audit()


xcom_size_audit()
