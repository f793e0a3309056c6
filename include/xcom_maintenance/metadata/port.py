"""The port to the metadata database: what the jobs ask of it, in batches, streams and aggregates.

Nothing above this port knows SQL or holds a cursor, so that a second adapter can ask the API server instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.causes import Circumstances
from include.xcom_maintenance.core.offloading import Movable, ReadValue, Replacement
from include.xcom_maintenance.core.records import (
    ArchivedRow,
    Coordinates,
    DatabaseIdentity,
    Doomed,
    RowReference,
    Run,
    RunRows,
    Sample,
    Scope,
    ValuePlace,
    YoungerRuns,
)
from include.xcom_maintenance.core.seals import StoredRow
from include.xcom_maintenance.core.table_figures import Entry, LogicalSizes, SizeGroup, TableHealth


@dataclass(frozen=True, slots=True)
class Deleted:
    """What one batch deleted. Its bytes are known from the plan: to measure them again costs a fifth of the time."""

    rows: int


class ArchiveSink(Protocol):
    """Takes the lines of an archive as they come."""

    def add(self, *line: bytes | memoryview) -> None:
        """Take the line of a row, with its end, in pieces that do not change any more."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """How busy the database is with others."""

    #: Locks that sessions of this database wait for at the moment.
    lock_waits: int
    #: Of the slowest replica; None if there is none, or the role may not see it.
    replication_lag_seconds: float | None


@dataclass(frozen=True, slots=True)
class ValuePosition:
    """A value in the order of ``MetadataStore.values``: newest runs first, and of a run the newest value first."""

    dag_run_id: int
    pushed_at: datetime


@dataclass(frozen=True, slots=True)
class ValueSpan:
    """Some of the values, by when they were pushed (UTC) and by their place in the order of ``values``."""

    pushed_until: datetime
    #: None: since ever.
    pushed_after: datetime | None = None
    #: Only what comes after this position; None: from the newest on.
    older_than: ValuePosition | None = None


@dataclass(frozen=True, slots=True)
class PushedValue:
    """One value to be looked into. Its text shows in no ``repr``."""

    dag_id: str
    task_id: str
    key: str
    pushed_at: datetime
    stored_bytes: int
    position: ValuePosition
    #: The value as JSON; None if it is larger than was asked for.
    text: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredValue:
    """What the row of one value holds."""

    bytes: int
    #: The value if it is a short text, which may be a reference.
    text: str | None = field(repr=False)


class Return(StrEnum):
    """Whether an archived row can return."""

    POSSIBLE = "can be restored"
    EXISTS = "is there already"
    NO_RUN = "its run is gone"
    NO_TASK_INSTANCE = "its task instance is gone"


class MetadataStore(Protocol):
    """The tables ``xcom``, ``dag_run``, ``task_instance`` and ``dag`` of one Airflow.

    Every method raises ``StoreUnavailable`` if the store cannot be reached or does not answer in time, and
    ``ConfigurationError`` if a right is missing.
    """

    def check(
        self, *, may_delete: bool, reads_references: bool, may_insert: bool = False, may_update: bool = False
    ) -> DatabaseIdentity:
        """Make sure that this is an Airflow whose schema is known, and that the rights are there.

        :param may_delete: whether the right to delete XCom rows is needed.
        :param may_insert: whether the right to insert XCom rows is needed.
        :param may_update: whether the right to replace the values of XCom rows is needed.
        :param reads_references: whether archive tables will be read too, as everything is that may hold a reference.
        :raises ConfigurationError: naming what is missing.
        """

    def now(self) -> datetime:
        """The store's own clock (UTC)."""

    def dag_tags(self) -> dict[str, frozenset[str]]:
        """The tags of the DAGs that have any."""

    def runs(self, *, created_before: datetime | None = None) -> Iterator[Run | YoungerRuns]:
        """All runs, grouped by DAG, the newest of each DAG first (``run_after``, then ``dag_run_id``).

        :param created_before: runs that were created later may come in numbers, before the others of their DAG and
            only if they are all newer than those.
        """

    def newest_finished_runs(self, count: int) -> Iterator[Run]:
        """The ``count`` newest runs in a final state of each DAG, ordered as ``runs``."""

    def sample(self, scopes: Sequence[Scope], *, created_before: datetime | None = None) -> Sample:
        """How many rows and bytes there are by run: exact for a small table, else from some of its pages.

        :param scopes: that rows are told apart by.
        :param created_before: rows of runs that were created later come by DAG.
        """

    def measure(self, pieces: Iterable[Doomed]) -> Iterator[RunRows]:
        """What ``delete`` would take now and what it would leave, in no order; runs without rows are left out.

        :param pieces: of what goes, each as large as one query may be.
        """

    def doomed_references(self, doomed: Doomed, base: BasePath) -> Iterator[RowReference]:
        """References to blobs below ``base`` that are the whole value of a row that ``delete`` would take now."""

    def delete(
        self,
        doomed: Doomed,
        *,
        limit: int | None = None,
        archive: Callable[[], AbstractContextManager[ArchiveSink]] | None = None,
    ) -> Deleted:
        """Delete rows in one short transaction, at most ``limit``, every condition checked in the statement itself.

        If a run of the batch is found to have come to life meanwhile, nothing of that run is deleted. What is passing,
        such as a lost connection, is tried again; the rows are counted once.

        :param archive: opens a sink for the rows that go, which must be safe when it is closed: that is before the
            commit. It may be opened more than once.
        :raises TryAgain: if that did not help in time; nothing of the batch was deleted then.
        """

    def pressure(self) -> Pressure:
        """How busy the database is with others right now."""

    def may_see_replication(self) -> bool:
        """Whether the role may see how far replicas lag behind."""

    def may_vacuum(self) -> bool:
        """Whether the role may vacuum the ``xcom`` table."""

    def vacuum(self) -> None:
        """Make the space of deleted rows in the ``xcom`` table usable again, and renew its statistics."""

    def references(self, base: BasePath) -> Iterator[RowReference]:
        """Every reference to a blob below ``base``, wherever in a value and in archive tables too.

        Sorted by key in byte order; a blob can come more than once.

        :raises UnparsableReference: for a value that looks like a reference and cannot be read as one.
        """

    def referenced(self, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` that a row may refer to right now, archive tables included.

        Generous on purpose: it is enough that the unique part of a blob's name occurs anywhere in a value.

        :param keys: of a known layout.
        """

    def still_there(self, references: Sequence[RowReference]) -> list[RowReference]:
        """Those references of the ``xcom`` table whose row has not been deleted meanwhile."""

    def delete_dangling(
        self,
        references: Sequence[RowReference],
        *,
        archive: Callable[[], AbstractContextManager[ArchiveSink]] | None = None,
    ) -> int:
        """Delete the rows of the ``xcom`` table that still hold these references, in one short transaction.

        Only of runs that are finished, as for ``delete``, checked in the statement itself.

        :param archive: as for ``delete``.
        :returns: how many rows went.
        """

    def unfinished_runs(self, runs: Collection[Coordinates]) -> set[tuple[str, str]]:
        """The (dag_id, run_id) among ``runs`` that are, or have a task instance, in no final state right now."""

    def circumstances(self, places: Collection[Coordinates], base: BasePath) -> dict[Coordinates, Circumstances]:
        """What is still known about the tasks of some blobs below ``base``."""

    def known_dags(self, dag_ids: Collection[str]) -> set[str]:
        """Those of ``dag_ids`` that this Airflow ever knew, as far as it still remembers."""

    def sizes(self, top: int, *, since: datetime, wanted: Sequence[tuple[str, str, str]] = ()) -> Iterator[SizeGroup]:
        """Groups of rows by stored size, by one pass over the table in which no value is read.

        :param top: how many groups of tasks and keys come; those of DAGs come all.
        :param since: rows pushed earlier are not told apart by day.
        :param wanted: (DAG, task, key) that come whatever their size, with their tasks.
        """

    def logical_sizes(
        self,
        share: float,
        *,
        since: datetime,
        seconds: float,
        tasks: Sequence[tuple[str, str]] = (),
        keys: Sequence[tuple[str, str, str]] = (),
    ) -> LogicalSizes:
        """Groups of rows by logical size, which means to read the values.

        :param share: of the table's pages to look at, in (0, 1].
        :param since: as above.
        :param seconds: that it may take.
        :param tasks: the tasks to tell about, beside all DAGs, classes and days.
        :param keys: the keys to tell about.
        :raises StoreUnavailable: if that is not enough time.
        """

    def largest_entries(self, limit: int) -> list[Entry]:
        """The rows with the largest stored values, the largest first."""

    def logical_bytes(self, entry: Entry, *, seconds: float) -> int | None:
        """The size of one value as JSON text; None if the row is gone, or it could not be told in time."""

    def table_health(self) -> TableHealth:
        """The size and state of the ``xcom`` table."""

    def dags(self) -> dict[str, bool]:
        """The DAGs that are there, and whether they are stale: no file defines them any more."""

    def whole_references(self, base: BasePath) -> Iterator[RowReference]:
        """The references below ``base`` that are the whole value of a row, sorted by key in byte order."""

    def values(self, span: ValueSpan, *, max_value_bytes: int) -> Iterator[PushedValue]:
        """Values one by one, newest runs first, however large the table; stop when you have seen enough.

        Canaries and NULLs are left out. Pushes into a run that had ended before ``pushed_after`` may be, too.
        """

    def count_values(self, span: ValueSpan) -> int:
        """How many ``values`` would yield."""

    def values_still_there(self, keys: Sequence[tuple[str, str, str, datetime]]) -> list[bool]:
        """For each (DAG, task, key, moment) whether there is a row that was pushed no later."""

    def stored(self, dag_id: str, run_id: str, task_id: str, map_index: int, key: str) -> StoredValue | None:
        """What is kept in one row; None if there is none."""

    def stored_rows(self) -> Iterator[StoredRow]:
        """Every row that holds a reference of this project's own backend or a value that it sealed.

        Archive tables included. Of a sealed value the beginning comes, which is enough to hold its header. A row that
        is pushed meanwhile may be missing.
        """

    def stored_rows_at(self, places: Sequence[ValuePlace]) -> list[StoredRow]:
        """The rows at some places as they are now, in any order, with their whole values; those that are there."""

    def replace_stored(self, changes: Sequence[tuple[StoredRow, str]]) -> list[bool]:
        """Replace values in one short transaction, each only if its row is still there and still holds the same.

        The row's timestamp and all else stay.

        :param changes: a row as ``stored_rows_at`` returned it, and what it is to hold, as JSON.
        :returns: for each whether it was replaced.
        :raises TryAgain: if nothing passing went away in time; it is not known then whether they were.
        """

    def row_count_estimate(self) -> int:
        """How many XCom rows there are, as the database's statistics say; exact for small tables."""

    def restorable(self, rows: Sequence[ArchivedRow]) -> list[Return]:
        """Whether each of some archived rows could return now, in their order."""

    def restore(self, rows: Sequence[ArchivedRow]) -> int:
        """Put back those archived rows that can return, in one short transaction; returns how many those were.

        Each returns to the run that has its run id now, just as it was, its timestamp too. A row that is there is left
        as it is.

        :param rows: all of one archive file.
        :raises ConfigurationError: if they cannot be read as rows of the table.
        """

    def large_values(self, min_bytes: int) -> Iterator[Movable]:
        """Values of finished runs that are at least so long as JSON and not in a blob of this project's backend."""

    def offloaded_values(self) -> Iterator[Movable]:
        """The rows of finished runs that refer to a blob of this project's backend."""

    def read_values(self, places: Sequence[ValuePlace]) -> list[ReadValue]:
        """What some rows hold; rows that are gone, and values that are NULL, are left out."""

    def as_stored(self, text: str) -> str | None:
        """What the store would give back for a value; None if it cannot hold it.

        :param text: as JSON.
        """

    def replace_values(self, replacements: Sequence[Replacement]) -> list[Replacement]:
        """Put values in the place of others in one short transaction, and nothing else; returns what took place.

        A row is locked, and changed only if it still holds what was read and its run is finished.
        """


class UnparsableReference(ValueError):
    """A row whose value looks like a reference below the base path but cannot be read as one.

    :param where: the row's coordinates; the value itself is in no message.
    :param why: what is wrong with it.
    """

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        self.why = why
        super().__init__(f"The reference in {where} cannot be read: {why}")
