"""Runs the maintenance DAGs through the REST API, as the trigger form would, and reads what they report."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.screen import Screen
from demo.stack import PREFIX, Stack, failed_task_logs
from local_stack.processes import StackError

AUDIT, CLEANUP, RECONCILIATION = "xcom_size_audit", "xcom_cleanup", "xcom_orphan_reconciliation"
RESTORE = "xcom_restore"
MAINTENANCE = (AUDIT, CLEANUP, RECONCILIATION, RESTORE)

_TROUBLE = {"failed", "up_for_retry", "upstream_failed"}


@dataclass(frozen=True)
class Report:
    """The report of one run, as the bundle wrote it."""

    content: dict[str, Any]
    markdown: Path

    def manifest(self) -> list[dict[str, Any]]:
        """What the run listed, line by line."""
        path = Path(str(self.content["manifest"]).removeprefix("file://"))
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def listed_blobs(self, kind: str) -> set[str]:
        """The keys in the bucket of the blobs that the run listed under this kind of line."""
        return {PREFIX + line["key"] for line in self.manifest() if line["kind"] == kind}

    def listed_rows(self) -> Counter[tuple[str, str]]:
        """How many rows of each run, by DAG id and run id, the run listed."""
        listed: Counter[tuple[str, str]] = Counter()
        for line in self.manifest():
            if line["kind"] == "rows":
                for _, dag_id, run_id, _, rows, _ in line["runs"]:
                    listed[dag_id, run_id] += rows
        return listed


def prepare(stack: Stack, screen: Screen) -> None:
    """Unpause the DAGs. Airflow then runs their latest scheduled interval, which only reports."""
    for dag_id in MAINTENANCE:
        stack.airflow.wait_for_dag(dag_id)
        stack.airflow.unpause(dag_id)
    screen.line(f"Unpaused: {', '.join(MAINTENANCE)}")


def run_together(stack: Stack, screen: Screen, runs: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Report]:
    """Trigger DAGs with their conf, all at once, wait for them, and show what each found."""
    started = {dag_id: stack.airflow.trigger(dag_id, conf) for dag_id, conf in runs}
    for dag_id, run_id in started.items():
        _wait(stack, dag_id, run_id)
    reports = {dag_id: _read(stack, dag_id, run_id) for dag_id, run_id in started.items()}
    for dag_id, report in reports.items():
        _show(screen, dag_id, report)
    return reports


def run(stack: Stack, screen: Screen, dag_id: str, conf: dict[str, Any]) -> Report:
    """As ``run_together``, for one DAG."""
    return run_together(stack, screen, [(dag_id, conf)])[dag_id]


def run_and_approve(stack: Stack, screen: Screen, dag_id: str, conf: dict[str, Any]) -> Report:
    """Trigger a DAG whose plan is above a limit, and approve the plan as a person would in the Airflow UI."""
    run_id = stack.airflow.trigger(dag_id, conf)
    stack.airflow.wait_for_question(dag_id, run_id)
    limits = ", ".join(f"{name}: {value}" for name, value in conf.items() if name != "mode")
    screen.line(f"{dag_id} waits for approval, because of {limits}. It shows the whole plan and asks:")
    screen.detail(stack.airflow.question(dag_id, run_id)["subject"])
    stack.airflow.answer(dag_id, run_id, "Approve")
    screen.line("Approved through the REST API")
    _wait(stack, dag_id, run_id)
    report = _read(stack, dag_id, run_id)
    _show(screen, dag_id, report)
    return report


def _wait(stack: Stack, dag_id: str, run_id: str, timeout: float = 150) -> None:
    """Wait for success. A task that wants to be tried again is trouble enough to stop at once."""
    deadline = time.monotonic() + timeout
    while (state := stack.airflow.run_state(dag_id, run_id)) != "success":
        tasks = stack.airflow.task_instances(dag_id, run_id)
        if state == "failed" or any(task["state"] in _TROUBLE for task in tasks):
            logs = failed_task_logs(stack.airflow, dag_id, run_id)
            raise StackError(f"{dag_id} failed (run {run_id})\n{logs}")
        if time.monotonic() > deadline:
            states = {task["task_id"]: task["state"] for task in tasks}
            raise StackError(f"{dag_id} has not finished after {timeout:.0f} s (run {run_id}): {states}")
        time.sleep(0.3)


def _read(stack: Stack, dag_id: str, run_id: str) -> Report:
    for path in sorted((stack.reports / dag_id).glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["run_id"] == run_id:
            if content["error"] is not None:
                raise StackError(f"{dag_id} reports an error: {content['error']['message']}")
            return Report(content, path.with_suffix(".md"))
    raise StackError(f"{dag_id} wrote no report for run {run_id} in {stack.reports / dag_id}")


def _show(screen: Screen, dag_id: str, report: Report) -> None:
    content = report.content
    seconds = sum(phase["seconds"] for phase in content["phases"])
    approval = f", {content['approval']}" if content["approval"] else ""
    screen.line(f"{dag_id}: {content['status']}{approval}, {seconds:.1f} s of work")
    for name, value in content["headline"].items():
        figure = f"{value:,}" if isinstance(value, int | float) else str(value)
        screen.detail(f"{name.replace('_', ' ')}: {figure}")
    screen.detail(f"report: {report.markdown}")
