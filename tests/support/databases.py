"""A migrated metadata database for each test: one that an earlier test has used, emptied, wherever that is as good.

To copy the template costs ten times as much as to empty a copy, and most tests write into half a dozen tables.
"""

from __future__ import annotations

import uuid
from typing import Any

import psycopg

from local_stack.postgres import PostgresServer, migrate

_TEMPLATE = "airflow_template"

#: Notes that a test has changed the schema or the rights in it: its database is not used again.
_WATCH = """
CREATE SCHEMA test_support;
CREATE TABLE test_support.changed ();
CREATE FUNCTION test_support.note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
    'BEGIN INSERT INTO test_support.changed DEFAULT VALUES; END';
CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION test_support.note();
CREATE EVENT TRIGGER note_drops ON sql_drop EXECUTE FUNCTION test_support.note()"""

#: Whether something has changed that emptying tables does not undo.
_CHANGED = """
SELECT EXISTS (SELECT FROM test_support.changed)
    OR EXISTS (SELECT FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
               WHERE d.datname = current_database())"""

_TABLES = """
SELECT quote_ident(relname) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0 ORDER BY relname"""

#: More than this is dropped sooner than emptied, in bytes.
_LARGE = 50_000_000


class Databases:
    """The databases of one server. A name that was taken is to be given back."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._free: list[str] = []
        server.create_database(_TEMPLATE)
        migrate(server.url(_TEMPLATE))
        server.grant_role(_TEMPLATE, "GRANT INSERT")
        with server.connect(_TEMPLATE) as connection:
            # What Airflow itself has put there stays, and a database in which it changed is not used again.
            self._kept = [name for (name,) in connection.execute(_TABLES).fetchall()]
            self._contents = " UNION ALL ".join(f"SELECT md5(string_agg(t::text, ';')) FROM {t} t" for t in self._kept)
            self._untouched = connection.execute(self._contents.encode()).fetchall()
            self._size = _size(connection)
            connection.execute(_WATCH)

    def take(self) -> str:
        if self._free:
            return self._free.pop()
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._server.create_database(name, template=_TEMPLATE)
        return name

    def give_back(self, name: str) -> None:
        if self._empty(name):
            self._free.append(name)
        else:
            self._server.drop_database(name)

    def _empty(self, name: str) -> bool:
        """Make a database as good as new, and say whether that could be done."""
        with self._server.connect("postgres") as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
        with self._server.connect(name) as connection:
            [changed] = connection.execute(_CHANGED).fetchone() or (True,)
            if changed or _size(connection) - self._size > _LARGE:
                return False
            if connection.execute(self._contents.encode()).fetchall() != self._untouched:
                return False
            written = [table for (table,) in connection.execute(_TABLES).fetchall() if table not in self._kept]
            connection.execute("SET session_replication_role = replica")  # no foreign keys: all of them go
            connection.execute("TRUNCATE xcom RESTART IDENTITY")
            for table in set(written) - {"xcom"}:
                connection.execute(f"DELETE FROM {table}".encode())
            if written:
                connection.execute(f"VACUUM {', '.join(written)}".encode())
            connection.execute("DELETE FROM pg_statistic WHERE starelid >= 16384")
            connection.execute("SELECT setval(seqrelid, seqstart, false) FROM pg_sequence")
            connection.execute("SELECT pg_stat_reset()")
        return True


def _size(connection: psycopg.Connection[Any]) -> int:
    [size] = connection.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
    return int(size)
