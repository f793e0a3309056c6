"""The statements of retention: which runs there are, what would go, what stays, and the delete itself.

Planning, measuring and deleting share their conditions as text, so that a report tells the truth and every condition
stands in the DELETE itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from include.xcom_maintenance.core.runs import (
    Cut,
    Doomed,
    RunRows,
    Sample,
    SampledRows,
    Scope,
    Selection,
)
from include.xcom_maintenance.metadata.postgres.rows import ADDRESS, IS_SHORT
from include.xcom_maintenance.metadata.postgres.runs import RunQueries, ages, horizon
from include.xcom_maintenance.metadata.postgres.scopes import scope_condition
from include.xcom_maintenance.metadata.postgres.session import BY_INDEX
from include.xcom_maintenance.metadata.postgres.states import PULLING_AMONG, STATES, UNFINISHED_AND_NOT_STUCK

#: Where a run keeps its latest values: the rows that xcom_pull(include_prior_dates=True) would take, if
#: it were called by a run made now, by the next scheduled one, or by any run of the DAG that is not finished. Airflow
#: looks at rows of runs whose logical date, or else due date, is not after the caller's, and prefers those without a
#: logical date, then the latest logical date, then the latest push. Rows of unfinished runs do not count: a retry
#: removes them. Computed once per statement.
_KEEPERS = f"""WITH dags AS MATERIALIZED (
    SELECT DISTINCT dag_id FROM dag_run WHERE id = ANY(%(ids)s::int[])
),
unfinished AS MATERIALIZED (
    SELECT r.id, r.dag_id, coalesce(r.logical_date, r.run_after) AS sees_until
    FROM dag_run r
    WHERE r.dag_id IN (SELECT dag_id FROM dags) AND {UNFINISHED_AND_NOT_STUCK.format(run="r")}
),
keepers AS MATERIALIZED (
    SELECT DISTINCT ON (caller.dag_id, caller.id, n.task_id, n.map_index, n.key, nr.logical_date IS NULL)
           n.dag_run_id, n.task_id, n.map_index, n.key
    FROM (
        SELECT NULL::int AS id, dag_id, 'infinity'::timestamptz AS sees_until FROM dags
        UNION ALL
        SELECT 0, dag_id, next_dagrun FROM dag WHERE dag_id IN (SELECT dag_id FROM dags)
        UNION ALL
        SELECT id, dag_id, sees_until FROM unfinished
    ) caller
    JOIN xcom n ON n.dag_id = caller.dag_id
    JOIN dag_run nr ON nr.id = n.dag_run_id
    WHERE coalesce(nr.logical_date, nr.run_after) <= caller.sees_until
      AND NOT EXISTS (SELECT FROM unfinished u WHERE u.id = nr.id)
    ORDER BY caller.dag_id, caller.id, n.task_id, n.map_index, n.key, nr.logical_date IS NULL,
             nr.logical_date DESC, n.timestamp DESC, n.dag_run_id DESC
)"""

#: Beside it, whether a row is one of those, or goes with one. Elsewhere both are left out, for they cost a look at all
#: rows of a DAG.
_KEPT = """(EXISTS (
        SELECT FROM keepers k
        WHERE k.dag_run_id = x.dag_run_id AND k.task_id = x.task_id
          AND k.map_index = x.map_index AND k.key = x.key)
    OR x.map_index >= 0 AND (x.dag_run_id, x.task_id, x.key) IN (
        SELECT k.dag_run_id, k.task_id, k.key FROM keepers k WHERE k.map_index >= 0))"""

#: Whether a row goes with one that was pushed after the cutoff. The rows that the instances of a mapped task pushed
#: under one key are one result, and as young as the youngest of them: a task that pulls them would take those that are
#: left for all, or each for another. Not correlated, and looked up only once there is a mapped row.
_WITH_YOUNG = """(x.map_index >= 0 AND (x.dag_run_id, x.task_id, x.key) IN (
        SELECT m.dag_run_id, m.task_id, m.key FROM xcom m
        WHERE m.dag_run_id = ANY(%(ids)s::int[]) AND m.map_index >= 0 AND m.timestamp >= %(cutoff)s{within}
        GROUP BY 1, 2, 3))"""

#: Mapped rows that were pushed while a batch was being deleted, or nearly so: what the delete saw of their group is not
#: all of it. Nobody pushes into a run that is finished, so its time is another one.
_JUST_PUSHED = """
SELECT DISTINCT x.dag_run_id FROM xcom x
WHERE x.dag_run_id = ANY(%(ids)s::int[]) AND x.map_index >= 0 AND x.timestamp >= now() - interval '1 minute'{within}"""


class Retention:
    """The statements about what one cut takes from some runs, with only the conditions that it needs.

    :param runs: their ids.
    :param within: leaves some rows out, never only some of a group of mapped ones; ``{row}`` is the alias of ``xcom``.
    """

    def __init__(self, cut: Cut, runs: Sequence[int], within: str = "") -> None:
        self._with = _KEEPERS if cut.keep_latest_value else ""
        self._kept = _KEPT if cut.keep_latest_value else "false"
        self._with_young = _WITH_YOUNG.format(within=within.format(row="m"))
        self._within = within.format(row="x")
        self.parameters: dict[str, Any] = {**STATES, "ids": list(runs), "cutoff": cut.cutoff}
        self.parameters["stuck_before"] = cut.stuck_before
        # The ids themselves, and not a join with the runs: to look them all up by one index scan costs a fifth less.
        self._selected = f"x.dag_run_id = ANY(%(ids)s::int[]) AND {self._chosen(cut.selection)}"
        self._finished = f"{self._selected} AND NOT x.dag_run_id = ANY(ARRAY({PULLING_AMONG}))"
        self._old = f"x.timestamp < %(cutoff)s AND NOT {self._with_young}"
        self._doomed = f"{self._old} AND NOT {self._kept}"

    def _chosen(self, selection: Selection | None) -> str:
        if selection is None:
            return "true"
        scopes = [scope_condition(selection.scope, "scope", self.parameters)]
        for number, scope in enumerate(selection.before):
            scopes.append("NOT " + scope_condition(scope, f"before{number}", self.parameters))
        return " AND ".join(scopes)

    @property
    def measure(self) -> str:
        """Of each run, rows and bytes in all, of those that stay, and of those among them that only stay as the latest
        of their key. Hardly any do, so the second and third cost little.
        """
        latest = _sums(f"{self._old} AND {self._kept}") if self._with else "0, 0"
        return f"""{self._with} SELECT x.dag_run_id, {_sums()}, {_sums(f"NOT ({self._doomed})")}, {latest}
