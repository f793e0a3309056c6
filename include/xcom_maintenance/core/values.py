"""What moves between rows and blobs: where it is, what it is, and what must stay where it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from include.xcom_maintenance.core.records import ValuePlace


@dataclass(frozen=True, slots=True)
class Movable:
    """A row whose value may move."""

    place: ValuePlace
    #: Of the value as JSON: as Postgres writes it if it is in the row, as the reference says if it is in a blob.
    value_bytes: int
    #: What the value takes in the table, compressed as it may be.
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class ReadValue:
    """The value of a row as it was when it was read. Its text shows in no ``repr``."""

    place: ValuePlace
    timestamp: datetime
    #: As JSON, just as the database writes it.
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A value that takes the place of another, if that is still there."""

    old: ReadValue
    #: As JSON.
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row that holds a reference of this project's own backend, or a value that it sealed. No value in ``repr``."""

    #: None: in a table that holds rows aside, where nothing is changed.
    place: ValuePlace | None
    dag_id: str
    stored_bytes: int
    #: What the row holds, as JSON; of a sealed value perhaps only the beginning.
    text: str = field(repr=False)
