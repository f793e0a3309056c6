"""What the reconciliation asks of the metadata."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import Coordinates, RowReference
from include.xcom_maintenance.metadata.ports.shared import OpenArchive, SweepMetadata


class UnparsableReference(ValueError):
    """A row whose value looks like a reference below the base path but cannot be read as one.

    :param where: the row's coordinates; the value itself is in no message.
    :param why: what is wrong with it.
    """

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        self.why = why
        super().__init__(f"The reference in {where} cannot be read: {why}")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the metadata still knows about the task that a blob belongs to."""

    #: Whether the DAG is there, not only remembered.
    dag: bool
    run: bool
    #: Whether the run has an instance of the task.
    task_instance: bool
    #: Whether an instance of the task ended in success.
    succeeded: bool = False
    #: When the last attempt at it began (UTC); None if none did, or it is not known.
    started: datetime | None = None
    #: The newest row of the task in that run whose whole value is a reference below the base path (UTC).
    newest_reference: datetime | None = None
    #: Whether a row of the task in that run holds a reference to a blob elsewhere.
    refers_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class DanglingThatStay:
    """Rows whose blob is gone and that stay nevertheless, in numbers."""

    #: They belong to a mapped task, others of whose rows stay.
    in_part: int
    #: This project's own backend wrote them, and a task that pulls one fails.
    own: int


class ReconciliationMetadata(SweepMetadata, Protocol):
    """All references, what is known about blobs without one, and the rows whose blob is gone."""

    def references(self, base: BasePath) -> Iterator[RowReference]:
        """Every reference to a blob below ``base``, wherever in a value and in archive tables too.

        Sorted by key in byte order; a blob can come more than once.

        :raises UnparsableReference: for a value that looks like a reference and cannot be read as one.
        """

    def still_there(self, references: Sequence[RowReference]) -> list[RowReference]:
        """Those references of the ``xcom`` table whose row has not been deleted meanwhile."""

    def delete_dangling(
        self,
        references: Sequence[RowReference],
        *,
        archive: OpenArchive | None = None,
    ) -> int:
        """Delete the rows of the ``xcom`` table that still hold these references, in one short transaction.

        Only of runs that are finished, and of the rows of a mapped task all of one key or none, as for ``delete``,
        checked in the statement itself. Never rows of this project's own backend: a task that pulls one fails, as it
        should, and would get None if the row were gone.

        :param archive: as for ``delete``.
        :returns: how many rows went.
        """

    def dangling_that_stay(self, references: Sequence[RowReference]) -> DanglingThatStay:
        """How many of the rows that still hold these references ``delete_dangling`` leaves, and why."""

    def circumstances(self, places: Collection[Coordinates], base: BasePath) -> dict[Coordinates, Circumstances]:
        """What is still known about the tasks of some blobs below ``base``."""

    def known_dags(self, dag_ids: Collection[str]) -> set[str]:
        """Those of ``dag_ids`` that this Airflow ever knew, as far as it still remembers."""
