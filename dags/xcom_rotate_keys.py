"""
### XCom key rotation

Re-encrypts values that still use old keys of this project's XCom backend (`xcom_blob_backend`), so that you can remove
those keys. The backend encrypts with the first configured key and only decrypts with the others. Trigger it by hand
once every worker has the new first key and the tasks that started before have ended.

* **`report`** (the default, whatever is configured for other DAGs) shows how much each key still encrypts, by DAG, and
  which keys you can remove because they encrypt nothing any more.
* **`enforce`** re-encrypts these values, in blobs and in rows, of unfinished runs too, and then counts again. A row is
  changed only if it still holds the value that was re-encrypted, and keeps its timestamp. The role needs
  `UPDATE (value)` on `xcom`.
* **No blob that a row refers to is overwritten, and none is deleted.** The old blobs become orphans, which
  `xcom_orphan_reconciliation` removes after the grace period.
* **Values whose key is not configured, and values that cannot be decrypted,** are left alone; the run fails at the end.

If a run is killed or reaches `max_minutes`, simply trigger it again. The report is
`<report path>/xcom_rotate_keys/<run_id>.md`.
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
        """Find out what each key encrypts; changes nothing."""
        from include.xcom_maintenance.bundle.flows import ROTATION
        from include.xcom_maintenance.key_rotation.plan import plan
        from include.xcom_maintenance.xcom_backend.vault import BackendVault

        return ROTATION.plan(lambda job: plan(job, BackendVault()))

    @task(multiple_outputs=False)
    def apply(planned: dict[str, Any]) -> dict[str, Any]:
        """Re-encrypt the values, then count again; skipped in report mode."""
        from include.xcom_maintenance.bundle.flows import ROTATION
        from include.xcom_maintenance.key_rotation.apply import apply
        from include.xcom_maintenance.xcom_backend.vault import BackendVault

        return ROTATION.apply(lambda job: apply(job, BackendVault()), planned)

    apply(plan())


xcom_rotate_keys()
