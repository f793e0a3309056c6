"""What every task of the DAGs does around its job: settings, report, stores, and errors that people can read.

``steps`` is what the DAG files call; ``needs`` says what each DAG needs; ``opening`` and ``ending`` are the two ends of
a step.
"""

from include.xcom_maintenance.tasks.needs import AUDIT, CLEANUP, OFFLOAD, RECONCILIATION, RESTORE, ROTATION, Needs
from include.xcom_maintenance.tasks.steps import publish, run_apply, run_decide, run_finish, run_part, run_plan

__all__ = [
    "AUDIT",
    "CLEANUP",
    "OFFLOAD",
    "RECONCILIATION",
    "RESTORE",
    "ROTATION",
    "Needs",
    "publish",
    "run_apply",
    "run_decide",
    "run_finish",
    "run_part",
    "run_plan",
]
