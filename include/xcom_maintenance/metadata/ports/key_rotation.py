"""What the rotation of keys asks of the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.values import StoredRow
from include.xcom_maintenance.metadata.ports.shared import BusyMetadata, Metadata


class RotationMetadata(Metadata, BusyMetadata, Protocol):
    """The rows that this project's own XCom backend wrote, and how one is replaced."""

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
