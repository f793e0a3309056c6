"""How old a blob is: a time that cannot be right never makes it old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from include.xcom_maintenance.core.ages import Age, age_of, believed

NOW = datetime(2026, 6, 1, tzinfo=UTC)
BEFORE = NOW - timedelta(days=7)


@pytest.mark.parametrize(
    "modified",
    [
        None,
        datetime(1, 1, 1, tzinfo=UTC),
        datetime.fromtimestamp(0, UTC),
        datetime(1980, 1, 1, tzinfo=UTC),
        datetime(2014, 12, 31, 23, 59, 59, tzinfo=UTC),
        NOW + timedelta(hours=1),
        datetime(2107, 12, 31, tzinfo=UTC),
        datetime(9999, 12, 31, tzinfo=UTC),
    ],
)
def test_a_time_that_cannot_be_right_never_makes_a_blob_old(modified: datetime | None) -> None:
    assert age_of(modified, before=BEFORE, now=NOW) is Age.UNKNOWN
    assert believed(modified, now=NOW) is None


@pytest.mark.parametrize(
    ("modified", "age"),
    [
        (datetime(2015, 1, 1, tzinfo=UTC), Age.OLD),
        (BEFORE - timedelta(seconds=1), Age.OLD),
        (BEFORE, Age.YOUNG),
        (NOW, Age.YOUNG),
        (NOW + timedelta(minutes=14), Age.YOUNG),
    ],
)
def test_a_time_that_can_be_right_is_believed(modified: datetime, age: Age) -> None:
    assert age_of(modified, before=BEFORE, now=NOW) is age
