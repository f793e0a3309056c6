"""What to do: the scorecard's warnings turned into actions, each with the DAG, task or key it is about."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest

from include.xcom_maintenance.core.sizes import JSONB_STRING_LIMIT, KB, THRESHOLDS, human_bytes
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.size_audit.findings import Findings
from include.xcom_maintenance.size_audit.scorecard import Verdict

_Action = tuple[str, str, str]
#: At most this many of each kind are named; the tables list the rest.
_NAMED = 3
#: Metrics that are covered by an action for a specific DAG or task.
_NAMED_METRICS = frozenset({"value_size", "pushes_a_day", "fan_out", "overdue_rows", "secrets"})


def to_do(found: Findings) -> Table:
    """The most urgent first."""
    warned = {line.name for line in found.scorecard if line.verdict is Verdict.WARN}
    actions = [*_large_values(found, warned), *_many_rows(found, warned), *_of_dags(found, warned)]
    actions += [
        (line.title, "the deployment", line.advice)
        for line in found.scorecard
        if line.verdict is Verdict.WARN and line.name not in _NAMED_METRICS
    ]
    return Table("What to do", ["issue", "where", "action"], [list(action) for action in actions])


def place(*names: str) -> str:
    """DAG, task and key as one text."""
    return " / ".join(names)


def _large_values(found: Findings, warned: set[str]) -> Iterator[_Action]:
    sizes = found.sizes
    for entry, size in found.near_limit[:_NAMED]:
        yield (
            f"{human_bytes(size)} value, close to the {human_bytes(JSONB_STRING_LIMIT)} limit for a JSONB string",
            place(entry.dag_id, entry.task_id, entry.key),
            "Push a path instead: a larger value makes the push fail and can break dumps and upgrades",
        )
    if "value_size" not in warned:
        return
    at = THRESHOLDS.index(48 * KB)
    for saved, dag_id in nlargest(_NAMED, ((sizes.leaves(dag_id)[at], dag_id) for dag_id in sizes.dags)):
        if saved:
            yield (
                f"{human_bytes(saved)} of {human_bytes(sizes.dags[dag_id].stored)} is in values above 48 KB",
                dag_id,
                "Use an object-storage XCom backend with a 48 KB threshold",
            )


def _many_rows(found: Findings, warned: set[str]) -> Iterator[_Action]:
    sizes = found.sizes
    if "pushes_a_day" in warned:
        most = {(dag_id, task_id): rows for dag_id, task_id, _, rows in reversed(sizes.busy_days)}
        for (dag_id, task_id), rows in nlargest(_NAMED, most.items(), key=lambda item: item[1]):
            yield f"{rows:,} pushes in one day", place(dag_id, task_id), "Combine many small values into one push"
    if "fan_out" in warned:
        for dag_id, task_id, fan_out, rows, _ in sizes.mapped[:_NAMED]:
            yield (
                f"{counted(fan_out, 'mapped task instance')}, {counted(rows, 'row')}",
                place(dag_id, task_id),
                "Map over batches",
            )
    if "overdue_rows" in warned and found.overdue:
        for dag_id, rows in found.overdue.dags.most_common(_NAMED):
            yield (
                f"{counted(rows, 'overdue row')}",
                dag_id,
                "Enforce xcom_cleanup, or adjust the retention rules",
            )


def _of_dags(found: Findings, warned: set[str]) -> Iterator[_Action]:
    for change in [c for c in found.changes if c.is_anomaly][:_NAMED]:
        grew = change.bytes_a_day > change.bytes_a_day_before
        before, now = human_bytes(change.bytes_a_day_before), human_bytes(change.bytes_a_day)
        yield (
            f"pushed {now} in a day, {'up' if grew else 'down'} from {before}",
            change.dag_id,
            "Find out what changed" if grew else "Check that it still runs as expected",
        )
    for dag_id, why in list(found.missing_dags.items())[:_NAMED]:
        rows = found.sizes.dags[dag_id].rows
        yield f"{counted(rows, 'row')}, but {why}", dag_id, "Delete the DAG in the UI, or let its rows age out"
    if "secrets" in warned and found.secrets:
        for finding in found.secrets.findings[:_NAMED]:
            where = place(finding.dag_id, finding.task_id, finding.key)
            yield f"possible secret: {finding.kind}", where, "Rotate it and store it in a Connection"
