"""
### XCom restore

Puts back XCom rows that `xcom_cleanup` deleted, from the archive that it wrote of them (`archive_path`). Started by
hand.

* **What returns:** rows of the chosen `archive`, or those of `dag_ids`, `run_ids` and `task_ids` among them, whose run
  and task instance are still there. They return just as they were, timestamps included.
* **What does not:** a row that is there is left as it is; a row whose blob is gone stays away, since a task would be
  given a path instead of a value. An archive of another database is refused.
* **Blobs:** with `quarantine` filled in, puts blobs back that the reconciliation moved into quarantine, those of the
  chosen DAGs, runs and tasks; never over a blob that is there.
* **Mode:** `report` (the default) counts and changes nothing. `enforce` restores.
* **Before the next cleanup:** it would delete the rows again. Put a rule with `hold: true` first in `retention`.

The choice is made in the trigger form only; where things are, as for the other DAGs. The report lies under
`<report path>/xcom_restore/<run_id>.md`.
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
        """Find out which archived rows could return, and write it down; changes nothing."""
        from include.xcom_maintenance.bundle.flows import RESTORE
        from include.xcom_maintenance.restore.steps import plan

        return RESTORE.plan(plan)

    @task(multiple_outputs=False)
    def apply(planned: dict[str, Any]) -> dict[str, Any]:
        """Put the rows back; skipped in report mode."""
        from include.xcom_maintenance.bundle.flows import RESTORE
        from include.xcom_maintenance.restore.steps import apply

        return RESTORE.apply(apply, planned)

    apply(plan())


xcom_restore()
