"""A connection to Postgres that lasts: short transactions, streams, and another try where that may help."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar

import tenacity

from include.xcom_maintenance.core.errors import TryAgain
from include.xcom_maintenance.metadata.postgres.errors import translated

_T = TypeVar("_T")
_FETCH = 5_000
_log = logging.getLogger("xcom_maintenance")
#: Local to the transaction, which survives a pooler that hands connections round. The memory keeps sorts and hashes of
#: a few hundred thousand runs out of temporary files. A commit is a commit: a row that came back after a crash of the
#: server would refer to a blob that went after it.
_SET_LOCALLY = """SELECT set_config('work_mem', '64MB', true), set_config('synchronous_commit',
        CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local'
             ELSE current_setting('synchronous_commit') END, true),
    set_config('lock_timeout', %(lock_timeout)s, true),
    set_config('statement_timeout', %(statement_timeout)s, true), set_config('jit', 'off', true),
    set_config('idle_in_transaction_session_timeout', '0', true)"""

#: NULL for a number that is yet to be given out: a server that crashed knows nothing of what it had not written down.
_STATUS = """SELECT CASE WHEN pg_current_xact_id() > %(id)s::xid8 THEN pg_xact_status(%(id)s::xid8) END"""


#: How to get at the rows of some runs. The planner takes them to be scattered all over the table, and would rather read
#: all of it; they lie together, as they were pushed, and the work must not grow with the table. And it may look up the
#: groups of mapped rows that stay in a hash, whatever it takes their number to be: they are few.
BY_INDEX = """SELECT set_config('enable_seqscan', 'off', true), set_config('hash_mem_multiplier', '16', true)"""


class Session:
    """One connection for short transactions, opened at its first use and again whenever it was lost.

    :param connect: opens a DB-API connection (psycopg 2 or 3).
    :param setting: the setting that named the connection, for errors.
    :param lock_timeout: seconds that a statement waits for a lock.
    :param statement_timeout: seconds that a statement may take.
    :param retry_seconds: how long a transaction is tried again after a lost connection, a lock that was not granted, a
        deadlock or a serialization failure.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        setting: str,
        lock_timeout: float,
        statement_timeout: float,
        retry_seconds: float,
    ) -> None:
        self._open = connect
        self._setting = setting
        self._timeouts = {
            "lock_timeout": f"{int(lock_timeout * 1000)}ms",
            "statement_timeout": f"{int(statement_timeout * 1000)}ms",
        }
        self._retry_seconds = retry_seconds
        self._connection: Any = None
        self._was_connected = False

    def close(self) -> None:
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()
            self._connection = None

    def rows(
        self, statement: str, parameters: Mapping[str, Any] | None = None, *, access: str | None = None
    ) -> list[Any]:
        """All rows of a query.

        :param access: ``BY_INDEX``; None: as the planner likes.
        """

        def query(cursor: Any) -> list[Any]:
            if access is not None:
                cursor.execute(access)
            cursor.execute(statement, parameters or {})
            return list(cursor.fetchall())

        for attempt in self._attempts():
            with attempt, self.transaction() as cursor:
                return query(cursor)
        raise AssertionError("the attempts end with a result or an error")

    def change(self, work: Callable[[Any], _T]) -> _T:
        """Do work in one transaction that is committed once and for all, however often it has to be tried.

        :param work: is given a cursor; may be called several times, each time as if it had never been called.
        :raises TryAgain: if it did not succeed in ``retry_seconds``.
        """
        for attempt in self._attempts():
            with attempt:
                return self._change(work)
        raise AssertionError("the attempts end with a result or an error")

    def _change(self, work: Callable[[Any], _T]) -> _T:
        transaction: list[str] = []
        results: list[_T] = []
        try:
            with self.transaction() as cursor:
                results.append(work(cursor))
                cursor.execute("SELECT pg_current_xact_id_if_assigned()::text")
                transaction += cursor.fetchone()
        except TryAgain:
            # Lost in the commit, so that nobody has said whether it took place.
            if not transaction or transaction[0] is None or not self._was_committed(transaction[0]):
                raise
        return results[0]

    def _was_committed(self, transaction: str) -> bool:
        """Whether a transaction took place; waits for one that is still being decided.

        :raises TryAgain: if that cannot be found out in time.
        """
        for attempt in self._attempts():
            with attempt:
                [(status,)] = self.rows(_STATUS, {"id": transaction})
                if status == "in progress":
                    raise TryAgain("The outcome of a transaction is not known yet", remedy="The task is retried")
                return bool(status == "committed")
        raise AssertionError("the attempts end with a result or an error")

    def _attempts(self) -> tenacity.Retrying:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TryAgain),
            # A connection that never was is no lost one: most likely its settings are wrong.
            stop=tenacity.stop_after_delay(self._retry_seconds if self._was_connected else 0),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
            before_sleep=lambda state: _log.warning("%s Trying again.", state.outcome and state.outcome.exception()),
            reraise=True,
        )

    def stream(
        self, statement: str, parameters: Mapping[str, Any], *, fetch: int = _FETCH, access: str | None = None
    ) -> Generator[Any, None, None]:
        """Rows through a server-side cursor, so that client memory stays constant.

        On a connection of its own, so that other statements can run while the rows come.

        :param fetch: rows that are in memory at a time.
        :param access: as for ``rows``.
        """
        with translated(self._setting), closing(self._open()) as connection:
            with connection.cursor() as cursor:
                cursor.execute(_SET_LOCALLY, self._timeouts)
                if access is not None:
                    cursor.execute(access)
            with connection.cursor(name=f"xcom_{uuid.uuid4().hex}") as cursor:
                cursor.execute(statement, parameters)
                while rows := cursor.fetchmany(fetch):
                    yield from rows

    @contextmanager
    def transaction(self, *, one_snapshot: bool = False) -> Iterator[Any]:
        """One transaction with its own timeouts; tried once.

        :param one_snapshot: let all its statements see the same state of the database.
        """
        with translated(self._setting):
            if self._connection is None or self._connection.closed:
                self._connection = self._open()
                self._was_connected = True
            try:
                with self._connection.cursor() as cursor:
                    if one_snapshot:
                        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    cursor.execute(_SET_LOCALLY, self._timeouts)
                    yield cursor
                self._connection.commit()
            except BaseException:
                try:
                    if not self._connection.closed:
                        self._connection.rollback()
                except Exception:  # noqa: BLE001 - what matters is the error that led here
                    self.close()
                raise

    def outside_transactions(self, statement: str) -> None:
        """Run a statement that allows no transaction around it, such as VACUUM, however long it takes."""
        with translated(self._setting), closing(self._open()) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = 0")
                cursor.execute(statement)
