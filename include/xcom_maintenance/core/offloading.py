"""What moves between rows and blobs: where it is, what it is, and what must stay where it is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime

from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.reference_formats.layout import HEX, UUID

#: The threshold of a backend if none is configured: where Astronomer's guidance moves values out of the database.
DEFAULT_THRESHOLD = 48 * 1024

#: A name as blobs have it, in a path or behind a word: a value that holds one counts as a reference to that blob, which
#: nobody would see any more if the value itself were in a blob. A UUID that stands alone is an id of something else.
_NAMES_A_BLOB = re.compile(rf"(?:[/\\_-]|%2f)(?:{UUID}|{HEX})|(?:{UUID}|{HEX})(?:[/\\.]|%2f)", re.IGNORECASE)


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


def may_name_a_blob(text: str, *bases: str) -> bool:
    """Whether a value may be what keeps other blobs from being orphans.

    :param text: the value as JSON.
    :param bases: base paths, without scheme and Connection.
    """
    return any(base in text for base in bases) or _NAMES_A_BLOB.search(text) is not None


def same_value(text: str, other: str) -> bool:
    """Whether two JSON texts hold the same, types of numbers included; the order of keys, which JSONB loses, aside."""
    return _canonical(text) == _canonical(other)


def _canonical(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True)
