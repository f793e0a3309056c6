"""
### XCom orphan reconciliation

Compares the blobs below the blob base path with the references in the metadata database, both ways.

* **Orphan blobs:** no row refers to them, and they are older than the grace period (`grace_period_days`, default 7).
  The report tells the probable cause of each. In `enforce` mode each is looked up again in the database and in the
  store, and disposed of only if it is still an orphan and still unchanged.
* **Disposal:** `quarantine` (the default) moves a blob beside the base path, from where `xcom_restore` takes it back,
  and deletes it after `quarantine_days`; `delete` deletes it.
* **Dangling references:** the row is there, the blob is gone; a task that pulls it gets the path as its value. They
  are reported.
* **Left alone:** objects whose name is of no known XCom backend or does not say whose they are, blobs of DAGs that
  this Airflow never knew, and everything outside the base path.

Several tasks `find`, each in a range of keys; `decide` joins what they found. The guard stops the run, before
anything is changed, if the findings look like a wrong database or a wrong base path; a plan that is merely large
waits for `approve`. The report lies under `<report path>/xcom_orphan_reconciliation/<run_id>.md`, beside a manifest
that names every orphan.
"""

from __future__ import annotations

import pkgutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import TriggerRule, dag, task

# `include/` lies beside this file or above it, wherever the bundle was dropped; it joins an `include` that is there.
_HERE = Path(__file__).absolute()
_HOME = next((p for p in _HERE.parents if (p / "include" / "xcom_maintenance").is_dir()), _HERE.parent)
sys.path += [str(_HOME)] if str(_HOME) not in sys.path else []
import include

include.__path__ = pkgutil.extend_path(include.__path__, "include")

from include.xcom_maintenance.flow import approval, callbacks
from include.xcom_maintenance.reconciliation import form


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
    params=form.fields(),
    doc_md=__doc__,
)
def xcom_orphan_reconciliation() -> None:
    @task(multiple_outputs=False)
    def plan() -> dict[str, Any]:
        """Read the references, and divide the keys between tasks."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.plan import plan

        return RECONCILIATION.plan(plan)

    @task(multiple_outputs=False)
    def split(planned: dict[str, Any]) -> list[dict[str, Any]]:
        """The ranges of keys, one for each task."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.plan import split

        return RECONCILIATION.part(split, planned, reports=True)

    @task(multiple_outputs=False, map_index_template="{{ task.op_kwargs['shard']['shard'] }}")
    def find(planned: dict[str, Any], shard: dict[str, Any]) -> dict[str, Any]:
        """Compare the listing of a range of keys with its references; changes nothing."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.find import find

        return RECONCILIATION.part(lambda job: find(job, shard), planned, reports=True)

    # Without a range, which is if a reference cannot be read, there is nothing to find but something to say.
    @task(multiple_outputs=False, trigger_rule=TriggerRule.NONE_FAILED)
    def decide(planned: dict[str, Any]) -> dict[str, Any]:
        """Join what was found into the manifest and the report; the guard looks at it."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.decide import decide

        return RECONCILIATION.decide(decide, planned)

    @task(multiple_outputs=False)
    def share_out(found: dict[str, Any]) -> list[dict[str, Any]]:
        """Divide the orphans between tasks; skipped in report mode and if the plan was rejected."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.share_out import share_out

        return RECONCILIATION.part(share_out, found)

    # Of a share that failed `finish` tells, once for all of them and with the counts.
    @task(
        multiple_outputs=False,
        map_index_template="{{ task.op_kwargs['shard']['shard'] }}",
        on_failure_callback=None,
    )
    def sweep(found: dict[str, Any], shard: dict[str, Any]) -> dict[str, Any]:
        """Verify each orphan of a share again, and dispose of it."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.sweep_orphans import sweep_orphans

        return RECONCILIATION.part(lambda job: sweep_orphans(job, shard), found)

    @task(multiple_outputs=False, trigger_rule=TriggerRule.ALL_DONE)
    def finish(found: dict[str, Any] | None, shards: list[dict[str, Any]] | None) -> dict[str, Any]:
        """Purge the quarantine and write the report; fails if a task before it did."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.finish import finish

        return RECONCILIATION.finish(lambda job: finish(job, shards or []), found, begun=shards is not None)

    planned = plan()
    looked = find.partial(planned=planned).expand(shard=split(planned))
    found = decide(planned)
    approved = approval.ApproveLargePlan(task_id="approve", planned=found)
    shards = share_out(found)
    swept = sweep.partial(found=found).expand(shard=shards)
    looked >> found
    approved >> shards
    swept >> finish(found, shards)


xcom_orphan_reconciliation()
