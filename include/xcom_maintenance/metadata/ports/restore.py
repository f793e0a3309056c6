"""What restoring asks of the metadata."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from include.xcom_maintenance.core.records import ArchivedRow
from include.xcom_maintenance.metadata.ports.shared import BusyMetadata, NameMetadata, RetentionMetadata


class Return(StrEnum):
    """Whether an archived row can return."""

    POSSIBLE = "can be restored"
    EXISTS = "already exists"
    NO_RUN = "its run no longer exists"
    NO_TASK_INSTANCE = "its task instance no longer exists"
    PUSHED_ANEW = "its mapped task has pushed anew"


class RestoreMetadata(RetentionMetadata, NameMetadata, BusyMetadata, Protocol):
    """Put archived rows back."""

    def restorable(self, rows: Sequence[ArchivedRow], *, archived_at: str | None) -> list[Return]:
        """Whether each of some archived rows could return now, in their order.

        :param archived_at: what instances of a mapped task have pushed since (ISO 8601) is another result, with which
            the archived one does not mix; None: not known.
        """

    def restore(self, rows: Sequence[ArchivedRow], *, archived_at: str | None) -> int:
        """Put back those archived rows that can return, in one short transaction; returns how many those were.

        Each returns to the run that has its run id now, just as it was, its timestamp too. A row that is there is left
        as it is, and so are mapped rows beside newer ones, see ``restorable``.

        :param rows: all of one archive file.
        :raises ConfigurationError: if they cannot be read as rows of the table.
        """
