"""
### XCom key rotation

Re-encrypts what old keys hold, so that they can be taken out of the configuration. For the XCom backend of this project
(`xcom_blob_backend`), whose first key seals and whose others only open. Started by hand, after a new first key has
reached every worker and the tasks that began before are over.

* **`report`** (the default, whatever is configured for other DAGs) says which key holds how much, of which DAG, and
  which keys may be removed: those that seal no value any more.
* **`enforce`** seals each of these values again, in blobs and in rows, of unfinished runs too, and counts again. A row
  is changed only if it still holds what was sealed again, and keeps its timestamp. The role needs the right
  `UPDATE (value)` on `xcom`.
* **No blob is overwritten that a row refers to, and none is deleted.** The former ones are orphans, which
  `xcom_orphan_reconciliation` disposes of after the grace period.
* **Left alone, and the run fails in the end:** values whose key is not configured, and those that do not open.

A run that was killed or has used up `max_minutes` is simply started again. The report lies under
`<report path>/xcom_rotate_keys/<run_id>.md`.
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
from include.xcom_maintenance.key_rotation import form


@dag(
    dag_id="xcom_rotate_keys",
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
def xcom_rotate_keys() -> None:
    @task(multiple_outputs=False)
    def plan() -> dict[str, Any]:
        """Find out which key holds what, and write it down; changes nothing."""
        from include.xcom_maintenance.bundle.flows import ROTATION
        from include.xcom_maintenance.key_rotation.plan import plan
        from include.xcom_maintenance.xcom_backend.vault import BackendVault

        return ROTATION.plan(lambda job: plan(job, BackendVault()))

    @task(multiple_outputs=False)
    def apply(planned: dict[str, Any]) -> dict[str, Any]:
        """Re-encrypt, and count again; skipped in report mode."""
        from include.xcom_maintenance.bundle.flows import ROTATION
        from include.xcom_maintenance.key_rotation.apply import apply
        from include.xcom_maintenance.xcom_backend.vault import BackendVault

        return ROTATION.apply(lambda job: apply(job, BackendVault()), planned)

    apply(plan())


xcom_rotate_keys()
