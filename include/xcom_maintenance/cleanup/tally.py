"""The plan in numbers: how many rows of each DAG are deleted and kept, counted while the plan is made."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nlargest

from include.xcom_maintenance.core.runs import Run, RunRows, Sample, SampledRows, YoungerRuns
from include.xcom_maintenance.retention.policy import Part, Policy, Reason, RunVerdict


@dataclass(slots=True)
class Sum:
    runs: int = 0
    rows: float = 0
    bytes: float = 0


#: DAG, position of the rule, reason.
Place = tuple[str, int | None, Reason]


class Tally:
    """Sums by DAG, rule and reason. Memory grows with the DAGs and the runs in the sample, not with the rows.

    Rows to delete are counted exactly, and so are the kept rows of the same runs. The kept rows of other runs come from
    a sample, which for a small table is all of it.
    """

    def __init__(self, policy: Policy, sample: Sample) -> None:
        self.policy = policy
        self.share = sample.share
        self._sampled: defaultdict[int, list[SampledRows]] = defaultdict(list)
        self.going: defaultdict[Place, Sum] = defaultdict(Sum)
        self.staying: defaultdict[Place, Sum] = defaultdict(Sum)
        self.dags_of_rule: defaultdict[int | None, set[str]] = defaultdict(set)
        self.runs_that_lose: set[int] = set()
        self.runs_seen = 0
        self._dag_and_parts: tuple[str, tuple[Part, ...]] | None = None
        self._reason_of: dict[int | None, Reason] = {}
        self.rows = self.bytes = 0
        #: Blobs to delete with their rows, by DAG.
        self.blobs: Counter[str] = Counter()
        #: Rows to delete with a path below the base path that no backend wrote for that row.
        self.paths_of_others = 0
        #: Of the runs that lose rows those that were due last, by number: the run and its rows that go.
        self.newest_that_lose: dict[int, tuple[Run, int]] = {}
        for group in sample.groups:
            if group.dag_run_id is None:
                self._stays_with_its_run(group)
            else:
                self._sampled[group.dag_run_id].append(group)

    def _stays_with_its_run(self, group: SampledRows) -> None:
        """Count the rows of a run that is too young to lose any."""
        link = self.policy.link(group.dag_id, group.scopes)
        if link is None:
            position, reason = None, Reason.NO_RULE
            self.dags_of_rule[None].add(group.dag_id)
        elif link.rule.hold:
            position, reason = link.position, Reason.HOLD
        else:
            position, reason = link.position, Reason.YOUNG if group.finished else Reason.UNFINISHED_RUN
        self._add(self.staying, (group.dag_id, position, reason), 0, group.rows / self.share, group.bytes / self.share)

    @staticmethod
    def _add(sums: defaultdict[Place, Sum], place: Place, runs: int, rows: float, size: float) -> None:
        found = sums[place]
        found.runs += runs
        found.rows += rows
        found.bytes += size

    def judged(self, verdicts: Iterable[RunVerdict | YoungerRuns]) -> None:
        """Count runs."""
        for verdict in verdicts:
            if isinstance(verdict, YoungerRuns):
                self._younger(verdict)
            else:
                self._judged(verdict)

    def _younger(self, runs: YoungerRuns) -> None:
        """Count runs that are too young to lose any row."""
        self.runs_seen += runs.finished + runs.unfinished
        chain = self.policy.chain(runs.dag_id)
        for link in chain:
            self.dags_of_rule[link.position].add(runs.dag_id)
            if link.rule.hold:
                reasons = {Reason.HOLD: runs.finished + runs.unfinished}
            else:
                reasons = {Reason.YOUNG: runs.finished, Reason.UNFINISHED_RUN: runs.unfinished}
            for reason, count in reasons.items():
                if count:
                    self._add(self.staying, (runs.dag_id, link.position, reason), count, 0, 0)
        if not chain:
            self.dags_of_rule[None].add(runs.dag_id)
            self._add(self.staying, (runs.dag_id, None, Reason.NO_RULE), runs.finished + runs.unfinished, 0, 0)

    def _judged(self, verdict: RunVerdict) -> None:
        """Count a run, and from the sample those of its rows that are kept whatever their age."""
        run = verdict.run
        self.runs_seen += 1
        if self._dag_and_parts != (run.dag_id, verdict.parts):  # rare: runs come grouped by DAG, and parts are shared
            self._dag_and_parts = (run.dag_id, verdict.parts)
            self._reason_of = {part.rule: part.reason for part in verdict.parts if part.cut is None}
            for part in verdict.parts:
                self.dags_of_rule[part.rule].add(run.dag_id)
        for rule, reason in self._reason_of.items():
            self._add(self.staying, (run.dag_id, rule, reason), 1, 0, 0)
        if self._reason_of or self.policy.scopes:
            for group in self._sampled.get(run.dag_run_id, ()):
                self._stays_whatever_its_age(group)

    def _stays_whatever_its_age(self, group: SampledRows) -> None:
        """Count sampled rows that the verdict keeps, or that no rule matches."""
        link = self.policy.link(group.dag_id, group.scopes)
        position = link.position if link else None
        self.dags_of_rule[position].add(group.dag_id)
        if position in self._reason_of or link is None:
            place = (group.dag_id, position, self._reason_of.get(position, Reason.NO_RULE))
            self._add(self.staying, place, 0, group.rows / self.share, group.bytes / self.share)

    def losing(self, found: Iterable[tuple[Run, int]], top: int) -> None:
        """Remember the newest runs that lose rows.

        :param found: runs, and how many of their rows go; a run may come more than once, but only in one call.
        :param top: so many.
        """
        rows: dict[int, tuple[Run, int]] = dict(self.newest_that_lose)
        for run, going in found:
            rows[run.dag_run_id] = run, going + (rows[run.dag_run_id][1] if run.dag_run_id in rows else 0)
        newest = nlargest(top, rows.values(), key=lambda item: (item[0].run_after, item[0].dag_run_id))
        self.newest_that_lose = {run.dag_run_id: (run, going) for run, going in newest}

    def measured(self, part: Part, dag_id: str, found: RunRows) -> None:
        """Count the deleted and kept rows of a run that may lose rows by this part of its verdict."""
        if found.rows:
            self.rows += found.rows
            self.bytes += found.bytes
            self.runs_that_lose.add(found.dag_run_id)
            self._add(self.going, (dag_id, part.rule, part.reason), 1, found.rows, found.bytes)
        if found.younger_rows:
            place = (dag_id, part.rule, Reason.YOUNG)
            self._add(self.staying, place, 1, found.younger_rows, found.younger_bytes)
        if found.latest_rows:
            place = (dag_id, part.rule, Reason.LATEST_VALUE)
            self._add(self.staying, place, 1, found.latest_rows, found.latest_bytes)
