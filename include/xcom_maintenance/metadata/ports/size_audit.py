"""What the size audit asks of the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.core.table_figures import Entry, LogicalSizes, SizeGroup, TableHealth
from include.xcom_maintenance.metadata.ports.shared import Metadata, RetentionMetadata


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


@dataclass(frozen=True, slots=True)
class LongRun:
    """A run that is in no final state, and what its rows hold."""

    dag_id: str
    run_id: str
    state: str
    #: When it began, or was due if it never did (UTC).
    since: datetime
    rows: int
    stored_bytes: int


class SecretsMetadata(Metadata, Protocol):
    """The newest values, one by one, for the scan for secrets."""

    def values(self, span: ValueSpan, *, max_value_bytes: int) -> Iterator[PushedValue]:
        """Values one by one, newest runs first, however large the table; stop when you have seen enough.

        Canaries and NULLs are left out. Pushes into a run that had ended before ``pushed_after`` may be, too.
        """

    def count_values(self, span: ValueSpan) -> int:
        """How many ``values`` would yield."""

    def values_still_there(self, keys: Sequence[tuple[str, str, str, datetime]]) -> list[bool]:
        """For each (DAG, task, key, moment) whether there is a row that was pushed no later."""


class AuditMetadata(RetentionMetadata, SecretsMetadata, Protocol):
    """Sizes, the health of the table, and what is kept of a canary."""

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

    def logical_bytes(self, entries: Sequence[Entry], *, seconds: float) -> list[int | None]:
        """The sizes of some values as JSON text; None where the row is gone, or it could not be told in time.

        :param seconds: that all of it may take.
        """

    def table_health(self) -> TableHealth:
        """The size and state of the ``xcom`` table."""

    def long_runs(self, begun_before: datetime) -> list[LongRun]:
        """The runs in no final state that began before a moment, those that hold the most bytes first."""

    def dags(self) -> dict[str, bool]:
        """The DAGs that are there, and whether they are stale: no file defines them any more."""

    def whole_references(self, base: BasePath) -> Iterator[RowReference]:
        """The references below ``base`` that are the whole value of a row, sorted by key in byte order."""

    def stored(self, dag_id: str, run_id: str, task_id: str, map_index: int, key: str) -> StoredValue | None:
        """What is kept in one row; None if there is none."""
