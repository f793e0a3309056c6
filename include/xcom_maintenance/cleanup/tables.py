"""The report of a cleanup's plan: which rows are deleted and which are kept, by DAG and rule, and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.cleanup.tally import Place, Sum, Tally
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.retention.policy import Reason
from include.xcom_maintenance.retention.wording import applies_to, limits_of, rule_number


def describe(job: CleanupJob, tally: Tally, *, rows_in_table: int) -> None:
    """Add the totals to the report and the log."""
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
        "runs_not_to_rerun_in_part": len(tally.runs_that_lose),
    }
    job.report.tables = [_plan(tally, job.settings.top_entries), _why_rows_are_kept(tally), _rule_table(tally)]
    if tally.newest_that_lose:
        job.report.tables.append(_not_to_rerun(tally))
    job.report.warnings += _warnings(tally, has_blobs=job.blobs is not None)
    job.log.info(
        "Plan: delete %s of %s (%s) from %s, and %s; keep all rows of %s",
        f"{tally.rows:,}",
        counted(rows_in_table, "row"),
        counted(tally.bytes, "byte"),
        counted(len(tally.runs_that_lose), "run"),
        counted(blobs, "blob"),
        counted(kept, "run"),
    )


def _warnings(tally: Tally, *, has_blobs: bool) -> list[str]:
    found = []
    if not has_blobs:
        found.append(
            "No blob store is configured (blob_base_path, or [common.io] xcom_objectstorage_path), so the plan covers "
            "rows only."
        )
    if others := tally.paths_of_others:
        found.append(
            f"{counted(others, 'row')} to delete {'holds' if others == 1 else 'hold'} a path below the blob base path "
            "that no known backend wrote; whatever is stored there is left alone."
        )
    if tally.runs_seen:
        with_rows = {rule for _, rule, _ in [*tally.going, *_kept_rows(tally)]}
        for position, rule in enumerate(tally.policy.rules):
            if not tally.dags_of_rule[position]:
                found.append(f"Rule {rule_number(position)} ({applies_to(rule)}) matches no DAG. Check it for typos.")
            elif not rule.scope.whole and position not in with_rows and tally.share == 1:
                found.append(f"Rule {rule_number(position)} ({applies_to(rule)}) matches no row. Check it for typos.")
    return found


def _kept_rows(tally: Tally) -> list[Place]:
    return [place for place, found in tally.staying.items() if found.rows]


def _plan(tally: Tally, top: int) -> Table:
    size_of_dag: Counter[str] = Counter()
    for sums in (tally.going, tally.staying):
        for (dag_id, _, _), found in sums.items():
            size_of_dag[dag_id] += int(found.bytes)
    dags = sorted({place[0] for place in [*tally.going, *_kept_rows(tally)]}, key=lambda d: (-size_of_dag[d], d))
    # DAGs that lose rows come first: these are what people are asked to approve.
    losing = {dag_id for dag_id, _, _ in tally.going}
    shown = sorted(dags, key=lambda dag_id: dag_id not in losing)[:top]
    rows: list[list[Any]] = []
    for dag_id in shown:
        for action, sums in (("delete", tally.going), ("keep", tally.staying)):
            places = [place for place in sums if place[0] == dag_id and sums[place].rows]
            for place in sorted(places, key=lambda place: (place[1] is None, place[1] or 0, place[2])):
                found = sums[place]
                blobs = tally.blobs[dag_id] if action == "delete" else None
                rows.append([dag_id, rule_number(place[1]), action, place[2], found.runs or None])
                rows[-1] += [_round(found.rows), _round(found.bytes), blobs]
    notes = (
        [f"{top} of {len(dags):,} DAGs: those with rows to delete first, then the largest."] if len(dags) > top else []
    )
    return Table(
        "The plan, by DAG and rule",
        ["DAG", "rule", "action", "reason", "runs", "rows", "stored bytes", "blobs (whole DAG)"],
        rows,
        " ".join([*notes, *_sampled_note(tally)]),
    )


def _why_rows_are_kept(tally: Tally) -> Table:
    totals: defaultdict[Reason, Sum] = defaultdict(Sum)
    for (_, _, reason), found in tally.staying.items():
        totals[reason].runs += found.runs
        totals[reason].rows += found.rows
        totals[reason].bytes += found.bytes
    rows: list[list[Any]] = [
        [reason, found.runs, _round(found.rows), _round(found.bytes)]
        for reason, found in sorted(totals.items(), key=lambda item: (-item[1].rows, item[0]))
    ]
    return Table("Why rows are kept", ["reason", "runs", "rows", "stored bytes"], rows, " ".join(_sampled_note(tally)))


def _sampled_note(tally: Tally) -> list[str]:
    if tally.share == 1:
        return []
    return [
        f"Rows to delete are counted exactly. Kept rows of runs that lose none are estimated from {tally.share:.1%} of "
        "the table's pages."
    ]


def _rule_table(tally: Tally) -> Table:
    rows: list[list[Any]] = []
    for position, rule in enumerate(tally.policy.rules):
        rows.append([rule_number(position), applies_to(rule), limits_of(rule), len(tally.dags_of_rule[position])])
        rows[-1] += [_rows_of(tally.going, position), _rows_of(tally.staying, position)]
    if unmatched := tally.dags_of_rule[None]:
        rows.append([None, "no rule matches", "all rows are kept", len(unmatched), 0])
        rows[-1].append(_rows_of(tally.staying, None))
    return Table(
        "Retention rules",
        ["rule", "applies to", "limits", "DAGs matched", "rows to delete", "rows to keep"],
        rows,
        "Tried in this order; the first rule that matches a row decides. The limits include inherited settings.",
    )


def _not_to_rerun(tally: Tally) -> Table:
    """What nothing in Airflow shows: a task of such a run gets None where it had a value."""
    count, shown = len(tally.runs_that_lose), list(tally.newest_that_lose.values())
    first = f"The newest {len(shown)} of {count:,}; the manifest names them all. " if count > len(shown) else ""
    return Table(
        "Runs that can no longer be re-run in part",
        ["DAG", "run", "due", "rows that go"],
        [[run.dag_id, run.run_id, run.run_after.isoformat(timespec="seconds"), rows] for run, rows in shown],
        f"{first}A task of such a run that is cleared without the tasks that it pulls from gets None for what is gone, "
        "and does not fail by that. Clear the whole run instead, or put its rows back with xcom_restore first.",
    )


def _rows_of(sums: defaultdict[Place, Sum], position: int | None) -> int:
    return _round(sum(found.rows for (_, rule, _), found in sums.items() if rule == position))


def _round(figure: float) -> int:
    """A count as it is; an estimate to three digits, since it is no more precise."""
    whole = round(figure)
    return whole if figure == whole or whole < 1_000 else round(whole, 3 - len(str(whole)))
