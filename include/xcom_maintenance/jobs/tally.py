"""The plan in numbers: what goes and what stays of every DAG, counted while the plan is made."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from include.xcom_maintenance.core.records import RunRows, Sample, SampledRows, YoungerRuns
from include.xcom_maintenance.core.retention import Part, Policy, Reason, Rule, RunVerdict
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.reports.report import Table


@dataclass(slots=True)
class _Sum:
    runs: int = 0
    rows: float = 0
    bytes: float = 0


#: DAG, position of the rule, reason.
_Place = tuple[str, int | None, Reason]


class Tally:
    """Sums by DAG, rule and reason; as large as the number of DAGs and of the runs in the sample, not of rows.

    What goes is counted to the row, and so is what stays of the same runs. What stays of the others comes from a
    sample, which for a small table is all of it.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._share = 0.0
        self._sampled: defaultdict[int, list[SampledRows]] = defaultdict(list)
        self._going: defaultdict[_Place, _Sum] = defaultdict(_Sum)
        self._staying: defaultdict[_Place, _Sum] = defaultdict(_Sum)
        self._dags_of_rule: defaultdict[int | None, set[str]] = defaultdict(set)
        self._runs_that_lose: set[int] = set()
        self._runs_seen = 0
        self._dag_and_parts: tuple[str, tuple[Part, ...]] | None = None
        self._reason_of: dict[int | None, Reason] = {}
        self.rows = self.bytes = 0
        #: Blobs that go with their rows, by DAG.
        self.blobs: Counter[str] = Counter()
        #: Doomed rows that hold a path below the base path which no backend wrote for them.
        self.paths_of_others = 0

    def take(self, sample: Sample) -> None:
        """Take the sample, before the first run is counted; taken again it changes nothing."""
        if self._share:
            return
        self._share = sample.share
        for group in sample.groups:
            if group.dag_run_id is None:
                self._stays_with_its_run(group)
            else:
                self._sampled[group.dag_run_id].append(group)

    def _stays_with_its_run(self, group: SampledRows) -> None:
        """Rows of a run that is too young to lose any."""
        link = self._policy.link(group.dag_id, group.scopes)
        if link is None:
            position, reason = None, Reason.NO_RULE
            self._dags_of_rule[None].add(group.dag_id)
        elif link.rule.hold:
            position, reason = link.position, Reason.HOLD
        else:
            position, reason = link.position, Reason.YOUNG if group.finished else Reason.UNFINISHED_RUN
        self._add(
            self._staying, (group.dag_id, position, reason), 0, group.rows / self._share, group.bytes / self._share
        )

    @staticmethod
    def _add(sums: defaultdict[_Place, _Sum], place: _Place, runs: int, rows: float, size: float) -> None:
        found = sums[place]
        found.runs += runs
        found.rows += rows
        found.bytes += size

    def judged(self, verdicts: Iterable[RunVerdict | YoungerRuns]) -> None:
        """Count runs; after ``take``."""
        for verdict in verdicts:
            if isinstance(verdict, YoungerRuns):
                self._younger(verdict)
            else:
                self._judged(verdict)

    def _younger(self, runs: YoungerRuns) -> None:
        """Count runs that are too young to lose a row."""
        self._runs_seen += runs.finished + runs.unfinished
        chain = self._policy.chain(runs.dag_id)
        for link in chain:
            self._dags_of_rule[link.position].add(runs.dag_id)
            if link.rule.hold:
                reasons = {Reason.HOLD: runs.finished + runs.unfinished}
            else:
                reasons = {Reason.YOUNG: runs.finished, Reason.UNFINISHED_RUN: runs.unfinished}
            for reason, count in reasons.items():
                if count:
                    self._add(self._staying, (runs.dag_id, link.position, reason), count, 0, 0)
        if not chain:
            self._dags_of_rule[None].add(runs.dag_id)
            self._add(self._staying, (runs.dag_id, None, Reason.NO_RULE), runs.finished + runs.unfinished, 0, 0)

    def _judged(self, verdict: RunVerdict) -> None:
        """Count a run, and what the sample says about the rows of it that stay whatever their age."""
        run = verdict.run
        self._runs_seen += 1
        if self._dag_and_parts != (run.dag_id, verdict.parts):  # hardly ever: runs come by DAG, and parts are shared
            self._dag_and_parts = (run.dag_id, verdict.parts)
            self._reason_of = {part.rule: part.reason for part in verdict.parts if part.cut is None}
            for part in verdict.parts:
                self._dags_of_rule[part.rule].add(run.dag_id)
        for rule, reason in self._reason_of.items():
            self._add(self._staying, (run.dag_id, rule, reason), 1, 0, 0)
        if self._reason_of or self._policy.scopes:
            for group in self._sampled.get(run.dag_run_id, ()):
                self._stays_whatever_its_age(group)

    def _stays_whatever_its_age(self, group: SampledRows) -> None:
        """Rows that the run's verdict speaks about without a cut, or that no rule speaks about."""
        link = self._policy.link(group.dag_id, group.scopes)
        position = link.position if link else None
        self._dags_of_rule[position].add(group.dag_id)
        if position in self._reason_of or link is None:
            place = (group.dag_id, position, self._reason_of.get(position, Reason.NO_RULE))
            self._add(self._staying, place, 0, group.rows / self._share, group.bytes / self._share)

    def measured(self, part: Part, dag_id: str, found: RunRows) -> None:
        """Count what goes, and what stays, of a run that may lose rows by this part of its verdict."""
        if found.rows:
            self.rows += found.rows
            self.bytes += found.bytes
            self._runs_that_lose.add(found.dag_run_id)
            self._add(self._going, (dag_id, part.rule, part.reason), 1, found.rows, found.bytes)
        if found.younger_rows:
            place = (dag_id, part.rule, Reason.YOUNG)
            self._add(self._staying, place, 1, found.younger_rows, found.younger_bytes)
        if found.latest_rows:
            place = (dag_id, part.rule, Reason.LATEST_VALUE)
            self._add(self._staying, place, 1, found.latest_rows, found.latest_bytes)

    # -- what people see ---------------------------------------------------------------------------------------------

    def describe(self, job: Job, *, rows_in_table: int) -> None:
        """Put the totals into the report and the log."""
        blobs, kept = self.blobs.total(), self._runs_seen - len(self._runs_that_lose)
        job.report.headline = {
            "rows_to_delete": self.rows,
            "rows_in_table": rows_in_table,
            "share_of_rows_to_delete": min(1.0, round(self.rows / rows_in_table, 4)) if rows_in_table else 0.0,
            "bytes_to_delete": self.bytes,
            "runs_affected": len(self._runs_that_lose),
            "dags_affected": len({dag_id for dag_id, _, _ in self._going}),
            "blobs_to_purge": blobs if job.blobs else None,
            "runs_kept": kept,
        }
        job.report.tables = [self._plan(job.settings.top_entries), self._why_rows_stay(), self._rule_table()]
        job.report.warnings += self._warnings(has_blobs=job.blobs is not None)
        job.log.info(
            "Plan: %s of %s rows (%s bytes), of %s runs, go, and %s blobs with them; %s runs keep all their rows",
            *(f"{n:,}" for n in (self.rows, rows_in_table, self.bytes, len(self._runs_that_lose), blobs, kept)),
        )

    def _warnings(self, *, has_blobs: bool) -> list[str]:
        found = []
        if not has_blobs:
            found.append(
                "No blob store is configured (blob_base_path, or [common.io] xcom_objectstorage_path), so only rows "
                "are looked at."
            )
        if self.paths_of_others:
            found.append(
                f"{self.paths_of_others:,} rows that go hold a path below the blob base path that no known backend "
                "wrote for them; what lies there is left alone."
            )
        if self._runs_seen:
            with_rows = {rule for _, rule, _ in [*self._going, *self._staying_rows()]}
            for position, rule in enumerate(self._policy.rules):
                if not self._dags_of_rule[position]:
                    found.append(f"Rule {position} matches no DAG: {_who(rule)}. Is there a typing error?")
                elif not rule.scope.whole and position not in with_rows and self._share == 1:
                    found.append(f"Rule {position} matches no row: {_who(rule)}. Is there a typing error?")
        return found

    def _staying_rows(self) -> list[_Place]:
        return [place for place, found in self._staying.items() if found.rows]

    def _plan(self, top: int) -> Table:
        size_of_dag: Counter[str] = Counter()
        for sums in (self._going, self._staying):
            for (dag_id, _, _), found in sums.items():
                size_of_dag[dag_id] += int(found.bytes)
        dags = sorted({place[0] for place in [*self._going, *self._staying_rows()]}, key=lambda d: (-size_of_dag[d], d))
        # What loses rows comes first: it is what people are asked to agree with.
        losing = {dag_id for dag_id, _, _ in self._going}
        shown = sorted(dags, key=lambda dag_id: dag_id not in losing)[:top]
        rows: list[list[Any]] = []
        for dag_id in shown:
            for what, sums in (("goes", self._going), ("stays", self._staying)):
                places = [place for place in sums if place[0] == dag_id and sums[place].rows]
                for place in sorted(places, key=lambda place: (place[1] is None, place[1] or 0, place[2])):
                    found = sums[place]
                    blobs = self.blobs[dag_id] if what == "goes" else None
                    rows.append(
                        [*place[:2], what, place[2], found.runs or None, _round(found.rows), _round(found.bytes)]
                    )
                    rows[-1].append(blobs)
        notes = [f"The {top} largest of {len(dags)} DAGs."] if len(dags) > top else []
        return Table(
            "The plan, by DAG and rule",
            ["DAG", "rule", "rows that", "reason", "runs", "rows", "stored bytes", "blobs of the DAG"],
            rows,
            " ".join([*notes, *self._sampled_note()]),
        )

    def _why_rows_stay(self) -> Table:
        totals: defaultdict[Reason, _Sum] = defaultdict(_Sum)
        for (_, _, reason), found in self._staying.items():
            totals[reason].runs += found.runs
            totals[reason].rows += found.rows
            totals[reason].bytes += found.bytes
        rows: list[list[Any]] = [
            [reason, found.runs, _round(found.rows), _round(found.bytes)]
            for reason, found in sorted(totals.items(), key=lambda item: (-item[1].rows, item[0]))
        ]
        return Table("Why rows stay", ["reason", "runs", "rows", "stored bytes"], rows, " ".join(self._sampled_note()))

    def _sampled_note(self) -> list[str]:
        if self._share == 1:
            return []
        return [
            f"What goes is counted; what stays of runs that lose nothing is estimated from {self._share:.1%} of the "
            "table's pages."
        ]

    def _rule_table(self) -> Table:
        rows: list[list[Any]] = []
        for position, rule in enumerate(self._policy.rules):
            rows.append([position, _who(rule), _effect(rule), len(self._dags_of_rule[position])])
            rows[-1] += [self._rows_of(self._going, position), self._rows_of(self._staying, position)]
        if unmatched := self._dags_of_rule[None]:
            rows.append([None, "none of the above", "keeps everything", len(unmatched), 0])
            rows[-1].append(self._rows_of(self._staying, None))
        return Table(
            "Rules",
            ["rule", "speaks about", "effect", "DAGs matched", "rows that go", "rows that stay"],
            rows,
            "In the order in which they are tried; the first that matches a row decides.",
        )

    @staticmethod
    def _rows_of(sums: defaultdict[_Place, _Sum], position: int | None) -> int:
        return _round(sum(found.rows for (_, rule, _), found in sums.items() if rule == position))


