"""What the offloading of large values asks of the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.values import Movable, ReadValue, Replacement
from include.xcom_maintenance.metadata.ports.shared import BusyMetadata, VacuumMetadata


class OffloadMetadata(VacuumMetadata, BusyMetadata, Protocol):
    """Values that may move between rows and blobs, and how one takes the place of another."""

    def large_values(self, min_bytes: int) -> Iterator[Movable]:
        """Values of finished runs that are at least so long as JSON and not in a blob of this project's backend."""

    def offloaded_values(self) -> Iterator[Movable]:
        """The rows of finished runs that refer to a blob of this project's backend."""

    def read_values(self, places: Sequence[ValuePlace]) -> list[ReadValue]:
        """What some rows hold; rows that are gone, and values that are NULL, are left out."""

    def as_stored(self, texts: Sequence[str]) -> list[str | None]:
        """What the store would give back for some values; None for one that it cannot hold.

        :param texts: as JSON.
        """

    def replace_values(self, replacements: Sequence[Replacement]) -> list[Replacement]:
        """Put values in the place of others in one short transaction, and nothing else; returns what took place.

        A row is locked, and changed only if it still holds what was read and its run is finished.
        """
