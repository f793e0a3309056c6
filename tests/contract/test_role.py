"""The role file suffices and gives nothing beyond; the tests of the rooms and tests/e2e log in as its role too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.runs import Cut, Doomed
from include.xcom_maintenance.metadata.postgres.schema import REQUIRED_COLUMNS
from local_stack.postgres import ROLE, ROLE_FILE
from tests.conftest import Database
from tests.support.history import History, days_ago, has_column

_TEXT = ROLE_FILE.read_text()
#: (right, table) of every GRANT on a table that is not commented out.
GRANTS = re.findall(rf"^GRANT (\w+)(?: \(\w+\))? ON (\w+) TO {ROLE};$", _TEXT, flags=re.MULTILINE)
#: What a run can do without, with less than it would do otherwise.
_SPARED = {("UPDATE", "dag_run"), ("SELECT", "log")}


def connect(database: Database) -> psycopg.Connection[Any]:
    return database.connect(user=ROLE, autocommit=True)


@pytest.fixture
def role(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with connect(database) as connection:
        yield connection


def test_no_grant_is_overlooked_by_these_tests() -> None:
    assert len(GRANTS) == len(re.findall(r"^GRANT ", _TEXT, flags=re.MULTILINE))
    assert {("SELECT", table) for table in REQUIRED_COLUMNS} | {("DELETE", "xcom")} | _SPARED <= set(GRANTS)


@pytest.mark.parametrize(("right", "table"), GRANTS)
def test_no_missing_grant_goes_without_being_named(
    database: Database, history: History, right: str, table: str
) -> None:
    columns = "(updated_at) " if right == "UPDATE" else ""
    history.connection.execute(f"REVOKE {right} {columns}ON {table} FROM {ROLE}")
    run = history.run("a", 20)
    history.xcom(run, age_days=20)
    with database.store(lambda: connect(database)) as store:
        if right == "SELECT" and table in REQUIRED_COLUMNS:
            with pytest.raises(ConfigurationError, match=f'run: GRANT {right} ON {table} TO "{ROLE}"$'):
                store.check(may_delete=False, reads_references=True)
        elif right == "DELETE":
            store.check(may_delete=False, reads_references=True)
            with pytest.raises(ConfigurationError, match=f'run: GRANT {right} ON {table} TO "{ROLE}"$'):
                store.check(may_delete=True, reads_references=True)
        else:
            store.check(may_delete=True, reads_references=True)
            assert store.known_dags(["a"]) == {"a"}
            assert store.delete(Doomed((Cut(days_ago(7)),), [run.dag_run_id], [0])).rows == 1


def test_a_table_made_after_the_grants_is_named_and_run_again_the_file_covers_it(
    database: Database, history: History
) -> None:
    history.connection.execute('CREATE TABLE "_airflow_deleted__xcom__odd Name" AS SELECT * FROM xcom')
    with database.store(lambda: connect(database)) as store:
        with pytest.raises(ConfigurationError, match='GRANT SELECT ON "_airflow_deleted__xcom__odd Name" TO'):
            store.check(may_delete=True, reads_references=True)
        database.server.grant_role(database.name)
        store.check(may_delete=True, reads_references=True)


def test_runs_can_be_locked_and_not_changed(role: psycopg.Connection[Any], history: History) -> None:
    history.run("a", 1)
    assert len(role.execute("SELECT id FROM dag_run FOR SHARE").fetchall()) == 1
    history.connection.execute(f"REVOKE UPDATE (updated_at) ON dag_run FROM {ROLE}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        role.execute("SELECT id FROM dag_run FOR SHARE")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM connection",
        "SELECT * FROM variable",
        "SELECT * FROM task_state_store",
        "SELECT * FROM rendered_task_instance_fields",
        "UPDATE dag_run SET state = 'failed'",
        "DELETE FROM dag_run",
        "UPDATE xcom SET value = NULL",
        "TRUNCATE xcom",
        "DELETE FROM task_instance",
        "DELETE FROM log",
        "INSERT INTO dag_run (id) VALUES (1)",
        "CREATE TABLE mine (id int)",
    ],
)
def test_the_role_may_not(role: psycopg.Connection[Any], statement: str) -> None:
    if statement.endswith("task_state_store") and not has_column(role, "task_state_store", "value"):
        pytest.skip("Airflow before 3.3 has no such table")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        role.execute(statement)


def test_without_the_optional_grant_no_row_can_be_added(role: psycopg.Connection[Any], history: History) -> None:
    history.connection.execute(f"REVOKE INSERT ON xcom FROM {ROLE}")  # the tests of restoring have it
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        role.execute("INSERT INTO xcom (dag_run_id) VALUES (1)")


def test_no_password_is_in_the_file_and_none_is_lost_when_it_runs_again(
    database: Database, role: psycopg.Connection[Any]
) -> None:
    assert not re.search(r"^[^-\n]*PASSWORD", _TEXT, flags=re.MULTILINE | re.IGNORECASE)
    with database.connect(autocommit=True) as owner:
        owner.execute(_TEXT.encode())
    connect(database).close()


def test_the_optional_parts_are_statements_that_postgres_takes(database: Database, history: History) -> None:
    optional = ["ALTER DEFAULT PRIVILEGES", "GRANT INSERT", "GRANT UPDATE (value)", "GRANT pg_monitor"]
    if history.connection.info.server_version >= 170_000:
        optional.append("GRANT MAINTAIN")
    try:
        database.server.grant_role(database.name, *optional)
        history.connection.execute("CREATE TABLE made_later ()")
        with connect(database) as role:
            role.execute("SELECT FROM made_later")
            assert role.execute("SELECT pg_has_role('pg_monitor', 'USAGE')").fetchone() == (True,)
    finally:
        history.connection.execute(f"REVOKE pg_monitor FROM {ROLE}")


def test_airflows_tables_in_a_schema_of_their_own(database: Database, history: History) -> None:
    history.connection.execute("ALTER SCHEMA public RENAME TO airflow_tables; CREATE SCHEMA public")
    history.connection.execute(f"REVOKE ALL ON SCHEMA airflow_tables FROM PUBLIC, {ROLE}")
    with database.connect(autocommit=True, options="-c search_path=airflow_tables") as owner:
        owner.execute(_TEXT.encode())
    options = "-c search_path=airflow_tables"
    with database.store(lambda: database.connect(user=ROLE, options=options)) as store:
        store.check(may_delete=True, reads_references=True)
