"""
### XCom offload

Moves large values from the `xcom` table into blobs of this project's XCom backend, or back. Triggered by hand; made for
an Airflow that has switched to that backend and still has years of large values in its database.

* **What moves:** values of finished runs that have at least `offload_threshold_bytes` (default: the backend's own
  threshold). Each value is written to a blob exactly as its row holds it, and the row then refers to the blob. Tasks
  read the same value as before.
* **What stays:** values of unfinished runs; values that may name other blobs and so protect them; values that the
  scheduler reads itself; rows that change in the meantime.
* **Safety:** a canary first proves that the active backend can read what the rows would hold. Each blob is written and
  read back before its row changes; the row is locked, and changes only if it still holds the value that was read.
* **Back:** `direction: inline`, for instance before you switch to another backend. `xcom_orphan_reconciliation` then
  takes care of the blobs.
* **Mode:** `report` (the default) shows what would move, how well it compresses and how much space that frees.
  `enforce` moves the values.
* **With another backend,** it only reports what you could gain.

Choose mode, direction and DAGs in the trigger form; other sources do not count. The report is
`<report path>/xcom_offload_large_values/<run_id>.md`.
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
from include.xcom_maintenance.offload import form


@dag(
    dag_id="xcom_offload_large_values",
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
def xcom_offload_large_values() -> None:
    @task(multiple_outputs=False)
    def plan() -> dict[str, Any]:
        """Find the values to move and estimate what that would gain; changes nothing."""
        from include.xcom_maintenance.bundle.flows import OFFLOAD
        from include.xcom_maintenance.offload.plan import plan
        from include.xcom_maintenance.xcom_backend import mover

        return OFFLOAD.plan(lambda job: plan(job, mover.active()))

    @task(multiple_outputs=False)
    def apply(planned: dict[str, Any]) -> dict[str, Any]:
        """Move the values; skipped in report mode."""
        from include.xcom_maintenance.bundle.flows import OFFLOAD
        from include.xcom_maintenance.offload.apply import apply
        from include.xcom_maintenance.xcom_backend import mover

        return OFFLOAD.apply(lambda job: apply(job, mover.active()), planned)

    apply(plan())


xcom_offload_large_values()
