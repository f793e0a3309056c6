"""What every metadata store must do with archived rows; over both drivers, from archives that a real Postgres wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.records import ArchivedRow
from include.xcom_maintenance.metadata.ports import MetadataStore
from include.xcom_maintenance.metadata.ports.restore import Return
from include.xcom_maintenance.metadata.postgres.archive import RETURNING, copy_deleted
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.archive_file import parse_row
from tests.conftest import Database
from tests.support.archive import archive_rows
from tests.support.history import History, days_ago

#: Values as Postgres reads them; None is NULL, not a JSON null.
VALUES = {
    "null": None,
    "json null": "null",
    "unicode": json.dumps("Grüße, 世界 🌍 \u2028 \x7f", ensure_ascii=False),
    "escapes": r'"a\\b\"c\/d\n\t\u0001 \\u0041 \\. \\N ,;"',
    "long number": "123456789012345678901234567890.123456789012345678901234567890",
    "huge number": "1e400",
    "many digits": "9" * 6_000,
    "trailing zeros": "1.500",
    "nested": '{"a": [1, {"b": [[], {}, null, true, "x"]}], "": {"dag_id": "not this", "row": {}}}',
    "deep": "[" * 3_000 + "]" * 3_000,
    "text": '"\\\\x00 and \\"quotes\\""',
    "like a line": json.dumps('{"kind":"end","rows":0}\n'),
}


def put(history: History, run: Any, values: dict[str, str | None]) -> None:
    for key, text in values.items():
        history.xcom(run, age_days=20.123456, key=key)
        history.connection.execute("UPDATE xcom SET value = %s::jsonb WHERE key = %s", (text, key))


def table(history: History) -> list[Any]:
    """Every column of every row, the values as text."""
    rows = history.connection.execute(
        """SELECT dag_run_id, task_id, map_index, key, dag_result, dag_id, run_id, value::text, value IS NULL, timestamp
           FROM xcom ORDER BY dag_run_id, task_id, map_index, key"""
    )
    return list(rows.fetchall())


def archived(history: History, folder: Path, **options: Any) -> list[ArchivedRow]:
    path = archive_rows(history, f"file://{folder}/archive", **options)
    [file] = Archives(None).find(path)
    return [row for batch in file.batches(max_rows=10_000, max_bytes=10**9) for row in batch]


def test_no_value_changes_by_being_archived_and_restored(
    store: MetadataStore, history: History, tmp_path: Path
) -> None:
    run = history.run("ä 'quoted' %s", 20, run_id='manual "1" \\ %(x)s')
    put(history, run, VALUES)
    history.connection.execute("UPDATE xcom SET dag_result = true WHERE key = 'unicode'")
    history.connection.execute("UPDATE xcom SET dag_result = NULL WHERE key = 'null'")
    history.connection.execute("CREATE TABLE aside AS SELECT * FROM xcom")
    before = table(history)
    rows = archived(history, tmp_path)
    assert table(history) == []
    assert store.restorable(rows, archived_at=None) == [Return.POSSIBLE] * len(VALUES)
    assert store.restore(rows, archived_at=None) == len(VALUES)
    assert table(history) == before
    same = history.connection.execute(
        "SELECT count(*) FROM xcom x JOIN aside a USING (key) WHERE a.value IS NOT DISTINCT FROM x.value"
    ).fetchone()
    assert same == (len(VALUES),)


def test_a_line_break_between_tokens_moves_no_value_to_another_row(
    store: MetadataStore, history: History, tmp_path: Path
) -> None:
    """As in an archive that somebody has put through a formatter."""
    run = history.run("a", 20)
    put(history, run, {"x": '{"a": [1, 2]}', "y": '"two\\nlines"'})
    before = table(history)
    rows = [
        replace(row, line=row.line.replace('":', '":\n').replace('{"kind', '\n{"kind'))
        for row in archived(history, tmp_path)
    ]
    assert store.restore(rows, archived_at=None) == 2
    assert table(history) == before


def test_a_value_of_20_mb_comes_back(store: MetadataStore, history: History, tmp_path: Path) -> None:
    run = history.run("a", 20)
    put(history, run, {"large": json.dumps([{"id": n, "text": 'x\u00e4"' * 50} for n in range(100_000)])})
    before = history.connection.execute("SELECT octet_length(value::text), md5(value::text) FROM xcom").fetchall()
    assert before[0][0] > 20_000_000
    assert store.restore(archived(history, tmp_path), archived_at=None) == 1
    assert (
        history.connection.execute("SELECT octet_length(value::text), md5(value::text) FROM xcom").fetchall() == before
    )


def test_a_row_that_is_there_is_never_changed(store: MetadataStore, history: History, tmp_path: Path) -> None:
    run = history.run("a", 20)
    for key in ("x", "y"):
        history.xcom(run, "old", age_days=20, key=key)
    rows = archived(history, tmp_path)
    history.xcom(run, "new", age_days=1, key="x")
    before = table(history)
    assert dict(zip((row.key for row in rows), store.restorable(rows, archived_at=None), strict=True)) == {
        "x": Return.EXISTS, "y": Return.POSSIBLE,
    }  # fmt: skip
    assert store.restore(rows, archived_at=None) == 1
    assert [row for row in table(history) if row[3] == "x"] == before
    assert store.restore(rows, archived_at=None) == 0


def test_no_mapped_row_returns_among_newer_ones_that_were_pushed_since_the_plan(
    store: MetadataStore, history: History, tmp_path: Path
) -> None:
    run = history.run("a", 20)
    for index in range(3):
        history.xcom(run, index, age_days=20, map_index=index)
    history.xcom(run, "unmapped", age_days=20, key="other")
    rows, when = archived(history, tmp_path), days_ago(5).isoformat()
    assert store.restorable(rows, archived_at=when) == [Return.POSSIBLE] * 4
    history.xcom(run, "newer", age_days=1, map_index=7)
    assert store.restore(rows, archived_at=when) == 1
    assert {(index, key) for *_, index, key in history.rows()} == {(7, "return_value"), (-1, "other")}


def test_no_row_returns_whose_run_or_task_instance_is_gone(
    store: MetadataStore, history: History, tmp_path: Path
) -> None:
    runs = {name: history.run(name, 20) for name in ("a", "b", "c")}
    for run in runs.values():
        history.xcom(run, age_days=20, map_index=3)
    rows = archived(history, tmp_path)
    history.connection.execute("DELETE FROM dag_run WHERE dag_id = 'a'")
    history.connection.execute("DELETE FROM task_instance WHERE dag_id = 'b' AND map_index = 3")
    assert dict(zip((row.dag_id for row in rows), store.restorable(rows, archived_at=None), strict=True)) == {
        "a": Return.NO_RUN, "b": Return.NO_TASK_INSTANCE, "c": Return.POSSIBLE,
    }  # fmt: skip
    assert store.restore(rows, archived_at=None) == 1
    assert history.left() == {("c", runs["c"].run_id)}


def test_a_row_returns_to_the_run_that_has_its_run_id_now(
    store: MetadataStore, history: History, tmp_path: Path
) -> None:
    run = history.run("a", 20, run_id="again")
    history.xcom(run, age_days=20)
    rows = archived(history, tmp_path)
    history.connection.execute("DELETE FROM dag_run")
    again = history.run("a", 20, run_id="again")
    assert again.dag_run_id != run.dag_run_id
    assert store.restore(rows, archived_at=None) == 1
    assert history.connection.execute("SELECT dag_run_id FROM xcom").fetchall() == [(again.dag_run_id,)]


def test_columns_that_only_one_of_archive_and_table_has_do_no_harm(
    store: MetadataStore, history: History, tmp_path: Path
) -> None:
    run = history.run("a", 20)
    history.connection.execute("ALTER TABLE xcom ADD COLUMN \"gone 'later' %\" text DEFAULT 'x'")
    history.xcom(run, age_days=20)
    rows = archived(history, tmp_path)
    history.connection.execute(
        "ALTER TABLE xcom DROP COLUMN \"gone 'later' %\", DROP COLUMN dag_result, "
        "ADD COLUMN new int NOT NULL DEFAULT 17, ADD COLUMN twice int GENERATED ALWAYS AS (map_index * 2) STORED"
    )
    assert store.restore(rows, archived_at=None) == 1
    assert history.connection.execute("SELECT new, twice FROM xcom").fetchall() == [(17, -2)]


def test_a_row_that_was_tampered_with_is_refused_and_not_shown(
    store: MetadataStore, history: History, tmp_path: Path
) -> None:
    run = history.run("a", 20)
    for key in ("x", "y"):
        history.xcom(run, age_days=20, key=key)
    good, row = archived(history, tmp_path)
    wrong = json.loads(row.line)
    wrong["row"]["timestamp"] = "secret-17"
    line = json.dumps(wrong)
    bad = ArchivedRow(row.dag_id, row.run_id, row.task_id, row.map_index, row.key, None, line)
    with pytest.raises(ConfigurationError, match="archive") as caught:
        store.restore([good, bad], archived_at=None)
    assert "secret-17" not in str(caught.value)
    assert history.rows() == set()
    assert store.restore([good], archived_at=None) == 1


def test_nothing_to_restore_is_nothing(store: MetadataStore) -> None:
    assert store.restorable([], archived_at=None) == []
    assert store.restore([], archived_at=None) == 0


def test_a_role_without_the_right_to_insert_is_told_the_grant(database: Database, history: History) -> None:
    history.connection.execute(
        """DROP ROLE IF EXISTS restorer; CREATE ROLE restorer LOGIN PASSWORD 'pw';
           GRANT SELECT ON xcom, dag_run, task_instance, dag, dag_tag, alembic_version TO restorer"""
    )
    try:
        with database.store(lambda: database.connect(user="restorer", password="pw")) as store:
            with pytest.raises(ConfigurationError, match='GRANT INSERT ON xcom TO "restorer"'):
                store.check(may_delete=False, may_insert=True, reads_references=False)
            history.connection.execute("GRANT INSERT ON xcom TO restorer")
            store.check(may_delete=False, may_insert=True, reads_references=False)
    finally:
        history.connection.execute("DROP OWNED BY restorer; DROP ROLE restorer")


def test_least_privileges_are_enough_to_restore(database: Database, history: History, tmp_path: Path) -> None:
    history.xcom(history.run("a", 20), age_days=20)
    rows = archived(history, tmp_path)
    history.connection.execute(
        """DROP ROLE IF EXISTS restorer; CREATE ROLE restorer LOGIN PASSWORD 'pw';
           GRANT SELECT ON xcom, dag_run, task_instance, dag, dag_tag, alembic_version TO restorer;
           GRANT INSERT ON xcom TO restorer"""
    )
    try:
        with database.store(lambda: database.connect(user="restorer", password="pw")) as store:
            assert store.restore(rows, archived_at=None) == 1
    finally:
        history.connection.execute("DROP OWNED BY restorer; DROP ROLE restorer")


def test_both_drivers_write_the_same_archive(database: Database, history: History, tmp_path: Path) -> None:
    from airflow.sdk import ObjectStoragePath

    put(history, history.run("a", 20), VALUES)
    history.connection.execute("CREATE TABLE aside AS SELECT * FROM xcom")
    expected = {row.line for row in archived(history, tmp_path)}
    history.connection.execute("INSERT INTO xcom SELECT * FROM aside")
    server = database.server
    connection = psycopg2.connect(
        host=server.host, port=server.port, user=server.user, password=server.password, dbname=database.name
    )
    archives = Archives(ObjectStoragePath(f"file://{tmp_path}/psycopg2"))
    with archives.write("a", database="d", dag_id="c", run_id="r") as sink, connection.cursor() as cursor:
        assert copy_deleted(cursor, f"DELETE FROM xcom x RETURNING {RETURNING}", {}, sink) == len(VALUES)
        assert sink.rows == len(VALUES)
    connection.commit()
    connection.close()
    [file] = archives.find("c/r")
    assert {row.line for batch in file.batches(max_rows=100, max_bytes=10**9) for row in batch} == expected
    assert history.rows() == set()


class _Cursor:
    """Hands over what it is given, and says that it was so many rows."""

    def __init__(self, pieces: list[bytes], rowcount: int) -> None:
        self._pieces, self.rowcount = pieces, rowcount

    def mogrify(self, statement: str, _parameters: object) -> str:
        return statement

    def copy_expert(self, _statement: str, file: Any) -> None:
        for piece in self._pieces:
            file.write(piece)


@pytest.mark.parametrize("pieces", [[], [b"a\nb\n"], [b"a", b"\n", b"b\n"]])
def test_rows_that_do_not_come_one_by_one_do_not_go(tmp_path: Path, pieces: list[bytes]) -> None:
    from airflow.sdk import ObjectStoragePath

    archives = Archives(ObjectStoragePath(f"file://{tmp_path}"))
    with archives.write("a", database="d", dag_id="c", run_id="r") as sink:
        assert copy_deleted(_Cursor([b"whole\n"], 1), "", {}, sink) == 1
        with pytest.raises(ValueError, match="a line for each row"):
            copy_deleted(_Cursor(pieces, 2), "", {}, sink)


def test_every_line_is_whole(history: History, tmp_path: Path) -> None:
    put(history, history.run("a", 20), VALUES)
    rows = [parse_row(row.line) for row in archived(history, tmp_path)]
    assert len(rows) == len(VALUES)
    assert {row.key for row in rows} == set(VALUES)
    assert [row.key for row in rows if '"sql_null":true' in row.line] == ["null"]
