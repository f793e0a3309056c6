"""The totals of a cleanup plan, counted as it is made and told to report and log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from include.xcom_maintenance.core.retention import Reason, Rule, RunVerdict
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.reports.report import Table


@dataclass(slots=True)
class _Going:
    rows: int = 0
    bytes: int = 0
    runs: int = 0


class Tally:
    """Sums by DAG, rule and reason; as large as the number of DAGs, not of rows."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self.total = _Going()
        self._by_dag: defaultdict[tuple[str, int | None, Reason], _Going] = defaultdict(_Going)
        self._dags_of_rule: defaultdict[int | None, set[str]] = defaultdict(set)
        self._kept: Counter[Reason] = Counter()
        #: Blobs that go with their rows, by DAG.
        self.blobs: Counter[str] = Counter()
        #: Doomed rows that hold a path below the base path which no backend wrote for them.
        self.paths_of_others = 0

    def judged(self, verdict: RunVerdict) -> None:
        """Count a run; one with a cutoff counts as kept until it turns out that rows of it go."""
        self._dags_of_rule[verdict.rule].add(verdict.run.dag_id)
        self._kept[Reason.NOTHING_OLD if verdict.cutoff else verdict.reason] += 1

    def goes(self, verdict: RunVerdict, rows: int, size: int) -> None:
        """Count rows of a run that go; ``size`` in stored bytes."""
        self._kept[Reason.NOTHING_OLD] -= 1
        for going in (self.total, self._by_dag[verdict.run.dag_id, verdict.rule, verdict.reason]):
            going.rows += rows
            going.bytes += size
            going.runs += 1

    def describe(self, job: Job, *, rows_in_table: int) -> None:
        """Put the totals into the report and the log."""
        blobs, kept = self.blobs.total(), +self._kept
        job.report.headline = {
            "rows_to_delete": self.total.rows,
            "rows_in_table": rows_in_table,
            "share_of_rows_to_delete": min(1.0, round(self.total.rows / rows_in_table, 4)) if rows_in_table else 0.0,
            "bytes_to_delete": self.total.bytes,
            "runs_affected": self.total.runs,
            "dags_affected": len({dag_id for dag_id, _, _ in self._by_dag}),
            "blobs_to_purge": blobs if job.blobs else None,
            "runs_kept": kept.total(),
        }
        job.report.tables = [
            self._going(job.settings.top_entries),
            Table("Runs that keep all their rows", ["reason", "runs"], [[*item] for item in kept.most_common()]),
            self._rule_table(),
        ]
        if job.blobs is None:
            job.report.warnings.append(
                "No blob store is configured (blob_base_path, or [common.io] xcom_objectstorage_path), so only rows "
                "are looked at."
            )
        if self.paths_of_others:
            job.report.warnings.append(
                f"{self.paths_of_others:,} rows that go hold a path below the blob base path that no known backend "
                "wrote for them; what lies there is left alone."
            )
        job.log.info(
            "Plan: %s of %s rows (%s bytes), of %s runs, go, and %s blobs with them; %s runs keep all their rows",
            *(f"{n:,}" for n in (self.total.rows, rows_in_table, self.total.bytes, self.total.runs, blobs)),
            f"{kept.total():,}",
        )

    def _going(self, top: int) -> Table:
        largest = sorted(self._by_dag.items(), key=lambda item: (-item[1].bytes, item[0][0]))
        shown: list[list[Any]] = [
            [dag_id, rule, reason, going.runs, going.rows, going.bytes, self.blobs[dag_id]]
            for (dag_id, rule, reason), going in largest[:top]
        ]
        return Table(
            "Rows that go, by DAG",
            ["DAG", "rule", "reason", "runs", "rows", "stored bytes", "blobs of the DAG"],
            shown,
            f"The {top} largest of {len(largest)}." if len(largest) > top else "",
        )

    def _rule_table(self) -> Table:
        rows: list[list[Any]] = [
            [
                position,
                ", ".join(rule.dag_ids) + (f" but not {', '.join(rule.exclude_dag_ids)}" * bool(rule.exclude_dag_ids)),
                _effect(rule),
                len(self._dags_of_rule[position]),
            ]
            for position, rule in enumerate(self._rules)
        ]
        if unmatched := self._dags_of_rule[None]:
            rows.append([None, "none of the above", "keeps everything", len(unmatched)])
        return Table(
            "Rules",
            ["rule", "DAGs", "effect", "DAGs matched"],
            rows,
            "In the order in which they are tried; the first that matches a DAG decides.",
        )


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
