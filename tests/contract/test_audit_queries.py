"""What the audit asks the metadata store, against the same worked out in Python from what was inserted."""

from __future__ import annotations

import json
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import StoreUnavailable
from include.xcom_maintenance.core.sizes import NULL_CLASS, class_of
from include.xcom_maintenance.core.table_figures import GroupKind, SizeGroup
from include.xcom_maintenance.metadata.ports import MetadataStore
from include.xcom_maintenance.size_audit.growth import day_number
from tests.conftest import Database
from tests.support.history import NOW, History, days_ago

BASE = BasePath.parse("s3://aws_xcom@bucket/xcom", setting="blob_base_path")
UUID = "11111111-2222-4333-8444-55555555555{}"
SINCE = NOW.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=14)


@dataclass(frozen=True)
class Row:
    """What was inserted, and what one row says about its own size, asked for row by row."""

    dag_id: str
    task_id: str
    map_index: int
    key: str
    pushed: datetime
    stored: int
    logical: int | None

    @property
    def day(self) -> int | None:
        return day_number(self.pushed) if self.pushed >= SINCE else None

    @property
    def stored_class(self) -> int:
        return NULL_CLASS if self.logical is None else class_of(self.stored)

    @property
    def logical_class(self) -> int:
        return NULL_CLASS if self.logical is None else class_of(self.logical)


@pytest.fixture
def known(history: History) -> list[Row]:
    """120 rows of three DAGs: of all classes below 10 MB, compressible and not, mapped and not, some NULL."""
    chance = random.Random(7)
    texts: dict[tuple[int, str, int, str], int] = {}
    for number in range(12):
        run = history.run(f"dag_{number % 3}", number * 3, run_id=f"run_{number}")
        for part in range(10):
            size = chance.choice([1, 300, 1_022, 1_500, 20_000, 60_000, 300_000])
            text = "x" * size if part % 2 else chance.randbytes(size // 2).hex()
            task_id, map_index = ("mapped", part) if part < 4 else (f"t{part % 3}", -1)
            key = f"k{part}"
            history.xcom(run, text, age_days=number * 3, task_id=task_id, map_index=map_index, key=key)
            texts[run.dag_run_id, task_id, map_index, key] = len(json.dumps(text))
        history.connection.execute("UPDATE xcom SET value = NULL WHERE run_id = %s AND key = 'k9'", (run.run_id,))
    rows = []
    for dag_run_id, dag_id, task_id, map_index, key, pushed, stored in history.connection.execute(
        "SELECT dag_run_id, dag_id, task_id, map_index, key, timestamp, pg_column_size(value) FROM xcom"
    ).fetchall():
        logical = None if stored is None else texts[dag_run_id, task_id, map_index, key]
        rows.append(Row(dag_id, task_id, map_index, key, pushed.astimezone(UTC), stored or 0, logical))
    assert len(rows) == 120
    return rows


def by(rows: list[Row], *names: str) -> dict[Any, list[Row]]:
    found: defaultdict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(getattr(row, name) for name in names)].append(row)
    return found


def of_kind(groups: list[SizeGroup], kind: GroupKind) -> list[SizeGroup]:
    return [group for group in groups if group.kind is kind]


def test_every_size_agrees_with_the_rows_one_by_one(store: MetadataStore, known: list[Row]) -> None:
    groups = list(store.sizes(1_000, since=SINCE))
    for kind, names in {
        GroupKind.KEY: ("dag_id", "task_id", "key"),
        GroupKind.TASK: ("dag_id", "task_id"),
        GroupKind.DAY: ("dag_id", "day"),
        GroupKind.CLASS: ("dag_id", "stored_class"),
    }.items():
        fields = [{"day": "number", "stored_class": "number"}.get(name, name) for name in names]
        found = {
            tuple(getattr(g, name) for name in fields): (g.rows, g.stored_bytes, g.fan_out)
            for g in of_kind(groups, kind)
        }
        expected = {
            key: (
                len(rows),
                sum(row.stored for row in rows),
                max(row.map_index for row in rows) + 1,
            )
            for key, rows in by(known, *names).items()
        }
        assert found == expected, kind
    [tasks], [keys] = of_kind(groups, GroupKind.TASKS), of_kind(groups, GroupKind.KEYS)
    assert (tasks.rows, keys.rows) == (len(by(known, "dag_id", "task_id")), len(by(known, "dag_id", "task_id", "key")))
    assert min(g.oldest for g in groups if g.oldest is not None) == min(row.pushed for row in known)
    busy = {(g.dag_id, g.task_id, g.number): g.rows for g in of_kind(groups, GroupKind.BUSY_DAY)}
    assert busy == {k: len(rows) for k, rows in by(known, "dag_id", "task_id", "day").items() if k[2] is not None}
    assert {(g.dag_id, g.task_id): g.fan_out for g in of_kind(groups, GroupKind.MAPPED)} == {
        (f"dag_{n}", "mapped"): 4 for n in range(3)
    }


