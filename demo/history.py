"""The history of the demo: real runs of the workload, which are then made as old as the demo needs them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg import sql

from demo.screen import Screen
from demo.stack import BUCKET, DATABASE, PREFIX, Stack, failed_task_logs
from local_stack.processes import StackError, wait_until

SALES, IMPORT, APPROVAL = "sales_report", "partner_import", "invoice_approval"
WORKLOAD = (SALES, IMPORT, APPROVAL)


@dataclass(frozen=True)
class Run:
    """One run of the workload and the age it is given afterwards."""

    dag_id: str
    run_id: str
    age_days: int


@dataclass(frozen=True)
class History:
    """The finished runs, and the one that waits for a person."""

    finished: tuple[Run, ...]
    unfinished: Run

    def find(self, dag_id: str, age_days: int) -> Run:
        """The finished run of this age."""
        return next(run for run in self.finished if (run.dag_id, run.age_days) == (dag_id, age_days))


#: Ages in days. The trouble picks its victims from these by age.
_AGES = {SALES: (60, 50, 40, 25, 20, 14, 2, 1, 0), IMPORT: (50, 25, 15, 9)}
_APPROVED_AGE, _UNFINISHED_AGE = 12, 20


def make_history(stack: Stack, screen: Screen) -> History:
    """Run the workload for real, then backdate it."""
    for dag_id in WORKLOAD:
        stack.airflow.wait_for_dag(dag_id)
        stack.airflow.unpause(dag_id)
    unfinished, approved = (_trigger(stack, APPROVAL, age) for age in (_UNFINISHED_AGE, _APPROVED_AGE))
    runs = [_trigger(stack, dag_id, age) for dag_id, ages in _AGES.items() for age in ages]
    screen.line(f"Triggered {len(runs) + 2} runs of {', '.join(WORKLOAD)}")
    _wait_for_all(stack, screen, runs)
    for run in (unfinished, approved):
        _wait_for_person(stack, run)
    screen.line(f"Both runs of {APPROVAL} wait for approval; one is approved, the other stays unfinished")
    _approve(stack, approved)
    _wait_for_all(stack, screen, [approved])
    runs.append(approved)

    screen.line("Backdating these runs: timestamps in the database, modification times in the bucket")
    for run in (*runs, unfinished):
        _backdate(stack, run)
    oldest = max(run.age_days for run in runs)
    screen.detail(f"they are now up to {oldest} days old; the unfinished run is {_UNFINISHED_AGE} days old")
    return History(tuple(runs), unfinished)


def _trigger(stack: Stack, dag_id: str, age_days: int) -> Run:
    date = datetime.now(UTC) - timedelta(days=age_days)
    body = {
        # Airflow 3 runs may have no logical date: those of the approval have none.
        "logical_date": None if dag_id == APPROVAL else date.isoformat(),
        "dag_run_id": f"manual__{date:%Y-%m-%dT%H:%M:%S}+00:00",
    }
    stack.airflow.rest("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)
    return Run(dag_id, body["dag_run_id"] or "", age_days)


def _approve(stack: Stack, run: Run) -> None:
    stack.airflow.answer(run.dag_id, run.run_id, "Approve")


def _wait_for_person(stack: Stack, run: Run, timeout: float = 240) -> None:
    def waits() -> bool:
        states = {ti["task_id"]: ti["state"] for ti in stack.airflow.task_instances(run.dag_id, run.run_id)}
        if "failed" in states.values():
            logs = failed_task_logs(stack.airflow, run.dag_id, run.run_id)
            raise StackError(f"{run.dag_id} failed (run {run.run_id})\n{logs}")
        return states["approve"] in {"awaiting_input", "deferred"}

    wait_until(waits, timeout=timeout, what=f"{run.dag_id} {run.run_id} is not waiting for approval", interval=0.5)


def _wait_for_all(stack: Stack, screen: Screen, runs: list[Run], timeout: float = 240) -> None:
    """Wait until all runs succeeded, and show every few seconds how far they are."""
    deadline, shown = time.monotonic() + timeout, time.monotonic()
    waiting = list(runs)
    while waiting:
        found = stack.airflow.rest("GET", "/api/v2/dags/~/dagRuns", params={"limit": 100})["dag_runs"]
        states = {(run["dag_id"], run["dag_run_id"]): run["state"] for run in found}
        for run in waiting:
            if states[run.dag_id, run.run_id] == "failed":
                logs = failed_task_logs(stack.airflow, run.dag_id, run.run_id)
                raise StackError(f"{run.dag_id} failed (run {run.run_id})\n{logs}")
        waiting = [run for run in waiting if states[run.dag_id, run.run_id] != "success"]
        if time.monotonic() - shown > 5 or not waiting:
            done = len(runs) - len(waiting)
            screen.line(f"{_rows_pushed(stack)} XCom rows pushed, {done} of {len(runs)} runs finished")
            shown = time.monotonic()
        if time.monotonic() > deadline:
            raise StackError(f"{len(waiting)} runs of the workload have not finished within {timeout:.0f} s")
        if waiting:
            time.sleep(0.5)


def _rows_pushed(stack: Stack) -> int:
    with stack.postgres.connect(DATABASE) as connection:
        found = connection.execute("SELECT count(*) FROM xcom WHERE dag_id = ANY(%s)", [list(WORKLOAD)])
        return sum(count for (count,) in found)


def _backdate(stack: Stack, run: Run) -> None:
    """Move everything that happened in a run ``age_days`` back, in the database and in the bucket."""
    age = timedelta(days=run.age_days)
    with stack.postgres.connect(DATABASE, autocommit=False) as connection:
        for table in ("dag_run", "task_instance", "task_instance_history", "xcom"):
            columns = connection.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
                " AND data_type = 'timestamp with time zone'"
                " AND column_name NOT IN ('logical_date', 'data_interval_start', 'data_interval_end')",
                [table],
            ).fetchall()
            changes = sql.SQL(", ").join(
                sql.SQL("{0} = {0} - %(age)s").format(sql.Identifier(column)) for (column,) in columns
            )
            connection.execute(
                sql.SQL("UPDATE {} SET {} WHERE dag_id = %(dag_id)s AND run_id = %(run_id)s").format(
                    sql.Identifier(table), changes
                ),
                {"age": age, "dag_id": run.dag_id, "run_id": run.run_id},
            )
    pages = stack.s3.client().get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=BUCKET, Prefix=f"{PREFIX}{run.dag_id}/{run.run_id}/").search("Contents[]")
    stack.s3.set_modified(BUCKET, {blob["Key"]: blob["LastModified"] - age for blob in found if blob})
