"""What probably left a blob without a row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from include.xcom_maintenance.metadata.ports.reconciliation import Circumstances
from include.xcom_maintenance.reconciliation.causes import Cause, cause_of

WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE, AFTER = WRITTEN - timedelta(hours=1), WRITTEN + timedelta(hours=1)


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (None, Cause.UNKNOWN),
        (Circumstances(dag=False, run=False, task_instance=False), Cause.DAG_DELETED),
        (Circumstances(dag=True, run=False, task_instance=False), Cause.RUN_DELETED),
        (Circumstances(dag=True, run=True, task_instance=False), Cause.TASK_INSTANCE_DELETED),
        (Circumstances(True, True, True, newest_reference=AFTER), Cause.PUSHED_AGAIN),
        (Circumstances(True, True, True, succeeded=True, newest_reference=BEFORE), Cause.ROW_DELETED),
        (Circumstances(True, True, True, refers_elsewhere=True), Cause.BASE_PATH_MOVED),
        (Circumstances(True, True, True, succeeded=True, started=BEFORE), Cause.ROW_DELETED),
        (Circumstances(True, True, True, succeeded=False, started=BEFORE), Cause.WORKER_DIED),
        (Circumstances(True, True, True, succeeded=False, started=AFTER), Cause.ROW_DELETED),
    ],
)
def test_no_cause_is_told_that_the_metadata_contradicts(found: Circumstances | None, cause: Cause) -> None:
    assert cause_of(WRITTEN, found) is cause
