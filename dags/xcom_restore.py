"""
### XCom restore

Puts back XCom rows that `xcom_cleanup` deleted, from its archive (`archive_path`). Triggered by hand.

* **What returns:** the rows of the chosen `archive`, limited to `dag_ids`, `run_ids` and `task_ids` if given, as long
  as their run and task instance still exist. They come back exactly as they were, timestamps included.
* **What does not:** existing rows are never changed. A row whose blob is gone is not restored, because a task would get
  a path instead of the value. The archive of another database is refused.
* **Blobs:** fill in `quarantine` to put back blobs that the reconciliation quarantined, of the chosen DAGs, runs and
  tasks. Existing blobs are never overwritten.
* **Mode:** `report` (the default) counts and changes nothing. `enforce` restores.
* **Before the next cleanup:** it would delete the rows again, so put a rule with `hold: true` first in `retention`.

Choose what to restore in the trigger form; other sources do not count. Paths and Connections are configured as for the
other DAGs. The report is `<report path>/xcom_restore/<run_id>.md`.
"""

from __future__ import annotations

import pkgutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task

# Find `include/` beside this file or above it, and merge it with an existing `include` package.
_HERE = Path(__file__).absolute()
_HOME = next((p for p in _HERE.parents if (p / "include" / "xcom_maintenance").is_dir()), _HERE.parent)
sys.path += [str(_HOME)] if str(_HOME) not in sys.path else []
import include

include.__path__ = pkgutil.extend_path(include.__path__, "include")

from include.xcom_maintenance.flow import callbacks
from include.xcom_maintenance.restore import form


@dag(
    dag_id="xcom_restore",
    schedule=None,
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
    params=form.fields(),
    doc_md=__doc__,
)
def xcom_restore() -> None:
    @task(multiple_outputs=False)
    def plan() -> dict[str, Any]:
        """Find out what can be restored; changes nothing."""
        from include.xcom_maintenance.bundle.flows import RESTORE
        from include.xcom_maintenance.restore.steps import plan

        return RESTORE.plan(plan)

    @task(multiple_outputs=False)
    def apply(planned: dict[str, Any]) -> dict[str, Any]:
        """Restore the rows or blobs; skipped in report mode."""
        from include.xcom_maintenance.bundle.flows import RESTORE
        from include.xcom_maintenance.restore.steps import apply

        return RESTORE.apply(apply, planned)

    apply(plan())


xcom_restore()
