"""Whether a run is finished, said in SQL, and how it is kept from coming to life meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from include.xcom_maintenance.core.runs import (
    FINISHED_RUN_STATES,
    FINISHED_TASK_STATES,
)

#: A run that may still pull: {run} is an alias of dag_run.
UNFINISHED = """({run}.state IS NULL OR NOT {run}.state = ANY(%(run_states)s) OR EXISTS (
        SELECT FROM task_instance t
        WHERE t.dag_id = {run}.dag_id AND t.run_id = {run}.run_id
          AND (t.state IS NULL OR NOT t.state = ANY(%(task_states)s))))"""


#: Every state but the final ones, as ranges between them: the index on the state finds the few tasks there are, where
#: NOT IN would read the whole table. Right wherever FEW_UNFINISHED holds.
_STATES_IN_ORDER = sorted(FINISHED_TASK_STATES)


UNFINISHED_STATE = " OR ".join(
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
   AND (SELECT count(*) FROM (SELECT FROM task_instance t WHERE {UNFINISHED_STATE} LIMIT {_FEW + 1}) few) <= {_FEW}"""


_BUSY = f"busy AS MATERIALIZED (SELECT DISTINCT t.dag_id, t.run_id FROM task_instance t WHERE {UNFINISHED_STATE})"


#: A run that may lose rows: {run} is an alias of dag_run. By whether few task instances are unfinished. NOT IN, which
#: Postgres answers from a hash table, whatever it expects the number to be; neither column is ever NULL.
_FINISHED = {
    True: """{run}.state = ANY(%(run_states)s)
        AND ({run}.dag_id, {run}.run_id) NOT IN (SELECT b.dag_id, b.run_id FROM busy b)""",
    False: f"NOT {UNFINISHED}",
}


STATES = {"run_states": list(FINISHED_RUN_STATES), "task_states": list(FINISHED_TASK_STATES)}


class CameToLifeError(Exception):
    """Runs of a batch are not finished after all: nothing was changed."""

    def __init__(self, dag_run_ids: Collection[int]) -> None:
        self.dag_run_ids = dag_run_ids
        super().__init__("a run of the batch came to life")


def array(numbers: Sequence[int]) -> str:
    """Numbers as Postgres writes an array of them."""
    return "{" + ",".join(map(str, numbers)) + "}"


def unfinished_ids(*, few_unfinished: bool) -> str:
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


UNFINISHED_RUNS = f"""
SELECT r.dag_id, r.run_id
FROM unnest(%(dag_ids)s::text[], %(run_ids)s::text[]) AS c(dag_id, run_id)
JOIN dag_run r ON r.dag_id = c.dag_id AND r.run_id = c.run_id
WHERE {UNFINISHED.format(run="r")}"""
