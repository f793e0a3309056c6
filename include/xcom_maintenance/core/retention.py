"""Which rows go and which stay, and why. Pure: the time is an argument.

The design follows borg's ``prune``: every verdict carries its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import groupby

from include.xcom_maintenance.core.records import Run, RunCutoff

#: A run in one of these states is over; its tasks may still not be (a task can be cleared by itself).
FINISHED_RUN_STATES = ("success", "failed")
#: Airflow's TerminalTIState. Every other state, NULL included, means that the task may still run and pull.
FINISHED_TASK_STATES = ("success", "failed", "skipped", "upstream_failed", "removed")


class Reason(StrEnum):
    """Why rows of a run go, or why all of them stay."""

    TOO_OLD = "older than max_age_days"
    TOO_MANY_RUNS = "beyond the newest max_runs runs"
    UNFINISHED_RUN = "run is not finished"
    UNFINISHED_TASK = "a task of the run is not finished"
    HOLD = "held by a rule"
    MIN_RUNS = "among the newest min_runs finished runs"
    WITHIN_MAX_RUNS = "among the newest max_runs runs"
    NOTHING_OLD = "finished, and none of its rows is too old"
    NO_RULE = "no rule matches the DAG"


@dataclass(frozen=True, slots=True)
class Rule:
    """One retention rule; the first rule that matches a DAG decides.

    ``max_age`` and ``max_runs`` each take rows away; ``min_runs``, ``keep_latest_value`` and ``hold`` keep rows.
    """

    dag_ids: tuple[str, ...] = ("*",)
    exclude_dag_ids: tuple[str, ...] = ()
    #: Rows pushed longer ago go; None: age takes nothing.
    max_age: timedelta | None = timedelta(days=7)
    #: Rows of finished runs beyond this many newest ones go, however young; None: number takes nothing.
    max_runs: int | None = None
    #: This many newest finished runs keep their rows, however old.
    min_runs: int = 1
    keep_latest_value: bool = False
    hold: bool = False

    def matches(self, dag_id: str) -> bool:
        """Whether the rule speaks about a DAG: case-sensitive globs, exclusions last."""
        return any(fnmatchcase(dag_id, glob) for glob in self.dag_ids) and not any(
            fnmatchcase(dag_id, glob) for glob in self.exclude_dag_ids
        )


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """What the policy says about one run: either a cutoff, or the reason why everything stays."""

    run: Run
    #: Position of the rule that decided, from 0; None if no rule matches.
    rule: int | None
    reason: Reason
    cutoff: RunCutoff | None = None


def judge_runs(runs: Iterable[Run], rules: Sequence[Rule], *, now: datetime) -> Iterator[RunVerdict]:
    """Judge every run, in constant memory.

    :param runs: grouped by ``dag_id``; within a DAG the newest first, by ``run_after``, then by ``dag_run_id``.
    :param rules: in the order in which they are tried.
    :param now: the time (UTC) from which ages are measured. Rows that are pushed later never go.
    """
    for dag_id, runs_of_dag in groupby(runs, key=lambda run: run.dag_id):
        position = next((i for i, rule in enumerate(rules) if rule.matches(dag_id)), None)
        finished_before = 0
        for run in runs_of_dag:
            if position is None:
                yield RunVerdict(run, None, Reason.NO_RULE)
                continue
            finished = run.state in FINISHED_RUN_STATES
            yield _judge(run, position, rules[position], finished=finished, rank=finished_before, now=now)
            finished_before += finished


def _judge(run: Run, position: int, rule: Rule, *, finished: bool, rank: int, now: datetime) -> RunVerdict:
    """Judge one run; ``rank`` counts the newer finished runs of its DAG."""
    keep: Reason | None = None
    if rule.hold:
        keep = Reason.HOLD
    elif not finished:
        keep = Reason.UNFINISHED_RUN
    elif run.unfinished_tasks:
        keep = Reason.UNFINISHED_TASK
    elif rank < rule.min_runs:
        keep = Reason.MIN_RUNS
    if keep is not None:
        return RunVerdict(run, position, keep)
    if rule.max_runs is not None and rank >= rule.max_runs:
        cutoff, reason = now, Reason.TOO_MANY_RUNS
    elif rule.max_age is not None:
        cutoff, reason = now - rule.max_age, Reason.TOO_OLD
    else:
        return RunVerdict(run, position, Reason.WITHIN_MAX_RUNS)
    return RunVerdict(run, position, reason, RunCutoff(run.dag_run_id, cutoff, rule.keep_latest_value))
