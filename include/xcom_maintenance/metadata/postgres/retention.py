"""The statements of retention: which runs there are, what would go, what stays, and the delete itself.

Planning, measuring and deleting share their conditions as text, so that a report tells the truth and every condition
stands in the DELETE itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any

from include.xcom_maintenance.core.runs import FINISHED_RUN_STATES, FINISHED_TASK_STATES, Cut, Scope, Selection
from include.xcom_maintenance.metadata.postgres.rows import ADDRESS, UNFINISHED
from include.xcom_maintenance.metadata.postgres.session import BY_INDEX, IN_PAGE_ORDER

#: Every state but the final ones, as ranges between them: the index on the state finds the few tasks there are, where
#: NOT IN would read the whole table. Right wherever FEW_UNFINISHED holds.
_STATES_IN_ORDER = sorted(FINISHED_TASK_STATES)
_UNFINISHED_STATE = " OR ".join(
    [
        "t.state IS NULL",
        f"t.state < '{_STATES_IN_ORDER[0]}'",
        *(f"t.state > '{a}' AND t.state < '{b}'" for a, b in pairwise(_STATES_IN_ORDER)),
        f"t.state > '{_STATES_IN_ORDER[-1]}'",
    ]
)
#: With more unfinished task instances than this it is quicker to look at those of the runs in question.
_FEW = 2_000
#: Whether the database sorts the final states as this module does, and only few tasks are in any other.
FEW_UNFINISHED = f"""
SELECT {" AND ".join(f"'{a}'::varchar < '{b}'::varchar" for a, b in pairwise(_STATES_IN_ORDER))}
   AND (SELECT count(*) FROM (SELECT FROM task_instance t WHERE {_UNFINISHED_STATE} LIMIT {_FEW + 1}) few) <= {_FEW}"""

_BUSY = f"busy AS MATERIALIZED (SELECT DISTINCT t.dag_id, t.run_id FROM task_instance t WHERE {_UNFINISHED_STATE})"

#: A run that may lose rows: {run} is an alias of dag_run. By whether few task instances are unfinished. NOT IN, which
#: Postgres answers from a hash table, whatever it expects the number to be; neither column is ever NULL.
_FINISHED = {
    True: """{run}.state = ANY(%(run_states)s)
        AND ({run}.dag_id, {run}.run_id) NOT IN (SELECT b.dag_id, b.run_id FROM busy b)""",
    False: f"NOT {UNFINISHED}",
}
STATES = {"run_states": list(FINISHED_RUN_STATES), "task_states": list(FINISHED_TASK_STATES)}


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
    WHERE r.dag_id IN (SELECT dag_id FROM dags) AND {UNFINISHED.format(run="r")}
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

#: Beside it, whether a row is one of those. Elsewhere both are left out, for they cost a look at all rows of a DAG.
_KEPT = """EXISTS (
        SELECT FROM keepers k
        WHERE k.dag_run_id = x.dag_run_id AND k.task_id = x.task_id
          AND k.map_index = x.map_index AND k.key = x.key)"""


class Retention:
    """The statements about what one cut takes from some runs, with only the conditions that it needs.

    :param runs: their ids.
    :param few_unfinished: whether ``FEW_UNFINISHED`` holds.
    """

    def __init__(self, cut: Cut, runs: Sequence[int], *, few_unfinished: bool) -> None:
        self._with = _KEEPERS if cut.keep_latest_value else ""
        self._kept = _KEPT if cut.keep_latest_value else "false"
        #: An array as Postgres writes it is quicker than to adapt each number.
        self.parameters: dict[str, Any] = {**STATES, "ids": array(runs), "cutoff": cut.cutoff}
        #: How to get at the rows.
        self.access = BY_INDEX if cut.keep_latest_value else IN_PAGE_ORDER
        self._unfinished = unfinished(few_unfinished=few_unfinished)
        # The ids themselves, and not a join with the runs: to look them all up by one index scan costs a fifth less.
        self._selected = f"x.dag_run_id = ANY(%(ids)s::int[]) AND {self._chosen(cut.selection)}"
        self._finished = f"{self._selected} AND NOT x.dag_run_id = ANY(ARRAY({self._unfinished}))"
        self._doomed = f"x.timestamp < %(cutoff)s AND NOT {self._kept}"

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
        latest = _sums(f"x.timestamp < %(cutoff)s AND {self._kept}") if self._with else "0, 0"
        return f"""{self._with} SELECT x.dag_run_id, {_sums()}, {_sums(f"NOT ({self._doomed})")}, {latest}
