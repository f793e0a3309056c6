"""The metadata store's stream of values: newest runs first, in order, within its bounds, with little memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from include.xcom_maintenance.metadata.ports.size_audit import PushedValue, ValuePosition, ValueSpan
from include.xcom_maintenance.metadata.postgres import values as postgres_values
from tests.conftest import Database
from tests.support.history import History, days_ago

LATER = datetime.now(UTC) + timedelta(days=1)


def keys(values: list[PushedValue]) -> list[str]:
    return [value.key for value in values]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every boundary is crossed."""
    monkeypatch.setattr(postgres_values, "_RUNS_AT_ONCE", 2)
    monkeypatch.setattr(postgres_values, "_VALUES_AT_ONCE", 2)


def test_no_value_is_missing_out_of_order_or_beyond_the_bounds(database: Database, history: History) -> None:
    for number in range(5):
        run = history.run("a", 10 - number)
        for row in range(3):
            history.xcom(run, {"n": row}, age_days=10 - number - row / 10, key=f"run{number}_{row}")
    newest_first = [f"run{number}_{row}" for number in (4, 3, 2, 1, 0) for row in (2, 1, 0)]
    with database.store() as store:
        every = list(store.values(ValueSpan(LATER), max_value_bytes=1_000))
        assert keys(every) == newest_first
        assert every[0].text == '{"n": 2}'
        assert store.count_values(ValueSpan(LATER)) == 15
        # From any position on, what comes after it, and nothing else.
        for number, value in enumerate(every):
            rest = ValueSpan(LATER, older_than=value.position)
            assert keys(list(store.values(rest, max_value_bytes=1_000))) == newest_first[number + 1 :]
            assert store.count_values(rest) == 14 - number
        since = ValueSpan(pushed_until=days_ago(6.95), pushed_after=days_ago(8.95))
        expected = ["run3_0", "run2_2", "run2_1", "run2_0", "run1_2", "run1_1"]
        assert keys(list(store.values(since, max_value_bytes=1_000))) == expected
        # What had ended before the first of these moments is not even looked at.
        history.connection.execute("UPDATE dag_run SET end_date = %s", (days_ago(9.5),))
        assert list(store.values(since, max_value_bytes=1_000)) == []


def test_no_large_value_leaves_the_database_however_well_it_is_compressed(database: Database, history: History) -> None:
    run = history.run("a", 1)
    history.xcom(run, "x" * 200_000, age_days=1, key="compressed")
    history.xcom(run, 1, age_days=1, key="small")
    with database.store() as store:
        found = {value.key: value for value in store.values(ValueSpan(LATER), max_value_bytes=10_000)}
    assert found["compressed"].stored_bytes < 10_000
    assert found["compressed"].text is None
    assert found["small"].text == "1"


def test_no_canary_and_no_null_comes(database: Database, history: History) -> None:
    run = history.run("a", 1)
    history.xcom(run, 1, age_days=1, key="xcom_maintenance_canary_1kb")
    history.xcom(run, 1, age_days=1, key="null")
    history.connection.execute("UPDATE xcom SET value = NULL WHERE key = 'null'")
    with database.store() as store:
        assert list(store.values(ValueSpan(LATER), max_value_bytes=1_000)) == []


def test_no_value_shows_in_a_repr(database: Database, history: History) -> None:
    run = history.run("a", 1)
    history.xcom(run, "hunter2", age_days=1)
    with database.store() as store:
        [value] = store.values(ValueSpan(LATER), max_value_bytes=1_000)
        row = store.stored("a", run.run_id, "t", -1, "return_value")
    assert value.text == '"hunter2"'
    assert row is not None
    assert row.text == "hunter2"
    assert "hunter2" not in repr((value, row))


def test_what_is_stored_of_one_row(database: Database, history: History) -> None:
    run = history.run("a", 1)
    history.xcom(run, {"a": 1}, age_days=1, key="object")
    history.xcom(run, "y" * 100_000, age_days=1, key="long")
    with database.store() as store:
        found = [store.stored("a", run.run_id, "t", -1, key) for key in ("object", "long", "none")]
    assert found[0] is not None
    assert found[0].text is None
    assert found[0].bytes > 0
    assert found[1] is not None
    assert found[1].bytes < 10_000
    assert found[2] is None


def test_rows_that_are_there_still_are_told_from_those_that_are_not(database: Database, history: History) -> None:
    run = history.run("a", 5)
    history.xcom(run, 1, age_days=5, key="k")
    with database.store() as store:
        there = store.values_still_there(
            [("a", "t", "k", days_ago(1)), ("a", "t", "k", days_ago(6)), ("b", "t", "k", LATER), ("a", "t", "x", LATER)]
        )
        assert there == [True, False, False, False]
        assert store.values_still_there([]) == []


def test_an_empty_table_has_no_values(database: Database) -> None:
    with database.store() as store:
        span = ValueSpan(LATER, older_than=ValuePosition(2**31 - 1, LATER))
        assert list(store.values(span, max_value_bytes=10)) == []
        assert store.count_values(span) == 0
