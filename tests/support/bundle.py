"""Runs the tasks of the bundle's DAGs in this process, over a real database and a real blob store.

In this process nothing blocks Airflow's ORM as a supervised task does; the tests in ``tests/e2e`` cover that.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.xcom_maintenance.reports.report import Approval
from tests.support.schema import valid

REPOSITORY = Path(__file__).parent.parent.parent


@cache
def dags() -> dict[str, Any]:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag

    bag = DagBag(REPOSITORY / "dags", collect_dags=False)
    for path in sorted((REPOSITORY / "dags").glob("*.py")):
        bag.process_file(str(path))
    assert not bag.import_errors
    return dict(bag.dags)


@cache
def _defaults(dag_id: str) -> str:
    """What the trigger form of a DAG sends if nobody changes it, as JSON."""
    return json.dumps(dags()[dag_id].params.dump())


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        yield


@dataclass
class Bundle:
    """The bundle, configured by environment variables as a deployment would be."""

    report_path: str
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: The Airflow Variable ``xcom_maintenance``.
    variable: dict[str, Any] | str = field(default_factory=dict)
    #: ``[common.io]`` options.
    common_io: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def configured(self) -> Iterator[None]:
        variable = self.variable
        if isinstance(variable, dict):
            variable = json.dumps({"report_path": self.report_path, **variable})
        values: dict[str, str | None] = {"AIRFLOW_VAR_XCOM_MAINTENANCE": variable}
        values |= {f"AIRFLOW_CONN_{name.upper()}": json.dumps(conn) for name, conn in self.connections.items()}
        values |= {f"AIRFLOW__COMMON_IO__{name.upper()}": value for name, value in self.common_io.items()}
        with environment(values):
            yield

    def task(self, dag_id: str, task_id: str, *arguments: Any, run_id: str, **conf: Any) -> Any:
        """Run one task as its operator would call it."""
        from airflow.sdk.execution_time.context import set_current_context

        dag = dags()[dag_id]
        context = {
            "dag_run": SimpleNamespace(dag_id=dag_id, run_id=run_id, conf=conf),
            "params": {**json.loads(_defaults(dag_id)), **conf},
        }
        operator: Any = dag.get_task(task_id)
        with self.configured(), set_current_context(context):  # type: ignore[arg-type]
            return operator.python_callable(*arguments)

    def run(self, dag_id: str, *, run_id: str | None = None, answer: Approval | None = None, **conf: Any) -> Outcome:
        """Run a DAG's tasks one after the other; a task that raises or is skipped ends the run.

        :param answer: to the question whether a large plan is carried out, if it is asked.
        """
        from airflow.providers.common.compat.sdk import AirflowSkipException

        run_id = run_id or f"manual__{uuid.uuid4().hex[:8]}"
        special = {"xcom_cleanup": self._cleanup, "xcom_orphan_reconciliation": self._reconciliation}
        steps = special.get(dag_id, self._one_after_the_other)
        summary: Any = None
        error: Exception | None = None
        try:
            for returned in steps(dag_id, run_id, answer, conf):
                summary = returned
        except AirflowSkipException:
            pass
        except Exception as raised:  # noqa: BLE001 - whatever a task raises is its outcome
            error = raised
        return Outcome(self, dag_id, run_id, summary, error)

    def _one_after_the_other(
        self, dag_id: str, run_id: str, _: Approval | None, conf: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        summary: Any = None
        for task in dags()[dag_id].topological_sort():
            summary = self.task(dag_id, task.task_id, *([summary] if summary else []), run_id=run_id, **conf)
            yield summary

    def _cleanup(
        self, dag_id: str, run_id: str, answer: Approval | None, conf: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        planned = self.task(dag_id, "plan", run_id=run_id, **conf)
        yield planned
        if planned["approval"] == Approval.NEEDED:
            assert answer is not None, "the plan asks for approval"
            self.answer(dag_id, run_id, planned, answer, **conf)
        yield self.apply(planned, run_id=run_id, **conf)

    def _reconciliation(
        self, dag_id: str, run_id: str, answer: Approval | None, conf: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        found = self.find(run_id=run_id, **conf)
        yield found
        if found["approval"] == Approval.NEEDED:
            assert answer is not None, "the plan asks for approval"
            self.answer(dag_id, run_id, found, answer, **conf)
        yield self.sweep(found, run_id=run_id, **conf)

    def find(self, *, run_id: str, **conf: Any) -> dict[str, Any]:
        """Run the tasks of ``xcom_orphan_reconciliation`` that find; returns the summary of ``decide``."""
        dag_id = "xcom_orphan_reconciliation"
        planned = self.task(dag_id, "plan", run_id=run_id, **conf)
        for shard in self.task(dag_id, "split", planned, run_id=run_id, **conf):
            self.task(dag_id, "find", planned, shard, run_id=run_id, **conf)
        return self.task(dag_id, "decide", planned, run_id=run_id, **conf)  # type: ignore[no-any-return]

    def sweep(self, found: dict[str, Any], *, run_id: str, **conf: Any) -> dict[str, Any]:
        """Run the tasks after ``decide``."""
        return self._carry_out("xcom_orphan_reconciliation", "sweep", found, run_id, **conf)

    def apply(self, planned: dict[str, Any], *, run_id: str, **conf: Any) -> dict[str, Any]:
        """Run what comes after the plan of ``xcom_cleanup``."""
        return self._carry_out("xcom_cleanup", "delete_rows", planned, run_id, **conf)

    def _carry_out(self, dag_id: str, part: str, planned: dict[str, Any], run_id: str, **conf: Any) -> dict[str, Any]:
        """As in Airflow, ``finish`` runs whatever became of the others."""
        shards = None
        try:
            shards = self.task(dag_id, "share_out", planned, run_id=run_id, **conf)
            for shard in shards:
                self.task(dag_id, part, planned, shard, run_id=run_id, **conf)
        except Exception as error:
            self.task(dag_id, "finish", planned, shards, run_id=run_id, **conf)
            raise AssertionError("finish did not fail") from error
        return self.task(dag_id, "finish", planned, shards, run_id=run_id, **conf)  # type: ignore[no-any-return]

    def answer(self, dag_id: str, run_id: str, planned: Mapping[str, Any], answer: Approval, **conf: Any) -> str:
        """Ask and answer as the operator of the approval does; returns the question, empty if none was."""
        from airflow.sdk.execution_time.context import set_current_context

        from include.xcom_maintenance.flow import approval

        dag_run = SimpleNamespace(dag_id=dag_id, run_id=run_id, conf=conf)
        context = {"dag_run": dag_run, "params": {**json.loads(_defaults(dag_id)), **conf}}
        with self.configured(), set_current_context(context):  # type: ignore[arg-type]
            question = approval.ask(context, planned)
            if question is None:
                return ""
            approval.answered(context, planned, answer, None if answer is Approval.TIMED_OUT else "somebody")
        return f"{question[0]}\n{question[1]}"


@dataclass
class Outcome:
    bundle: Bundle
    dag_id: str
    run_id: str
    #: What the last task returned.
    summary: dict[str, Any] | None
    error: Exception | None

    def path(self, suffix: str) -> Path:
        return Path(self.bundle.report_path.removeprefix("file://")) / self.dag_id / f"{self.run_id}{suffix}"

    @property
    def report(self) -> dict[str, Any]:
        return valid(json.loads(self.path(".json").read_text()))

    @property
    def markdown(self) -> str:
        return self.path(".md").read_text()

    @property
    def html(self) -> str:
        return self.path(".html").read_text()

    def table(self, title: str) -> list[dict[str, Any]]:
        """A table of the report, row by row."""
        [table] = [t for t in self.report["tables"] if t["title"] == title]
        return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]

    def manifest(self, kind: str) -> list[dict[str, Any]]:
        import gzip

        lines = gzip.decompress(self.path(".manifest.jsonl.gz").read_bytes()).decode().splitlines()
        return [line for line in map(json.loads, lines) if line["kind"] == kind]

    def planned_runs(self) -> list[dict[str, Any]]:
        """The runs that the manifest names, one by one."""
        names = ("dag_run_id", "dag_id", "run_id", "cut", "rows", "bytes")
        return [
            dict(zip(names, run, strict=True)) | line["cuts"][run[3]]
            for line in self.manifest("rows")
            for run in line["runs"]
        ]

    def succeeded(self) -> Outcome:
        if self.error is not None:
            raise self.error
        return self