def _round(figure: float) -> int:
    """Whole if it was counted; an estimate to three digits, as it knows no more."""
    whole = round(figure)
    return whole if figure == whole or whole < 1_000 else round(whole, 3 - len(str(whole)))


def _who(rule: Rule) -> str:
    """The DAGs and rows that a rule speaks about."""
    scope = rule.scope
    parts = [_globs("DAGs", rule.dag_ids, rule.exclude_dag_ids)]
    if rule.tags or rule.exclude_tags:
        parts.append(_globs("tags", rule.tags or ("*",), rule.exclude_tags))
    for name, globs, excluded in (
        ("tasks", scope.task_ids, scope.exclude_task_ids),
        ("keys", scope.keys, scope.exclude_keys),
    ):
        if excluded or "*" not in globs:
            parts.append(_globs(name, globs, excluded))
    return "; ".join(parts)


def _globs(name: str, globs: tuple[str, ...], excluded: tuple[str, ...]) -> str:
    return f"{name} {', '.join(globs)}" + (f" but not {', '.join(excluded)}" if excluded else "")


def _effect(rule: Rule) -> str:
    if rule.hold:
        return "keeps everything"
    parts = []
    if rule.max_age is not None:
        parts.append(f"older than {rule.max_age.total_seconds() / 86_400:g} days goes")
    if rule.max_runs is not None:
        parts.append(f"beyond the newest {rule.max_runs} runs goes")
    parts.append(f"the newest {rule.min_runs} runs stay")
    if rule.keep_latest_value:
        parts.append("the latest value of each key stays")
    return "; ".join(parts)