def test_only_the_largest_groups_come_and_those_that_are_asked_for(store: MetadataStore, known: list[Row]) -> None:
    sums = {key: sum(row.stored for row in rows) for key, rows in by(known, "dag_id", "task_id", "key").items()}
    ranked = sorted(sums, key=lambda key: (-sums[key], key))
    groups = list(store.sizes(2, since=SINCE, wanted=[ranked[-1], ("no", "such", "key")]))
    keys = {(g.dag_id, g.task_id, g.key) for g in of_kind(groups, GroupKind.KEY)}
    assert keys == {ranked[0], ranked[1], ranked[-1]}
    assert ranked[-1][:2] in {(g.dag_id, g.task_id) for g in of_kind(groups, GroupKind.TASK)}
    assert {g.dag_id for g in of_kind(groups, GroupKind.DAY)} == {"dag_0", "dag_1", "dag_2"}


def test_every_logical_size_agrees_with_the_text_that_was_pushed(store: MetadataStore, known: list[Row]) -> None:
    tasks, keys = list(by(known, "dag_id", "task_id")), list(by(known, "dag_id", "task_id", "key"))
    found = store.logical_sizes(1, since=SINCE, seconds=30, tasks=tasks, keys=keys)
    assert found.share == 1
    totals: defaultdict[GroupKind, Counter[Any]] = defaultdict(Counter)
    expected: defaultdict[GroupKind, Counter[Any]] = defaultdict(Counter)
    for group in found.groups:
        place = (group.dag_id, group.task_id, group.key, group.number)
        totals[group.kind][(*place, "rows")] += group.rows
        totals[group.kind][(*place, "stored")] += group.stored_bytes
        totals[group.kind][(*place, "logical")] += group.logical_bytes
    for row in known:
        for kind, place in {
            GroupKind.KEY: (row.dag_id, row.task_id, row.key, None),
            GroupKind.TASK: (row.dag_id, row.task_id, "", None),
            GroupKind.DAY: ("", "", "", row.day),
            GroupKind.CLASS: (row.dag_id, "", "", row.logical_class),
        }.items():
            expected[kind][(*place, "rows")] += 1
            expected[kind][(*place, "stored")] += row.stored
            expected[kind][(*place, "logical")] += row.logical or 0
    assert totals == expected
    assert max(g.largest_bytes or 0 for g in found.groups) == max(row.logical or 0 for row in known)


def test_a_sample_is_some_of_it_and_says_how_much(store: MetadataStore, history: History) -> None:
    run = history.run("a", 1)
    history.connection.execute(
        """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
           SELECT %s, 'a', %s, 't', -1, 'k' || n, to_jsonb(repeat('ab', 400)), now()
           FROM generate_series(1, 20000) n""",
        (run.dag_run_id, run.run_id),
    )
    found = store.logical_sizes(0.2, since=SINCE, seconds=30)
    assert found.share == 0.2
    rows = sum(g.rows for g in found.groups if g.kind is GroupKind.CLASS)
    assert 1_000 < rows < 10_000
    assert sum(g.logical_bytes for g in found.groups if g.kind is GroupKind.CLASS) == rows * 802


def test_a_look_that_takes_too_long_is_given_up(store: MetadataStore, history: History) -> None:
    run = history.run("a", 1)
    for part in range(8):
        history.xcom(run, "x" * 6_000_000, age_days=1, key=str(part))
    with pytest.raises(StoreUnavailable):
        store.logical_sizes(1, since=SINCE, seconds=0.001)
    assert store.row_count_estimate() == 8


def test_rows_of_odd_clocks_count(store: MetadataStore, history: History) -> None:
    run = history.run("a", 1)
    for key, moment in {"ahead": "2999-01-01 UTC", "never": "infinity", "ever": "-infinity"}.items():
        history.xcom(run, age_days=1, key=key)
        history.connection.execute("UPDATE xcom SET timestamp = %s::timestamptz WHERE key = %s", (moment, key))
    groups = list(store.sizes(10, since=SINCE))
    assert sum(group.rows for group in of_kind(groups, GroupKind.DAY)) == 3
    assert sum(g.rows for g in store.logical_sizes(1, since=SINCE, seconds=9).groups if g.kind is GroupKind.DAY) == 3


