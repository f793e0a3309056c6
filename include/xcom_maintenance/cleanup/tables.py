"""The report of a cleanup's plan: what goes and what stays, by DAG and rule, and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.cleanup.tally import Place, Sum, Tally
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.retention.policy import Reason, Rule


def describe(job: CleanupJob, tally: Tally, *, rows_in_table: int) -> None:
    """Put the totals into the report and the log."""
    blobs, kept = tally.blobs.total(), tally.runs_seen - len(tally.runs_that_lose)
    job.report.headline = {
        "rows_to_delete": tally.rows,
        "rows_in_table": rows_in_table,
        "share_of_rows_to_delete": min(1.0, round(tally.rows / rows_in_table, 4)) if rows_in_table else 0.0,
        "bytes_to_delete": tally.bytes,
        "runs_affected": len(tally.runs_that_lose),
        "dags_affected": len({dag_id for dag_id, _, _ in tally.going}),
        "blobs_to_purge": blobs if job.blobs else None,
        "runs_kept": kept,
    }
    job.report.tables = [_plan(tally, job.settings.top_entries), _why_rows_stay(tally), _rule_table(tally)]
    job.report.warnings += _warnings(tally, has_blobs=job.blobs is not None)
    job.log.info(
        "Plan: %s of %s rows (%s bytes), of %s runs, go, and %s blobs with them; %s runs keep all their rows",
        *(f"{n:,}" for n in (tally.rows, rows_in_table, tally.bytes, len(tally.runs_that_lose), blobs, kept)),
    )


def _warnings(tally: Tally, *, has_blobs: bool) -> list[str]:
    found = []
    if not has_blobs:
        found.append(
            "No blob store is configured (blob_base_path, or [common.io] xcom_objectstorage_path), so only rows "
            "are looked at."
        )
    if tally.paths_of_others:
        found.append(
            f"{tally.paths_of_others:,} rows that go hold a path below the blob base path that no known backend "
            "wrote for them; what lies there is left alone."
        )
    if tally.runs_seen:
        with_rows = {rule for _, rule, _ in [*tally.going, *_staying_rows(tally)]}
        for position, rule in enumerate(tally.policy.rules):
            if not tally.dags_of_rule[position]:
                found.append(f"Rule {position} matches no DAG: {_who(rule)}. Is there a typing error?")
            elif not rule.scope.whole and position not in with_rows and tally.share == 1:
                found.append(f"Rule {position} matches no row: {_who(rule)}. Is there a typing error?")
    return found


def _staying_rows(tally: Tally) -> list[Place]:
    return [place for place, found in tally.staying.items() if found.rows]


def _plan(tally: Tally, top: int) -> Table:
    size_of_dag: Counter[str] = Counter()
    for sums in (tally.going, tally.staying):
        for (dag_id, _, _), found in sums.items():
            size_of_dag[dag_id] += int(found.bytes)
    dags = sorted({place[0] for place in [*tally.going, *_staying_rows(tally)]}, key=lambda d: (-size_of_dag[d], d))
    # What loses rows comes first: it is what people are asked to agree with.
    losing = {dag_id for dag_id, _, _ in tally.going}
    shown = sorted(dags, key=lambda dag_id: dag_id not in losing)[:top]
    rows: list[list[Any]] = []
    for dag_id in shown:
        for what, sums in (("goes", tally.going), ("stays", tally.staying)):
            places = [place for place in sums if place[0] == dag_id and sums[place].rows]
            for place in sorted(places, key=lambda place: (place[1] is None, place[1] or 0, place[2])):
                found = sums[place]
                blobs = tally.blobs[dag_id] if what == "goes" else None
                rows.append([*place[:2], what, place[2], found.runs or None, _round(found.rows), _round(found.bytes)])
                rows[-1].append(blobs)
    notes = [f"The {top} largest of {len(dags)} DAGs."] if len(dags) > top else []
    return Table(
        "The plan, by DAG and rule",
        ["DAG", "rule", "rows that", "reason", "runs", "rows", "stored bytes", "blobs of the DAG"],
        rows,
        " ".join([*notes, *_sampled_note(tally)]),
    )


def _why_rows_stay(tally: Tally) -> Table:
    totals: defaultdict[Reason, Sum] = defaultdict(Sum)
    for (_, _, reason), found in tally.staying.items():
        totals[reason].runs += found.runs
        totals[reason].rows += found.rows
        totals[reason].bytes += found.bytes
    rows: list[list[Any]] = [
        [reason, found.runs, _round(found.rows), _round(found.bytes)]
        for reason, found in sorted(totals.items(), key=lambda item: (-item[1].rows, item[0]))
    ]
    return Table("Why rows stay", ["reason", "runs", "rows", "stored bytes"], rows, " ".join(_sampled_note(tally)))


def _sampled_note(tally: Tally) -> list[str]:
    if tally.share == 1:
        return []
    return [
        f"What goes is counted; what stays of runs that lose nothing is estimated from {tally.share:.1%} of the "
        "table's pages."
    ]


def _rule_table(tally: Tally) -> Table:
    rows: list[list[Any]] = []
    for position, rule in enumerate(tally.policy.rules):
        rows.append([position, _who(rule), _effect(rule), len(tally.dags_of_rule[position])])
        rows[-1] += [_rows_of(tally.going, position), _rows_of(tally.staying, position)]
    if unmatched := tally.dags_of_rule[None]:
        rows.append([None, "none of the above", "keeps everything", len(unmatched), 0])
        rows[-1].append(_rows_of(tally.staying, None))
    return Table(
        "Rules",
        ["rule", "speaks about", "effect", "DAGs matched", "rows that go", "rows that stay"],
        rows,
        "In the order in which they are tried; the first that matches a row decides.",
    )


def _rows_of(sums: defaultdict[Place, Sum], position: int | None) -> int:
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
