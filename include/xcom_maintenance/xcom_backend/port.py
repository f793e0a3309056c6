"""What the rooms ask of this project's XCom backend, and of the backend that this Airflow uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.values import ReadValue, StoredRow
from include.xcom_maintenance.metadata.ports.size_audit import StoredValue


class Trouble(StrEnum):
    """Why a value cannot be read or re-encrypted."""

    MISSING = "its blob is missing"
    OUTSIDE = "its blob is outside the configured paths"
    DAMAGED = "it is damaged or has a newer format"
    UNDECRYPTABLE = "it cannot be decrypted with its key"
    MISPLACED = "it was written for another XCom"
    UNREACHABLE = "the store failed"


@dataclass(frozen=True, slots=True)
class Seal:
    """What a value says about itself, unchecked."""

    #: None: it is not encrypted, or that is not known.
    key_id: str | None
    inline: bool = False
    #: As stored, in the blob or in the row.
    bytes: int = 0
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Resealed:
    """What became of a value that was to be sealed again."""

    #: What the row is to hold now, as JSON; None if there is nothing to do, or it could not be done.
    text: str | None = field(default=None, repr=False)
    #: As stored now, in the blob or in the row.
    bytes: int = 0
    trouble: Trouble | None = None
    #: The blob that the row refers to so far, for whoever sealed it again; None for an inline value.
    former: object | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Moved:
    """What a row is to hold instead of its value, or of the reference to it."""

    #: As JSON.
    text: str = field(repr=False)
    #: Of the value as JSON.
    value_bytes: int
    #: Of the blob.
    blob_bytes: int
    #: Whether a task that pulls it from the row gets just this value; of what comes back into rows.
    can_be_pulled: bool = True


class ValueStays(Exception):
    """A value that cannot or must not move; the message says why, and holds no value."""


class Backend(Protocol):
    """This project's XCom backend. Every method raises ``ConfigurationError`` if it is not there or not configured,
    and ``StoreUnavailable`` if its store cannot be reached."""

    @property
    def name(self) -> str:
        """The class that this Airflow uses, whichever it is."""

    @property
    def takes_pushes(self) -> bool:
        """Whether that class is this project's backend."""

    @property
    def threshold(self) -> int:
        """From how many bytes on as JSON it puts values into blobs."""

    @property
    def bases(self) -> tuple[str, ...]:
        """Its base paths, as ``bucket/prefix``."""

    def blob_bytes(self, value: ReadValue) -> int:
        """How large the blob of a value would be."""

    def into_blob(self, value: ReadValue) -> Moved:
        """Write a blob, and read it back to see that it holds the value.

        :raises ValueStays: if the value may not go there.
        """

    def into_row(self, value: ReadValue) -> Moved:
        """What the row of a reference would hold instead.

        :raises ValueStays: if the blob cannot be had.
        """

    def probe(self, direction: str, place: ValuePlace) -> None:
        """Make sure, by a canary that is removed again, that the active backend reads what rows would hold.

        :raises ConfigurationError: if it does not.
        """


class Vault(Protocol):
    """The XCom backend's keys and stores. Raises ``ConfigurationError`` if they cannot be used."""

    #: Why there is no backend to ask, in words; empty if there is one.
    unusable: str
    #: The id of the key that seals new values; None if nothing is encrypted.
    sealing: str | None
    #: The ids of all configured keys.
    configured: tuple[str, ...]

    def seals(self, rows: Sequence[StoredRow]) -> list[Seal]:
        """What values say about themselves; reads no more of each than its header."""

    def reseal(self, rows: Sequence[StoredRow]) -> list[Resealed]:
        """Seal values with the key that seals now. New blobs are stored and were read back; nothing else is changed."""

    def renew(self, former: Iterable[object]) -> int:
        """Let the age of blobs that were replaced begin anew; returns of how many."""


class Channel(Protocol):
    """The way of an XCom of the running task, as tasks go it. Every method may raise whatever the backend raises."""

    def push(self, key: str, value: Any) -> None: ...

    def pull(self, key: str) -> Any:
        """The value, or None if there is none."""

    def remove(self, key: str) -> None:
        """Remove the row and what the backend keeps besides; no harm if there is nothing."""

    def stored(self, key: str) -> StoredValue | None:
        """What is kept in the row."""

    def blob_bytes(self, reference: str) -> int | None:
        """The size of the blob that a row refers to; None if it is no reference, or there is no blob."""

    def encryption_seconds(self) -> float | None:
        """What encryption added to the last push, if the backend can tell."""
