"""
### XCom size audit

Tells what grows, whose it is, what will break next and what to do about it. The report begins with a scorecard and with
what to do, each with the DAG, task or key that it is about. Then come

* rows, stored and logical bytes, in the database and in blobs, by DAG, task, key and day; size bands with a
  recommendation each; what would leave the database at several thresholds of a backend; the largest entries;
* the trend over past audits, the days on which the table reaches 20 GB and 50 GB, pushes per DAG and day, and the DAGs
  whose growth changed most;
* values near the limits that break upgrades or tasks, rows that should not be there, mapped tasks with a large fan-out;
* heap, TOAST, indexes, bloat, dead rows, vacuums, the age of transactions, and the tables that `db clean` left;
* how long three canary values take through the XCom backend (they are removed again), and which of the newest values
  hold secrets: where, never what.

Reads the database only: a role that may `SELECT` is enough, and so is a read replica. What it reads of values has a
budget (`audit_budget_rows`, `_bytes`, `_seconds`); beyond it sizes are estimated from a sample, and the report says so.

A threshold that is crossed is told to the notifier; with `fail_on_breach` it fails the run, after the report is
written. Every audit updates the asset `xcom_size_audit`; its event has the headline of the report in `extra`, so a DAG
can run on it: `@dag(schedule=[Asset("xcom_size_audit")])`.

The report lies under `<report path>/xcom_size_audit/<run_id>.html` (and `.md`, `.json`); old reports of all DAGs of
this bundle are pruned.
"""

from __future__ import annotations

import pkgutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, dag, task

# `include/` lies beside this file or above it, wherever the bundle was dropped; it joins an `include` that is there.
_HERE = Path(__file__).absolute()
_HOME = next((p for p in _HERE.parents if (p / "include" / "xcom_maintenance").is_dir()), _HERE.parent)
sys.path += [str(_HOME)] if str(_HOME) not in sys.path else []
import include

include.__path__ = pkgutil.extend_path(include.__path__, "include")

from include.xcom_maintenance.flow import callbacks
from include.xcom_maintenance.size_audit import form

#: Updated by every audit, with the headline in the extra of the event.
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
