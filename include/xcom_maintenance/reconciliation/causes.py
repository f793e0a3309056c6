"""Why no row refers to a blob: the most probable cause, from what the metadata still holds. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from include.xcom_maintenance.metadata.ports.reconciliation import Circumstances


class Cause(StrEnum):
    """What most probably orphaned a blob."""

    DAG_DELETED = "DAG deleted"
    RUN_DELETED = "run deleted"
    TASK_INSTANCE_DELETED = "task instance deleted"
    #: A duplicate: the row of the same task instance refers to a younger blob.
    PUSHED_AGAIN = "value pushed again"
    ROW_DELETED = "row deleted"
    WORKER_DIED = "worker died before the row was written"
    BASE_PATH_MOVED = "base path moved"
    UNKNOWN = "unknown: its key names no DAG, run and task"


def cause_of(modified: datetime | None, found: Circumstances | None) -> Cause:
    """The probable cause.

    :param modified: when the blob was written (UTC).
    :param found: None if its key does not name a DAG, run and task.
    """
    if found is None:
        return Cause.UNKNOWN
    if not found.run:
        return Cause.RUN_DELETED if found.dag else Cause.DAG_DELETED
    if not found.task_instance:
        return Cause.TASK_INSTANCE_DELETED
    if found.newest_reference is not None and (modified is None or found.newest_reference >= modified):
        return Cause.PUSHED_AGAIN
    if found.refers_elsewhere:
        return Cause.BASE_PATH_MOVED
    # A successful task has written its rows. One that failed in the attempt that wrote the blob may not have.
    earlier_attempt = modified is not None and found.started is not None and modified < found.started
    return Cause.ROW_DELETED if found.succeeded or earlier_attempt else Cause.WORKER_DIED