FROM xcom x WHERE {self._finished} GROUP BY x.dag_run_id"""

    @property
    def references(self) -> str:
        """Values that go and are a string with the base path in it, or this project's own object around one."""
        # Only short strings can be references (a key of S3 has 1,024 bytes at most), so large values are never read
        # from TOAST: CASE keeps the order of the tests.
        return f"""{self._with}
SELECT x.dag_id, x.run_id, x.task_id, x.map_index, x.key, x.timestamp, pg_column_size(x.value), {ADDRESS}
FROM xcom x
WHERE {self._finished} AND {self._doomed}
  AND CASE WHEN pg_column_size(x.value) <= 1500 THEN position(%(marker)s IN {ADDRESS}) > 0 END"""

    def delete(self, *, limited: bool, returning: str | None = None) -> str:
        """The delete, which takes nothing at all if one of the runs is not finished.

        :param limited: to ``%(limit)s`` rows, for a run with more than one transaction may delete.
        :param returning: of the rows ``x``.
        """
        end = f" RETURNING {returning}" if returning else ""
        # Asked once, and not of every row.
        condition = f"NOT EXISTS ({self._unfinished}) AND {self._selected} AND {self._doomed}"
        if not limited:
            return f"{self._with} DELETE FROM xcom x WHERE {condition}{end}"
        # Choosing the rows first costs half as much again. The cutoff once more: a row that was written anew while the
        # delete waited for it is looked at again, but not its place.
        doomed = f"doomed AS (SELECT x.ctid AS place FROM xcom x WHERE {condition} LIMIT %(limit)s)"
        return f"""{self._with + "," if self._with else "WITH"} {doomed}
DELETE FROM xcom x USING doomed WHERE x.ctid = doomed.place AND x.timestamp < %(cutoff)s{end}"""


def _sums(which: str | None = None) -> str:
    """Number and stored bytes of the rows for which a condition holds; None: of all."""
    some = f" FILTER (WHERE {which})" if which else ""
    return f"count(*){some}, coalesce(sum(pg_column_size(x.value)){some}, 0)"


class CameToLifeError(Exception):
    """Runs of a batch are not finished after all: nothing was changed."""

    def __init__(self, dag_run_ids: Collection[int]) -> None:
        self.dag_run_ids = dag_run_ids
        super().__init__("a run of the batch came to life")


def array(numbers: Sequence[int]) -> str:
    """Numbers as Postgres writes an array of them."""
    return "{" + ",".join(map(str, numbers)) + "}"


def unfinished(*, few_unfinished: bool) -> str:
    """Those of the runs ``%(ids)s`` that are not finished.

    Part of every statement, and the last look before the commit: a task can be cleared without its run being touched,
    so no lock would show it.
    """
    return f"""{"WITH " + _BUSY if few_unfinished else ""}
SELECT r.id FROM dag_run r
WHERE r.id = ANY(%(ids)s::int[]) AND ({_FINISHED[few_unfinished].format(run="r")}) IS NOT TRUE"""


#: The first statement of a deleting transaction: a concurrent change of these runs waits for it, or it for the change,
#: and the statements after it see what was committed meanwhile.
LOCK_RUNS = "SELECT id FROM dag_run WHERE id = ANY(%(ids)s::int[]) ORDER BY id FOR SHARE"


def _ages(*, knows_creation: bool) -> str:
    """Every run, whether it is old, and the DAGs of which a young run is due before an old one.

    :param knows_creation: whether ``dag_run`` says when a run was made, as it does since Airflow 3.2. Elsewhere every
        run is old: when it began says nothing of its rows, for a run that is cleared begins once more and keeps those
        of the tasks that were not.
    """
    old = "created_at IS NULL OR created_at < %(horizon)s::timestamptz" if knows_creation else "true"
    return f"""r AS NOT MATERIALIZED (
    SELECT id, dag_id, run_id, coalesce(state, '') AS state, run_after, {old} AS old
    FROM dag_run
),
d AS MATERIALIZED (
    SELECT dag_id, coalesce(max(run_after) FILTER (WHERE old) >= min(run_after) FILTER (WHERE NOT old), false) AS mixed
    FROM r GROUP BY dag_id
)"""


def runs(*, few_unfinished: bool, knows_creation: bool) -> str:
    """Runs that may lose rows one by one, the others in numbers, by DAG.

    A run that was created after ``%(horizon)s`` counts as young. Of a DAG in which a young run is due before one that
    is not, such as one that is being backfilled, all come one by one: only the order says which are the newest.
    """
    return f"""
WITH {_ages(knows_creation=knows_creation)},
{_busy_runs(few_unfinished=few_unfinished)}
SELECT r.dag_id, r.id, r.run_id, r.state, r.run_after, coalesce(busy.tasks, 0)
FROM r JOIN d USING (dag_id) LEFT JOIN busy USING (dag_id, run_id)
WHERE r.old OR d.mixed
UNION ALL
SELECT r.dag_id, NULL, count(*) FILTER (WHERE r.state = ANY(%(run_states)s))::text,
       count(*) FILTER (WHERE NOT r.state = ANY(%(run_states)s))::text, NULL, NULL
FROM r JOIN d USING (dag_id)
WHERE NOT r.old AND NOT d.mixed
GROUP BY r.dag_id
ORDER BY 1, 5 DESC NULLS FIRST, 2 DESC"""