def test_an_empty_table_has_no_sizes(store: MetadataStore) -> None:
    groups = list(store.sizes(10, since=SINCE))
    assert [(group.kind, group.rows) for group in groups] == [(GroupKind.TASKS, 0), (GroupKind.KEYS, 0)]
    assert store.logical_sizes(1, since=SINCE, seconds=5).groups == []
    assert store.largest_entries(5) == []
    assert store.dags() == {}
    assert list(store.whole_references(BASE)) == []


def test_the_largest_entries_and_how_long_their_text_is(store: MetadataStore, known: list[Row]) -> None:
    entries = store.largest_entries(5)
    assert [entry.stored_bytes for entry in entries] == sorted((row.stored for row in known), reverse=True)[:5]
    for entry in entries:
        [row] = [
            row
            for row in known
            if (row.dag_id, row.task_id, row.key, row.pushed)
            == (entry.dag_id, entry.task_id, entry.key, entry.timestamp)
        ]
        assert store.logical_bytes([entry], seconds=5) == [row.logical]


def test_a_row_that_is_gone_or_takes_too_long_has_no_known_length(store: MetadataStore, history: History) -> None:
    history.xcom(history.run("a", 1), "x" * 30_000_000, age_days=1)
    [entry] = store.largest_entries(1)
    assert store.logical_bytes([entry], seconds=0.001) == [None]
    assert store.logical_bytes([entry], seconds=20) == [30_000_002]
    history.connection.execute("DELETE FROM xcom")
    assert store.logical_bytes([entry], seconds=5) == [None]


def test_health_agrees_with_the_catalogue(store: MetadataStore, known: list[Row], history: History) -> None:
    history.connection.execute("CREATE TABLE _airflow_deleted__xcom__2026 AS SELECT * FROM xcom LIMIT 7")
    history.connection.execute("DELETE FROM xcom WHERE dag_id = 'dag_0'")
    history.connection.execute("VACUUM (ANALYZE) xcom")
    history.connection.execute("ANALYZE _airflow_deleted__xcom__2026")
    health, deadline = store.table_health(), time.monotonic() + 20
    # The server counts rows with a delay, and VACUUM leaves those that some other session may still see.
    while health.live_rows_estimate != 80 and time.monotonic() < deadline:
        time.sleep(0.2)
        history.connection.execute("VACUUM (ANALYZE) xcom")
        health = store.table_health()

    def one(query: str) -> Any:
        found = history.connection.execute(query).fetchone()  # type: ignore[call-overload]
        assert found is not None
        return found[0]

    assert health.heap_bytes == one("SELECT pg_relation_size('xcom')")
    assert health.index_bytes == one("SELECT pg_indexes_size('xcom')")
    assert health.total_bytes == one("SELECT pg_total_relation_size('xcom')")
    toast = one("SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'xcom'::regclass")
    assert health.toast_bytes == one(f"SELECT pg_total_relation_size('{toast}')")
    assert health.live_rows_estimate == 80
    assert health.last_vacuum is not None
    assert health.last_analyze is not None
    assert not health.is_replica
    ages = [one(f"SELECT age(relfrozenxid) FROM pg_class WHERE oid = '{table}'::regclass") for table in ("xcom", toast)]
    assert health.transaction_age is not None
    assert health.transaction_age <= max(ages) <= health.transaction_age + 50
    assert health.freeze_max_age == 200_000_000
    assert health.max_connections == int(one("SHOW max_connections"))
    assert 1 <= (health.connections or 0) <= health.max_connections
    [archive] = health.archive_tables
    assert (archive.name, archive.rows_estimate) == ("_airflow_deleted__xcom__2026", 7)
    assert archive.total_bytes == one("SELECT pg_total_relation_size('_airflow_deleted__xcom__2026')")


