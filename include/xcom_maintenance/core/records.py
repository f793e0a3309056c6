"""What flows between the floors: small frozen records.

Those that come by the thousand are named tuples, which are made four times as fast as frozen dataclasses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple


class RowReference(NamedTuple):
    """A reference found in the metadata database, and the row that holds it."""

    #: The key of the blob relative to the base path.
    key: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    xcom_key: str
    #: When the row was pushed (UTC); None for rows of archive tables that do not say.
    timestamp: datetime | None
    #: The table that holds the row: ``xcom`` or an archive that ``airflow db clean`` left.
    table: str
    stored_bytes: int
    #: Whether the reference is the whole value, as a backend writes it, and not part of a larger one.
    whole: bool


class Blob(NamedTuple):
    """An object of the blob store."""

    #: Relative to the base path.
    key: str
    size: int
    #: UTC; None if the store does not say, which counts as now.
    last_modified: datetime | None
    #: What changes whenever the object is written again: an ETag, a generation; None if the store has none.
    version: str | None


@dataclass(frozen=True, slots=True)
class Coordinates:
    """The task instance that a blob belongs to, as its key tells."""

    dag_id: str
    run_id: str
    task_id: str

    @property
    def parts(self) -> tuple[str, str, str]:
        return self.dag_id, self.run_id, self.task_id


@dataclass(frozen=True, slots=True)
class ValuePlace:
    """Where a row is: its primary key, and the names that go with it."""

    dag_run_id: int
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    key: str


@dataclass(frozen=True, slots=True)
class ArchivedRow:
    """A row that was deleted, as its archive holds it. Its value shows in no ``repr``."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    key: str
    #: The value as JSON if it is short, and a text or an object: it may be a reference.
    value: str | None = field(repr=False)
    #: The whole line, for the database to read.
    line: str = field(repr=False)

    @property
    def text(self) -> str | None:
        """The value if it is a short text."""
        return json.loads(self.value) if self.value is not None and self.value.startswith('"') else None


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """Which metadata database this is, so that a base path can be tied to it."""

    #: Postgres' system identifier and the name of the database: the same after a failover, another after a dump was
    #: restored elsewhere. A copy of the data directory keeps it, so a copy of production must not share its bucket.
    cluster: str
    database: str
    schema_revision: str

    @property
    def owner(self) -> str:
        return f"{self.cluster}/{self.database}"
