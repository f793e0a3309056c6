"""
### XCom size audit

Shows what grows, who owns it, what will break next and what to do about it. The report starts with a scorecard and a
list of actions, each with the DAG, task or key concerned. Then come:

* rows, stored bytes and logical bytes, in the database and in blobs, by DAG, task, key and day; size bands with a
  recommendation for each; what a backend would take out of the database at several thresholds; the largest entries;
* the trend over past audits, the days on which the table will reach 20 GB and 50 GB, pushes per DAG and day, and the
  DAGs whose growth changed most;
* values near the limits that break upgrades or tasks, rows that should not be there, mapped tasks with a large fan-out;
* heap, TOAST, indexes, bloat, dead rows, vacuums, transaction age, and the tables that `db clean` left behind;
* how long three canary values take through the XCom backend (they are removed afterwards), and which of the newest
  values contain secrets: the report says where, never what.

The audit only reads the database: a role with `SELECT` is enough, and so is a read replica. A budget limits how many
values it reads (`audit_budget_rows`, `_bytes`, `_seconds`); beyond it, sizes are estimated from a sample, and the
report says so.

When a threshold is crossed, the notifier is called; with `fail_on_breach` the run also fails, after its report is
written. Every audit updates the asset `xcom_size_audit`, with the report's headline in the event's `extra`, so a DAG
can be scheduled on it: `@dag(schedule=[Asset("xcom_size_audit")])`.

The report is `<report path>/xcom_size_audit/<run_id>.html` (and `.md`, `.json`). Each audit also prunes old reports of
all DAGs of this bundle.
"""

from __future__ import annotations

import pkgutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, dag, task

# Find `include/` beside this file or above it, and merge it with an existing `include` package.
_HERE = Path(__file__).absolute()
_HOME = next((p for p in _HERE.parents if (p / "include" / "xcom_maintenance").is_dir()), _HERE.parent)
sys.path += [str(_HOME)] if str(_HOME) not in sys.path else []
import include

include.__path__ = pkgutil.extend_path(include.__path__, "include")

from include.xcom_maintenance.flow import callbacks
from include.xcom_maintenance.size_audit import form

#: Updated by every audit, with the headline in the event's extra.
AUDITED = Asset("xcom_size_audit")


@dag(
    dag_id="xcom_size_audit",
    schedule="0 1 * * *",
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
def xcom_size_audit() -> None:
    @task(multiple_outputs=False, outlets=[AUDITED])
    def audit() -> dict[str, Any]:
        """Measure the table and write the report."""
        from airflow.sdk import get_current_context

        from include.xcom_maintenance.bundle.flows import SIZE_AUDIT, publish
        from include.xcom_maintenance.detection.secrets import SecretDetector
        from include.xcom_maintenance.size_audit.audit import audit
        from include.xcom_maintenance.xcom_backend.channel import TaskChannel

        context = get_current_context()
        summary = SIZE_AUDIT.plan(
            lambda job: audit(
                job,
                channel=TaskChannel.of(context, metadata=job.metadata, blobs=job.blobs),
                make_detector=SecretDetector,
            )
        )
        publish(AUDITED, summary)
        return summary

    audit()


xcom_size_audit()
