"""Whether a run is finished, said in SQL, and how it is kept from coming to life meanwhile."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from include.xcom_maintenance.core.runs import FINISHED_RUN_STATES, FINISHED_TASK_STATES

#: Parameters of whatever asks for unfinished runs or tasks.
STATES = {"run_states": list(FINISHED_RUN_STATES), "task_states": list(FINISHED_TASK_STATES)}

_FINAL = sorted(FINISHED_TASK_STATES)
_IN_ORDER = " AND ".join(f"'{a}'::varchar < '{b}'::varchar" for a, b in pairwise(_FINAL))
#: Every state but the final ones, as ranges between them, which the index on the state can find: where few tasks are in
#: one, the planner looks for those, and else at the tasks of the runs in question. Should the database not sort the
#: final states as Python does, which it knows when it plans, each state is compared with them.
UNFINISHED_STATE = " OR ".join(
    [
        "t.state IS NULL",
        f"t.state < '{_FINAL[0]}'",
        *(f"t.state > '{a}' AND t.state < '{b}'" for a, b in pairwise(_FINAL)),
        f"t.state > '{_FINAL[-1]}'",
        f"NOT ({_IN_ORDER}) AND NOT t.state = ANY(%(task_states)s)",
    ]
)

#: A run that may still pull: {run} is an alias of dag_run.
UNFINISHED = f"""({{run}}.state IS NULL OR NOT {{run}}.state = ANY(%(run_states)s) OR EXISTS (
        SELECT FROM task_instance t
        WHERE t.dag_id = {{run}}.dag_id AND t.run_id = {{run}}.run_id AND ({UNFINISHED_STATE})))"""

#: When a task was last touched, and a run; NULL if nothing is known. To clear a task touches it.
TASK_SEEN = """greatest(t.updated_at, t.last_heartbeat_at, t.start_date, t.end_date, t.queued_dttm, t.scheduled_dttm)"""
RUN_SEEN = "greatest({run}.end_date, {run}.updated_at)"

_TASKS_OF = "SELECT FROM task_instance t WHERE t.dag_id = {run}.dag_id AND t.run_id = {run}.run_id"
#: The same, but for runs that are over and whose unfinished tasks are stuck: neither of them nor of the run was there a
#: sign of life since ``%(stuck_before)s``. Such a task has no scheduler any more. What gives no sign at all is taken to
#: be alive; where ``stuck_before`` is NULL, everything is. Each EXISTS is about tasks alone, so that the planner can
#: look all of them up at once, and only the first is needed for a run that ended long ago.
UNFINISHED_AND_NOT_STUCK = f"""({{run}}.state IS NULL OR NOT {{run}}.state = ANY(%(run_states)s)
    OR EXISTS ({_TASKS_OF} AND ({UNFINISHED_STATE})
               AND coalesce({TASK_SEEN} >= %(stuck_before)s::timestamptz, %(stuck_before)s::timestamptz IS NULL))
    OR coalesce({RUN_SEEN} >= %(stuck_before)s::timestamptz, false) AND EXISTS ({_TASKS_OF} AND ({UNFINISHED_STATE}))
    OR {RUN_SEEN} IS NULL AND EXISTS ({_TASKS_OF} AND ({UNFINISHED_STATE}) AND {TASK_SEEN} IS NULL))"""

UNFINISHED_RUNS = f"""
SELECT r.dag_id, r.run_id
FROM unnest(%(dag_ids)s::text[], %(run_ids)s::text[]) AS c(dag_id, run_id)
JOIN dag_run r ON r.dag_id = c.dag_id AND r.run_id = c.run_id
WHERE {UNFINISHED_AND_NOT_STUCK.format(run="r")}"""

#: Those of the runs ``%(ids)s`` that are not finished. Part of every statement, and the last look before the commit: a
#: task can be cleared without its run being touched, so no lock would show it.
UNFINISHED_AMONG = f"""
SELECT r.id FROM dag_run r WHERE r.id = ANY(%(ids)s::int[]) AND {UNFINISHED.format(run="r")}"""
PULLING_AMONG = f"""
SELECT r.id FROM dag_run r WHERE r.id = ANY(%(ids)s::int[]) AND {UNFINISHED_AND_NOT_STUCK.format(run="r")}"""

#: The first statement of a deleting transaction: a concurrent change of these runs waits for it, or it for the change,
#: and the statements after it see what was committed meanwhile.
LOCK_RUNS = "SELECT id FROM dag_run WHERE id = ANY(%(ids)s::int[]) ORDER BY id FOR SHARE"


class CameToLifeError(Exception):
    """Runs of a batch are not finished after all: nothing was changed."""

    def __init__(self, dag_run_ids: Collection[int]) -> None:
        self.dag_run_ids = dag_run_ids
        super().__init__("a run of the batch came to life")
