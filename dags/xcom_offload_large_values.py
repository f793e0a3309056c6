"""
### XCom offload

Moves large values that are in the `xcom` table into the blobs of this project's XCom backend, or brings them back.
Started by hand; made for an Airflow that has switched to that backend and has years of large values in its database.

* **What moves:** values of finished runs from `offload_threshold_bytes` on (default: the backend's own threshold). Each
  goes into a blob just as it is in its row, and the row then refers to the blob. Tasks get the same value as before.
* **What stays:** values of runs that are not finished; values that may name other blobs, which would lose their
  protection; what the scheduler reads itself; a row that changes in between.
* **Safety:** a canary shows that the backend which this Airflow uses reads what rows would hold. A blob is written and
  read back before its row changes; the row is locked, and changes only if it holds what was read.
* **Back:** `direction: inline`, for instance before you switch to another backend. The blobs are left to
  `xcom_orphan_reconciliation`.
* **Mode:** `report` (the default) says what would move, how far it would shrink and what that frees. `enforce` moves.
* **Without the backend** it says what could be gained by it, and changes nothing.

Mode, direction and DAGs are chosen in the trigger form only. The report lies under
`<report path>/xcom_offload_large_values/<run_id>.md`.
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
        """Find the values that would move, and say what that would give; changes nothing."""
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