FROM xcom x WHERE {self._finished} GROUP BY x.dag_run_id"""

    @property
    def references(self) -> str:
        """Values that go and may refer to a blob below the base path."""
        # CASE keeps the order of the tests.
        return f"""{self._with}
SELECT x.dag_id, x.run_id, x.task_id, x.map_index, x.key, x.timestamp, pg_column_size(x.value), x.value::text
FROM xcom x
WHERE {self._finished} AND {self._doomed}
  AND CASE WHEN {IS_SHORT} THEN position(%(marker)s IN {ADDRESS}) > 0 END"""

    def delete(self, *, returning: str | None = None) -> str:
        """The delete, which takes nothing at all if one of the runs is not finished.

        :param returning: of the rows ``x``.
        """
        end = f" RETURNING {returning}" if returning else ""
        # Asked once, and not of every row.
        condition = f"NOT EXISTS ({PULLING_AMONG}) AND {self._selected} AND {self._doomed}{self._within}"
        return f"{self._with} DELETE FROM xcom x WHERE {condition}{end}"

    @property
    def just_pushed(self) -> str:
        """The runs of which the delete cannot have seen all."""
        return _JUST_PUSHED.format(within=self._within)

    # -- in pieces, of one run ``%(run)s``

    @property
    def next_row(self) -> str:
        """The place of the first row beyond ``%(limit)s`` that may go, in the order of the primary key.

        What may go is told by its own time alone, which is quicker, so there may be fewer that do go before it.
        """
        chosen = self._selected.replace("x.dag_run_id = ANY(%(ids)s::int[])", "x.dag_run_id = %(run)s")
        return f"""
