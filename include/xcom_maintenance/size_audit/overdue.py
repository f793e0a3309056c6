"""Whether cleanup works: rows that the retention rules should have removed days ago, and runs that never end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

from include.xcom_maintenance.metadata.ports.size_audit import LongRun
from include.xcom_maintenance.retention.current import policy_of
from include.xcom_maintenance.retention.policy import RunVerdict, given_up
from include.xcom_maintenance.size_audit.job import AuditJob

#: Runs judged at a time.
_RUNS_AT_ONCE = 50_000


@dataclass(slots=True)
class Overdue:
    """Rows and stored bytes that a cleanup should have deleted, and the rows by DAG."""

    rows: int = 0
    bytes: int = 0
    dags: Counter[str] = field(default_factory=Counter)


def overdue(job: AuditJob) -> Overdue:
    """What today's retention rules would have deleted ``warn_overdue_days`` ago, counted by the same statements.

    Runs that have only just finished after a long time are counted too, though no cleanup could have deleted them.
    """
    policy = policy_of(job, job.metadata.now() - timedelta(days=job.settings.warn_overdue_days))
    found = Overdue()
    verdicts = policy.judge(job.metadata.runs(created_before=policy.horizon))
    losing = (v for v in verdicts if isinstance(v, RunVerdict) and any(part.cut for part in v.parts))
    while some := list(islice(losing, _RUNS_AT_ONCE)):
        dags = {verdict.run.dag_run_id: verdict.run.dag_id for verdict in some}
        for measured in job.metadata.measure(given_up(some, [])):
            found.rows += measured.rows
            found.bytes += measured.bytes
            found.dags[dags[measured.dag_run_id]] += measured.rows
    found.dags = +found.dags
    return found


def long_runs(job: AuditJob) -> list[LongRun]:
    """Runs that have been in no final state for longer than the tasks of a run that is over may be silent.

    Their rows stay for as long as they do: nobody but a person can tell whether such a run still works.
    """
    settings = job.settings
    days = settings.stuck_after_days
    if days is None:
        return []
    after = timedelta(days=settings.max_age_days if days == "max_age_days" else float(days))
    return job.metadata.long_runs(job.metadata.now() - after)