def test_bloat_is_what_deleted_rows_leave_behind(store: MetadataStore, history: History) -> None:
    run = history.run("a", 1)
    history.connection.execute(
        """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
           SELECT %s, 'a', %s, 't', -1, 'k' || n, to_jsonb(md5(n::text)), now() FROM generate_series(1, 50000) n""",
        (run.dag_run_id, run.run_id),
    )
    history.connection.execute("VACUUM (ANALYZE) xcom")
    before = store.table_health()
    assert (before.heap_bloat_bytes or 0) < 0.1 * before.heap_bytes
    # Every other row, so that VACUUM can cut no page off the end.
    history.connection.execute("DELETE FROM xcom WHERE substr(key, 2)::int % 2 = 0")
    history.connection.execute("VACUUM (ANALYZE) xcom")
    after = store.table_health()
    assert after.heap_bytes == before.heap_bytes
    assert (after.heap_bloat_bytes or 0) == pytest.approx(after.heap_bytes / 2, rel=0.15)


def test_bloat_of_values_kept_aside_is_told_from_their_space(store: MetadataStore, history: History) -> None:
    run = history.run("a", 1)
    for number in range(40):
        text = random.Random(number).randbytes(50_000).hex()
        history.xcom(run, text, age_days=1, key=str(number))
    history.connection.execute("VACUUM (ANALYZE) xcom")
    assert (store.table_health().toast_bloat_bytes or 0) < 500_000
    history.connection.execute("DELETE FROM xcom WHERE key::int % 2 = 0")
    history.connection.execute("VACUUM (ANALYZE) xcom")
    health = store.table_health()
    assert health.toast_bloat_bytes == pytest.approx(health.toast_bytes / 2, rel=0.3)


def test_what_the_statistics_do_not_say_is_unknown_and_not_zero(store: MetadataStore) -> None:
    health = store.table_health()
    assert (health.heap_bloat_bytes, health.cache_hit_share, health.last_vacuum) == (None, None, None)


def test_dags_are_told_with_whether_a_file_still_defines_them(store: MetadataStore, history: History) -> None:
    history.dag("here")
    history.dag("gone")
    history.connection.execute("UPDATE dag SET is_stale = true WHERE dag_id = 'gone'")
    assert store.dags() == {"here": False, "gone": True}


def test_only_values_that_are_a_reference_as_a_whole_come_and_in_the_order_of_their_keys(
    store: MetadataStore, history: History
) -> None:
    run = history.run("a", 1, run_id="r")
    values = {
        "2": f"s3://aws_xcom@bucket/xcom/a/r/t/{UUID.format(2)}",
        "1": f"s3://bucket/xcom/a/r/t/{UUID.format(1)}.gz",
        "3": f"s3a://other@bucket/xcom/a/r/t/{UUID.format(3)}",
        "other bucket": f"s3://elsewhere/bucket/xcom/a/r/t/{UUID.format(4)}",
        "mention": f"see s3://bucket/xcom/a/r/t/{UUID.format(5)}",
        "inside": {"path": f"s3://bucket/xcom/a/r/t/{UUID.format(6)}"},
        "no backend's": "s3://bucket/xcom/report.csv",
        "long": "s3://bucket/xcom/" + "x" * 5_000,
    }
    for key, value in values.items():
        history.xcom(run, value, age_days=1, key=key)
    assert [reference.xcom_key for reference in store.whole_references(BASE)] == ["1", "2", "3"]


# -- what it may need and take ---------------------------------------------------------------------------------------


def _everything(store: MetadataStore) -> None:
    store.check(may_delete=False, reads_references=False)
    list(store.sizes(5, since=SINCE))
    store.logical_sizes(1, since=SINCE, seconds=20)
    store.logical_bytes(store.largest_entries(5), seconds=5)
    store.table_health()
    store.dags()
    list(store.whole_references(BASE))


def test_the_audit_waits_for_no_lock_that_a_reader_does_not_need(database: Database, known: list[Row]) -> None:
    """EXCLUSIVE conflicts with every lock but that of a plain SELECT."""
    with database.connect() as other, database.store(lock_timeout=1, retry_seconds=0) as store:
        other.execute("LOCK TABLE xcom, dag_run, task_instance, dag IN EXCLUSIVE MODE")
        _everything(store)


def test_the_audit_needs_no_right_but_select_and_writes_nothing(database: Database, history: History) -> None:
    history.xcom(history.run("a", 1), age_days=1)
    history.connection.execute(
        """DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'pw';
           GRANT SELECT ON xcom, dag_run, task_instance, dag, dag_tag, alembic_version TO reader"""
    )
    history.connection.execute(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC")
    options = "-c default_transaction_read_only=on"
    try:
        with database.store(lambda: database.connect(user="reader", password="pw", options=options)) as store:
            _everything(store)
    finally:
        history.connection.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_ages_of_the_test_data_lie_on_both_sides_of_the_window() -> None:
    assert days_ago(33) < SINCE < days_ago(12)
