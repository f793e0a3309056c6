"""
### XCom cleanup

Deletes XCom rows that the retention rules no longer keep, then the blobs that those rows referred to.

* **What is deleted:** rows pushed more than `max_age_days` ago (default 7) and, if `max_runs` is set, rows beyond the
  newest `max_runs` finished runs of a DAG. Rules match by DAG, tag, task and key; the first rule that matches a row
  decides.
* **What stays, whatever its age:** rows of runs that are not finished or have an unfinished task; rows of the newest
  `min_runs` finished runs of each DAG (default 1); rows held by a rule.
* **Mode:** `report` (the default) writes the plan and changes nothing. `enforce` carries it out: `plan` writes it,
  `approve` asks a person if it exceeds a limit (no answer means no), `share_out` divides it, `delete_rows` deletes rows
  in short transactions, `finish` deletes the blobs and writes the report.
* **Archive:** with `archive_path` set, rows are archived before they are deleted; `xcom_restore` puts them back.

Settings come from the trigger form, then the Airflow Variable `xcom_maintenance`, then
`include/xcom_maintenance.yaml`. The report is `<report path>/xcom_cleanup/<run_id>.md`; its last table shows where each
setting came from.
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

from include.xcom_maintenance.cleanup import form
from include.xcom_maintenance.flow import approval, callbacks


@dag(
    dag_id="xcom_cleanup",
    schedule="0 2 * * *",
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
def xcom_cleanup() -> None:
    @task(multiple_outputs=False)
    def plan() -> dict[str, Any]:
        """Plan what to delete and what to keep; changes nothing."""
        from include.xcom_maintenance.bundle.flows import CLEANUP
        from include.xcom_maintenance.cleanup.plan import plan

        return CLEANUP.plan(plan)

    @task(multiple_outputs=False)
    def share_out(planned: dict[str, Any]) -> list[dict[str, Any]]:
        """Divide the plan between tasks; skipped in report mode or if the plan was rejected."""
        from include.xcom_maintenance.bundle.flows import CLEANUP
        from include.xcom_maintenance.cleanup.share_out import share_out

        return CLEANUP.part(share_out, planned)

    # `finish` reports failed shares, once for all of them and with the counts.
    @task(
        multiple_outputs=False,
        map_index_template="{{ task.op_kwargs['shard']['shard'] }}",
        on_failure_callback=None,
    )
    def delete_rows(planned: dict[str, Any], shard: dict[str, Any]) -> dict[str, Any]:
        """Delete one share's rows in short transactions that recheck every condition."""
        from include.xcom_maintenance.bundle.flows import CLEANUP
        from include.xcom_maintenance.cleanup.delete_rows import delete_rows

        return CLEANUP.part(lambda job: delete_rows(job, shard), planned)

    @task(multiple_outputs=False, trigger_rule=TriggerRule.ALL_DONE)
    def finish(planned: dict[str, Any] | None, shards: list[dict[str, Any]] | None) -> dict[str, Any]:
        """Delete the blobs of deleted rows and write the report; fails if an earlier task failed."""
        from include.xcom_maintenance.bundle.flows import CLEANUP
        from include.xcom_maintenance.cleanup.finish import finish

        return CLEANUP.finish(lambda job: finish(job, shards or []), planned, begun=shards is not None)

    planned = plan()
    approved = approval.ApproveLargePlan(task_id="approve", planned=planned)
    shards = share_out(planned)
    deleted = delete_rows.partial(planned=planned).expand(shard=shards)
    approved >> shards
    deleted >> finish(planned, shards)


xcom_cleanup()
