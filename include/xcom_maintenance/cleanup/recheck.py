"""What the policy deletes at the moment of the delete."""

from __future__ import annotations

from datetime import datetime

from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.core.runs import Cut
from include.xcom_maintenance.retention.current import policy_of
from include.xcom_maintenance.retention.policy import Part, RunVerdict


class CurrentPolicy:
    """What the policy deletes now: settings and history may have changed since the plan.

    Only the newest runs of each DAG are checked again. For older runs the verdict depends only on the rules and on
    whether the run is finished, and the delete statement itself checks that.
    """

    def __init__(self, job: CleanupJob, planned_at: datetime) -> None:
        self._policy = policy_of(job, planned_at)
        #: One object for all runs with the same verdict.
        self._cuts: dict[tuple[int, ...], tuple[Cut, ...]] = {}
        newest = job.metadata.newest_finished_runs(self._policy.newest) if self._policy.newest else iter(())
        self._newest = {
            verdict.run.dag_run_id: self._cuts_of(verdict.parts)
            for verdict in self._policy.judge(newest)
            if isinstance(verdict, RunVerdict)
        }

    def cuts(self, dag_run_id: int, dag_id: str) -> tuple[Cut, ...]:
        """The cuts in a run, provided it is finished; empty if none of its rows may be deleted."""
        found = self._newest.get(dag_run_id)
        return self._cuts_of(self._policy.beyond(dag_id)) if found is None else found

    def _cuts_of(self, parts: tuple[Part, ...]) -> tuple[Cut, ...]:
        key = tuple(map(id, parts))
        if key not in self._cuts:
            self._cuts[key] = tuple(part.cut for part in parts if part.cut is not None)
        return self._cuts[key]
