"""Trend, forecast and anomalies, by hand-made audits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from include.xcom_maintenance.size_audit.growth import (
    DagGrowth,
    PastAudit,
    changes,
    day_number,
    day_of,
    forecasts,
    trend,
)

START = datetime(2026, 3, 1, 1, 0, tzinfo=UTC)


def audit(days: float, table_bytes: int, dags: dict[str, DagGrowth] | None = None) -> PastAudit:
    moment = START + timedelta(days=days)
    return PastAudit(moment, table_bytes, moment.date() - timedelta(days=1), dags or {})


def pushed(bytes_a_day: int, pushes: int = 1) -> DagGrowth:
    return DagGrowth(10 * bytes_a_day, pushes, bytes_a_day)


def test_two_audits_a_day_apart_give_the_difference() -> None:
    assert trend([audit(0, 1_000), audit(1, 1_700)]) == pytest.approx(700)
    assert trend([audit(0.5, 1_700), audit(0, 1_000)]) == pytest.approx(1_400)


def test_a_trend_is_drawn_through_all_audits_and_no_outlier_decides_alone() -> None:
    steady = [audit(day, 1_000 + 100 * day) for day in range(10)]
    assert trend(steady) == pytest.approx(100)
    # By the normal equations, worked out by another way than the code's.
    sizes = [1_000, 1_100, 5_000, 1_300]
    n, x, y = 4, sum(range(4)), sum(sizes)
    xy, xx = sum(day * size for day, size in enumerate(sizes)), sum(day * day for day in range(4))
    expected = (n * xy - x * y) / (n * xx - x * x)
    assert trend([audit(day, size) for day, size in enumerate(sizes)]) == pytest.approx(expected)


@pytest.mark.parametrize("audits", [[], [audit(0, 1)], [audit(0, 1), audit(0, 2)], [audit(0, 1), audit(0.01, 2)]])
def test_there_is_no_trend_where_there_is_nothing_to_draw_a_line_through(audits: list[PastAudit]) -> None:
    assert trend(audits) is None


def test_the_forecast_is_the_day_on_which_the_line_reaches_the_size() -> None:
    now = audit(1, 2_000)
    [near, far, reached] = forecasts(now, 1_000, [4_500, 1_002_000, 1_500])
    assert (near.day, near.reached) == ((now.moment + timedelta(days=2.5)).date(), False)
    assert far.day == (now.moment + timedelta(days=1_000)).date()
    assert (reached.day, reached.reached) == (now.moment.date(), True)


@pytest.mark.parametrize("bytes_a_day", [None, 0, -5, 0.001])
def test_a_table_that_does_not_grow_gets_no_forecast(bytes_a_day: float | None) -> None:
    [found] = forecasts(audit(0, 1_000), bytes_a_day, [10_000])
    assert (found.day, found.reached) == (None, False)


def test_a_change_is_an_anomaly_if_it_doubled_or_halved_and_is_large_enough() -> None:
    before = audit(0, 0, {"doubled": pushed(100), "halved": pushed(100), "less": pushed(100), "same": pushed(7),
                          "small": pushed(1), "stopped": pushed(80, 5)})  # fmt: skip
    now = audit(1, 0, {"doubled": pushed(200), "halved": pushed(50), "less": pushed(160), "same": pushed(7),
                       "small": pushed(9), "new": pushed(500)})  # fmt: skip
    found = changes(now, [before], least_bytes=50)
    assert [(c.dag_id, c.is_anomaly) for c in found] == [
        ("new", True), ("doubled", True), ("stopped", True), ("less", False), ("halved", True), ("small", False),
    ]  # fmt: skip
    stopped = found[2]
    assert (stopped.bytes_a_day, stopped.bytes_a_day_before, stopped.pushes_a_day_before) == (0, 80, 5)


def test_growth_is_compared_with_the_newest_audit_of_an_earlier_day_only() -> None:
    now = audit(5, 0, {"a": pushed(10)})
    earlier, oldest = audit(4, 0, {"a": pushed(4)}), audit(2, 0, {"a": pushed(2)})
    of_today = PastAudit(now.moment - timedelta(minutes=5), 0, now.day, {"a": pushed(99)})
    [found] = changes(now, [oldest, of_today, earlier], least_bytes=1)
    assert found.bytes_a_day_before == 4
    assert changes(now, [of_today], least_bytes=1) == []
    assert changes(now, [PastAudit(earlier.moment, 5)], least_bytes=1) == []


def test_days_are_counted_in_utc() -> None:
    assert day_of(day_number(datetime(2026, 3, 1, 23, 59, tzinfo=UTC))) == date(2026, 3, 1)
    assert day_of(day_number(datetime.fromisoformat("2026-03-01T23:59:00-05:00"))) == date(2026, 3, 2)
    assert day_of(day_number(datetime(1969, 12, 31, 12, tzinfo=UTC))) == date(1969, 12, 31)
