"""The port to the metadata database: what the jobs ask of it, in batches, streams and aggregates.

Nothing above this port knows SQL or holds a cursor, so that a second adapter can ask the API server instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.causes import Circumstances
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
    YoungerRuns,
)


@dataclass(frozen=True, slots=True)
class Deleted:
    """What one batch deleted. Its bytes are known from the plan: to measure them again costs a fifth of the time."""

    rows: int


class ArchiveSink(Protocol):
    """Takes the lines of an archive as they come, in pieces of any size."""

    def write(self, data: Any, /) -> Any:
        """Take some more bytes."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """How busy the database is with others."""

    #: Locks that sessions of this database wait for at the moment.
    lock_waits: int
    #: Of the slowest replica; None if there is none, or the role may not see it.
    replication_lag_seconds: float | None


@dataclass(frozen=True, slots=True)
class GroupSize:
    """The rows of one (DAG, task, key)."""

    dag_id: str
    task_id: str
    key: str
    rows: int
    #: Bytes that the database keeps for the values, after its own compression.
    stored_bytes: int
    #: Rows of each band of ``core.sizes.BANDS``, by the size of the value as JSON text, in the bands' order.
    band_rows: tuple[int, ...]
    #: Stored bytes of each band, in the same order.
    band_bytes: tuple[int, ...]
    oldest: datetime
    newest: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One XCom row and the stored bytes of its value."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    key: str
    stored_bytes: int
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class TableHealth:
    """What the database says about the table; bytes and counts are its own figures, rows its estimates."""

    heap_bytes: int
    toast_bytes: int
    index_bytes: int
    total_bytes: int
    live_rows_estimate: int
    dead_rows_estimate: int
    last_vacuum: datetime | None
    last_analyze: datetime | None
    database_bytes: int
    #: Tables that ``airflow db clean`` and migrations left, with their total bytes.
    archive_tables: dict[str, int] = field(default_factory=dict)


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

    def check(self, *, may_delete: bool, reads_references: bool, may_insert: bool = False) -> DatabaseIdentity:
        """Make sure that this is an Airflow whose schema is known, and that the rights are there.

        :param may_delete: whether the right to delete XCom rows is needed.
        :param may_insert: whether the right to insert XCom rows is needed.
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

    def sample(self, scopes: Sequence[Scope], *, created_before: datetime | None = None) -> Sample:
        """How many rows and bytes there are by run: exact for a small table, else from some of its pages.

        :param scopes: that rows are told apart by.
        :param created_before: rows of runs that were created later come by DAG.
        """

    def measure(self, doomed: Doomed) -> list[RunRows]:
        """What ``delete`` would take now and what it would leave, run by run; runs without rows are left out."""

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

    def group_sizes(self) -> Iterator[GroupSize]:
        """The rows of each (DAG, task, key), by a single pass over the table."""

    def largest_entries(self, limit: int) -> list[Entry]:
        """The rows with the largest stored values, the largest first."""

    def table_health(self) -> TableHealth:
        """The size and state of the ``xcom`` table."""

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


class UnparsableReference(ValueError):
    """A row whose value looks like a reference below the base path but cannot be read as one.

    :param where: the row's coordinates; the value itself is in no message.
    :param why: what is wrong with it.
    """

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        self.why = why
        super().__init__(f"The reference in {where} cannot be read: {why}")
