"""What several DAGs ask of the metadata: a Protocol for each thing that they share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from include.xcom_maintenance.core.records import Coordinates, DatabaseIdentity
from include.xcom_maintenance.core.runs import Doomed, Run, RunRows, YoungerRuns
from include.xcom_maintenance.core.table_figures import TableHealth


@dataclass(frozen=True, slots=True)
class Pressure:
    """How busy the database is with others."""

    #: Locks that sessions of this database wait for at the moment.
    lock_waits: int
    #: Of the slowest replica; None if there is none, or the role may not see it.
    replication_lag_seconds: float | None


class ArchiveSink(Protocol):
    """Takes the lines of an archive as they come."""

    #: So far.
    rows: int

    def add(self, line: bytes | memoryview) -> None:
        """Take the line of a row, with its end; it does not change any more."""


#: Opens a sink for rows that are about to be deleted. It must hold them safely when it is closed, which is before the
#: commit, and may be opened more than once.
OpenArchive = Callable[[], AbstractContextManager[ArchiveSink]]


class Metadata(Protocol):
    """What every DAG asks of the tables of one Airflow.

    Every method of every port raises ``StoreUnavailable`` if the store cannot be reached or does not answer in time,
    and ``ConfigurationError`` if a right is missing.
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


class BusyMetadata(Protocol):
    """How busy the database is, for work that gives way to others."""

    def pressure(self) -> Pressure:
        """How busy the database is with others right now."""


class VacuumMetadata(Metadata, Protocol):
    """VACUUM, for what has deleted or shortened rows."""

    def may_vacuum(self) -> bool:
        """Whether the role may vacuum the ``xcom`` table."""

    def vacuum(self) -> None:
        """Make the space of deleted rows in the ``xcom`` table usable again, and renew its statistics."""

    def table_health(self) -> TableHealth:
        """The size and state of the ``xcom`` table."""


class RetentionMetadata(Metadata, Protocol):
    """What it takes to apply the retention rules: to plan by them, and to see whether somebody does."""

    def dag_tags(self) -> dict[str, frozenset[str]]:
        """The tags of the DAGs that have any."""

    def runs(self, *, created_before: datetime | None = None) -> Iterator[Run | YoungerRuns]:
        """All runs, grouped by DAG, the newest of each DAG first (``run_after``, then ``dag_run_id``).

        :param created_before: runs that were created later may come in numbers, before the others of their DAG and
            only if they are all newer than those.
        """

    def measure(self, doomed: Doomed) -> Iterator[RunRows]:
        """What ``delete`` would take now and what it would leave, in no order; runs without rows are left out."""


class NameMetadata(Metadata, Protocol):
    """Whose a blob is, where its name does not say so in full."""

    def named_in_full(self, places: Collection[Coordinates]) -> dict[Coordinates, Coordinates]:
        """Task instances whose ids are cut in the names of blobs, and end in a hash, with their ids in full; and those
        whose ids are listed in another Unicode form, as they are written.

        As far as this Airflow knows the id that the hash is of: the DAG, of that DAG the run, and of that run the task.
        """


class SweepMetadata(NameMetadata, Protocol):
    """The last look at the rows before a blob goes."""

    def referenced(self, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` that a row may refer to right now, archive tables included.

        Generous on purpose: it is enough that the unique part of a blob's name occurs anywhere in a value.

        :param keys: of a known layout.
        """

    def unfinished_runs(
        self, runs: Collection[Coordinates], *, stuck_before: datetime | None = None
    ) -> set[tuple[str, str]]:
        """The (dag_id, run_id) among ``runs`` that are, or have a task instance, in no final state right now.

        :param stuck_before: as in a ``Cut``.
        """
