"""
### XCom orphan reconciliation

Compares the blobs below the blob base path with the references in the metadata database, in both directions.

* **Orphan blobs:** no row refers to them, and they are older than the grace period (`grace_period_days`, default 7).
  The report gives the probable cause of each. In `enforce` mode, each is checked again in the database and the store,
  and removed only if it is still an orphan and unchanged.
* **Disposal:** `quarantine` (the default) moves a blob to a folder beside the base path, from where `xcom_restore` can
  bring it back, and deletes it after `quarantine_days`; `delete` deletes it right away.
* **Dangling references:** the row is there but its blob is missing; a task that pulls the value gets the path instead.
  They are reported; with `delete_dangling_rows`, those of finished runs are deleted.
* **Left alone:** objects whose names match no known XCom backend or do not say which DAG they belong to, blobs of DAGs
  that this Airflow never knew, and everything outside the base path.

Several `find` tasks each search a range of keys; `decide` combines their findings. The guard stops the run before
anything is changed if the findings suggest a wrong database or base path; a plan that is merely large waits for
`approve`. The report is `<report path>/xcom_orphan_reconciliation/<run_id>.md`; the manifest beside it names every
orphan.
"""

from __future__ import annotations

import pkgutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import TriggerRule, dag, task

# Find `include/` beside this file or above it, and merge it with an existing `include` package.
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
        """Read the references and divide the keys into ranges."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.plan import plan

        return RECONCILIATION.plan(plan)

    @task(multiple_outputs=False)
    def split(planned: dict[str, Any]) -> list[dict[str, Any]]:
        """List the key ranges, one for each task."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.plan import split

        return RECONCILIATION.part(split, planned, reports=True)

    @task(multiple_outputs=False, map_index_template="{{ task.op_kwargs['shard']['shard'] }}")
    def find(planned: dict[str, Any], shard: dict[str, Any]) -> dict[str, Any]:
        """Compare the blobs in one key range with its references; changes nothing."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.find import find

        return RECONCILIATION.part(lambda job: find(job, shard), planned, reports=True)

    # If a reference cannot be read, there are no ranges and `find` is skipped, but the report is still due.
    @task(multiple_outputs=False, trigger_rule=TriggerRule.NONE_FAILED)
    def decide(planned: dict[str, Any]) -> dict[str, Any]:
        """Combine the findings into the manifest and the report, and apply the guard."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.decide import decide

        return RECONCILIATION.decide(decide, planned)

    @task(multiple_outputs=False)
    def share_out(found: dict[str, Any]) -> list[dict[str, Any]]:
        """Divide the orphans between tasks; skipped in report mode or if the plan was rejected."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.share_out import share_out

        return RECONCILIATION.part(share_out, found)

    # `finish` reports failed shares, once for all of them and with the counts.
    @task(
        multiple_outputs=False,
        map_index_template="{{ task.op_kwargs['shard']['shard'] }}",
        on_failure_callback=None,
    )
    def sweep(found: dict[str, Any], shard: dict[str, Any]) -> dict[str, Any]:
        """Recheck each orphan in one share, then quarantine or delete it."""
        from include.xcom_maintenance.bundle.flows import RECONCILIATION
        from include.xcom_maintenance.reconciliation.sweep_orphans import sweep_orphans

        return RECONCILIATION.part(lambda job: sweep_orphans(job, shard), found)

    @task(multiple_outputs=False, trigger_rule=TriggerRule.ALL_DONE)
    def finish(found: dict[str, Any] | None, shards: list[dict[str, Any]] | None) -> dict[str, Any]:
        """Purge the quarantine and write the report; fails if an earlier task failed."""
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