def newest_finished_runs(*, few_unfinished: bool) -> str:
    """The ``%(count)s`` newest finished runs of each DAG."""
    return f"""
WITH {_busy_runs(few_unfinished=few_unfinished)}
SELECT r.dag_id, r.id, r.run_id, r.state, r.run_after, coalesce(busy.tasks, 0)
FROM (
    SELECT *, row_number() OVER (PARTITION BY dag_id ORDER BY run_after DESC, id DESC) AS place
    FROM dag_run WHERE state = ANY(%(run_states)s)
) r LEFT JOIN busy USING (dag_id, run_id)
WHERE r.place <= %(count)s
ORDER BY r.dag_id, r.place"""


def _busy_runs(*, few_unfinished: bool) -> str:
    """How many unfinished tasks there are, by run."""
    state = _UNFINISHED_STATE if few_unfinished else "t.state IS NULL OR NOT t.state = ANY(%(task_states)s)"
    return f"""busy AS MATERIALIZED (
    SELECT t.dag_id, t.run_id, count(*) AS tasks FROM task_instance t WHERE {state} GROUP BY t.dag_id, t.run_id
)"""


#: Of the table's pages as many as are 32 MB, in percent; 100 for a smaller table.
_SAMPLED = "least(100, 100.0 * 32 * 1024 * 1024 / greatest(1, pg_relation_size('xcom')))"


def sample(scopes: Sequence[Scope], *, knows_creation: bool) -> tuple[str, dict[str, Any]]:
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
WITH {_ages(knows_creation=knows_creation)}
SELECT pages.percent, found.* FROM (SELECT {_SAMPLED}) AS pages(percent) LEFT JOIN ({groups}) found ON true"""
    return statement, parameters


def scope_condition(scope: Scope, name: str, parameters: dict[str, Any]) -> str:
    """Whether the row ``x`` lies in a scope; its patterns join ``parameters`` under names that begin with ``name``."""
    conditions: list[str] = []
    for column, globs, operator in (
        ("task_id", scope.task_ids, "~"),
        ("task_id", scope.exclude_task_ids, "!~"),
        ("key", scope.keys, "~"),
        ("key", scope.exclude_keys, "!~"),
    ):
        if globs and not (operator == "~" and "*" in globs):
            parameter = f"{name}_{len(conditions)}"
            parameters[parameter] = regular_expression(globs)
            conditions.append(f"x.{column} {operator} %({parameter})s")
    return f"({' AND '.join(conditions) or 'true'})"


def regular_expression(globs: Sequence[str]) -> str:
    """Postgres' regular expression for names that match one of some globs, as ``fnmatch.fnmatchcase`` reads them."""
    return f"^(?:{'|'.join(''.join(_pieces(glob)) for glob in globs)})$"


def _pieces(glob: str) -> Iterator[str]:
    at = 0
    while at < len(glob):
        character = glob[at]
        at += 1
        if character == "*":
            yield ".*"
        elif character == "?":
            yield "."
        elif character == "[" and (end := glob.find("]", at + 1 + (glob[at : at + 1] == "!"))) > 0:
            yield _set(glob[at:end])
            at = end + 1
        else:
            yield _literal(character)


def _set(inner: str) -> str:
    """What stands between the brackets of a glob, as one of the characters that it allows."""
    items: list[str] = []
    # Python drops a range that runs backwards before it looks whether the set begins with "!".
    while inner[1:2] == "-" and len(inner) > 2 and inner[0] > inner[2]:
        inner = inner[3:]
    negated = inner.startswith("!")
    at = int(negated)
    while at < len(inner):
        if inner[at + 1 : at + 2] == "-" and at + 2 < len(inner):
            low, high = inner[at], inner[at + 2]
            items += [f"{_literal(low)}-{_literal(high)}"] if low <= high else []
            at += 3
        else:
            items.append(_literal(inner[at]))
            at += 1
    if not items:  # only ranges that run backwards
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{''.join(items)}]"


def _literal(character: str) -> str:
    """A character by its number, which means nothing but itself anywhere in a regular expression."""
    return f"\\U{ord(character):08x}"