SELECT x.task_id, x.map_index, x.key FROM xcom x
WHERE {chosen} AND x.timestamp < %(cutoff)s{self._within}
ORDER BY x.task_id, x.map_index, x.key OFFSET %(limit)s LIMIT 1"""

    @property
    def groups(self) -> str:
        """Keys and the number of rows of each that go, as many keys as ``%(limit)s`` rows may have."""
        return f"""{self._with} SELECT x.key, count(*) FROM xcom x
WHERE {self._finished} AND {self._doomed}{self._within} GROUP BY x.key ORDER BY x.key LIMIT greatest(1, %(limit)s)"""


def _sums(which: str | None = None) -> str:
    """Number and stored bytes of the rows for which a condition holds; None: of all."""
    some = f" FILTER (WHERE {which})" if which else ""
    return f"count(*){some}, coalesce(sum(pg_column_size(x.value)){some}, 0)"


#: Of the table's pages as many as are 32 MB, in percent; 100 for a smaller table.
_SAMPLED = "least(100, 100.0 * 32 * 1024 * 1024 / greatest(1, pg_relation_size('xcom')))"


def sampling(scopes: Sequence[Scope], *, knows_creation: bool) -> tuple[str, dict[str, Any]]:
    """The rows on some of the table's pages, by run; those of runs that ``runs`` gives in numbers by DAG.

    A statement and its parameters but for ``%(horizon)s``. How many percent of the pages it was comes with each group,
    and with NULLs if there is none, as where all rows of those pages were deleted.
    """
    parameters: dict[str, Any] = {**STATES}
    bits = [
        f"CASE WHEN {scope_condition(scope, f'scope{i}', parameters)} THEN {1 << i} ELSE 0 END"
        for i, scope in enumerate(scopes)
    ]
    # By run first, and only then joined with the runs.
    groups = f"""
SELECT r.dag_id, CASE WHEN r.old OR d.mixed THEN r.id END AS run, r.state = ANY(%(run_states)s) AS finished,
       seen.scopes, sum(seen.rows)::bigint, coalesce(sum(seen.size), 0)
FROM (
    SELECT x.dag_run_id, {" + ".join(bits) or "0"} AS scopes, count(*) AS rows, sum(pg_column_size(x.value)) AS size
    FROM xcom x TABLESAMPLE SYSTEM ({_SAMPLED}) GROUP BY 1, 2
) seen JOIN r ON r.id = seen.dag_run_id JOIN d ON d.dag_id = r.dag_id
GROUP BY 1, 2, 3, 4"""
    statement = f"""
WITH {ages(knows_creation=knows_creation)}
SELECT pages.percent, found.* FROM (SELECT {_SAMPLED}) AS pages(percent) LEFT JOIN ({groups}) found ON true"""
    return statement, parameters


class RetentionQueries(RunQueries):
    """What the retention rules would take, and what they would leave."""

    def sample(self, scopes: Sequence[Scope], *, created_before: datetime | None = None) -> Sample:
        statement, parameters = sampling(scopes, knows_creation=self._knows_creation)
        found = self._session.rows(statement, {**parameters, "horizon": horizon(created_before)})
        groups = [
            SampledRows(dag, run, done, bits, n, int(size))
            for _, dag, run, done, bits, n, size in found
            if dag is not None
        ]
        return Sample(float(found[0][0]) / 100, groups)

    def measure(self, doomed: Doomed) -> Iterator[RunRows]:
        for which, runs in doomed.by_cut().items():
            wanted = Retention(doomed.cuts[which], runs)
            for run, *figures in self._session.rows(wanted.measure, wanted.parameters, access=BY_INDEX):
                yield _run_rows(run, which, *figures)

    def _retentions(self, doomed: Doomed) -> list[Retention]:
        """The statements of each cut."""
        return [Retention(doomed.cuts[which], runs) for which, runs in doomed.by_cut().items()]


def _run_rows(
    dag_run_id: int, which: int, rows: int, size: int, staying: int, staying_size: int, latest: int, latest_size: int
) -> RunRows:
    younger, younger_size = staying - latest, staying_size - latest_size
    return RunRows(dag_run_id, which, rows - staying, size - staying_size, younger, younger_size, latest, latest_size)
