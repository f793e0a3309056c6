"""What the cleanup asks of the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.core.runs import Doomed, Run, Sample, Scope
from include.xcom_maintenance.metadata.ports.shared import (
    BusyMetadata,
    OpenArchive,
    RetentionMetadata,
    SweepMetadata,
    VacuumMetadata,
)


@dataclass(frozen=True, slots=True)
class Deleted:
    """What one batch deleted. Its bytes are known from the plan: to measure them again costs a fifth of the time."""

    rows: int
    #: Whether a limit may have left some.
    more: bool = False


class CleanupMetadata(RetentionMetadata, SweepMetadata, VacuumMetadata, BusyMetadata, Protocol):
    """Plan by the retention rules, delete rows, and verify their blobs."""

    def newest_finished_runs(self, count: int) -> Iterator[Run]:
        """The ``count`` newest runs in a final state of each DAG, ordered as ``runs``."""

    def sample(self, scopes: Sequence[Scope], *, created_before: datetime | None = None) -> Sample:
        """How many rows and bytes there are by run: exact for a small table, else from some of its pages.

        :param scopes: that rows are told apart by.
        :param created_before: rows of runs that were created later come by DAG.
        """

    def row_count_estimate(self) -> int:
        """How many XCom rows there are, as the database's statistics say; exact for small tables."""

    def doomed_references(self, doomed: Doomed, base: BasePath) -> Iterator[RowReference]:
        """References to blobs below ``base`` that are the whole value of a row that ``delete`` would take now."""

    def delete(
        self,
        doomed: Doomed,
        *,
        limit: int | None = None,
        archive: OpenArchive | None = None,
    ) -> Deleted:
        """Delete rows in one short transaction, about ``limit``, every condition checked in the statement itself.

        The rows that the instances of a mapped task pushed under one key go together or not at all, so that there can
        be fewer, and more if one such group alone is larger.

        If a run of the batch is found to have come to life meanwhile, nothing of that run is deleted. What is passing,
        such as a lost connection, is tried again; the rows are counted once.

        :param archive: opens a sink for the rows that go, which must be safe when it is closed: that is before the
            commit. It may be opened more than once.
        :raises TryAgain: if that did not help in time; nothing of the batch was deleted then.
        """

    def may_see_replication(self) -> bool:
        """Whether the role may see how far replicas lag behind."""
