"""
### XCom orphan reconciliation

Compares the blobs below the blob base path with the references in the metadata database, both ways.

* **Orphan blobs:** no row refers to them, and they are older than the grace period (`grace_period_days`, default 7). In
  `enforce` mode each is looked up again in the database and in the store, and deleted only if it is still an orphan and
  still unchanged.
* **Dangling references:** the row is there, the blob is gone; a task that pulls it gets the path as its value. They are
  reported.
* **Left alone:** objects whose name is of no known XCom backend, blobs of DAGs that this Airflow never knew, and
  everything outside the base path.

The guard stops the run, before anything is changed, if the findings look like a wrong database or a wrong base path.
The report lies under `<report path>/xcom_orphan_reconciliation/<run_id>.md`, beside a manifest that names every orphan.
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
    dag_id="xcom_orphan_reconciliation",
    schedule="0 3 * * 0",
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
    params=trigger_form.reconciliation(),
    doc_md=__doc__,
)
def xcom_orphan_reconciliation() -> None:
    @task(multiple_outputs=False)
    def find() -> dict[str, Any]:
        """Compare listing and references, and write down what is wrong; changes nothing."""
        from include.xcom_maintenance import tasks
        from include.xcom_maintenance.jobs import reconciliation

        return tasks.run_plan(reconciliation.find, may_delete=False)

    @task(multiple_outputs=False)
    def sweep(found: dict[str, Any]) -> dict[str, Any]:
        """Verify each orphan again and delete it; skipped in report mode."""
        from include.xcom_maintenance import tasks
        from include.xcom_maintenance.jobs import reconciliation

        return tasks.run_apply(reconciliation.apply, found, may_delete=False)

    sweep(find())


xcom_orphan_reconciliation()
