"""Which values each key encrypts, with the figures by key and DAG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from include.xcom_maintenance.core.values import StoredRow
from include.xcom_maintenance.xcom_backend.port import Seal, Trouble


@dataclass(slots=True)
class Holdings:
    """What each key holds, by DAG.

    :param sealing: the key that seals now; None if nothing is encrypted.
    :param configured: all keys that open.
    """

    sealing: str | None
    configured: Collection[str]
    #: (key, DAG) -> values.
    blobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    inline: Counter[tuple[str, str]] = field(default_factory=Counter)
    bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Rows of tables that hold some aside.
    aside: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: (DAG, trouble) -> values whose key is not known.
    troubles: Counter[tuple[str, Trouble]] = field(default_factory=Counter)
    #: Values of ours that are not encrypted.
    plain: int = 0

    def add(self, row: StoredRow, seal: Seal) -> None:
        if seal.trouble is not None:
            self.troubles[row.dag_id, seal.trouble] += 1
        elif seal.key_id is None:
            self.plain += 1
        elif row.place is None:
            self.aside[seal.key_id, row.dag_id] += 1
        else:
            where = seal.key_id, row.dag_id
            (self.inline if seal.inline else self.blobs)[where] += 1
            self.bytes[where] += seal.bytes

    def goes(self, row: StoredRow, seal: Seal) -> bool:
        """Whether a value is to be sealed again: its key opens, and is not the one that seals."""
        return row.place is not None and seal.trouble is None and seal.key_id in self.old_keys

    @property
    def old_keys(self) -> list[str]:
        return [key for key in self.configured if key != self.sealing]

    @property
    def missing_keys(self) -> list[str]:
        """Keys that seal something and are not configured."""
        return sorted({key for key, _ in self._places()} - set(self.configured))

    @property
    def unknown(self) -> int:
        """Values with an unknown key. A missing blob has none."""
        return sum(count for (_, trouble), count in self.troubles.items() if trouble is not Trouble.MISSING)

    @property
    def removable_keys(self) -> list[str]:
        """Configured keys that no value needs any more; none while there is a value with an unknown key."""
        used = {key for key, _ in self._places()}
        return [] if self.unknown else [key for key in self.old_keys if key not in used]

    def values(self, keys: Collection[str]) -> int:
        """How many values in rows some keys hold."""
        return sum(_of(found, keys) for found in (self.blobs, self.inline))

    def bytes_of(self, keys: Collection[str]) -> int:
        return _of(self.bytes, keys)

    def aside_of(self, keys: Collection[str]) -> int:
        return _of(self.aside, keys)

    def by_key(self) -> list[list[object]]:
        """A line for each key: its id, what it is for, blobs, inline values, bytes, rows aside, whether it may go."""
        removable = self.removable_keys
        lines: list[list[object]] = []
        for key in [*self.configured, *self.missing_keys]:
            what = (
                "encrypts new values"
                if key == self.sealing
                else "decrypts only"
                if key in self.configured
                else "NOT CONFIGURED"
            )
            counts = [_of(found, [key]) for found in (self.blobs, self.inline, self.bytes, self.aside)]
            lines.append([key, what, *counts, "yes" if key in removable else "no"])
        return lines

    def by_dag(self) -> list[list[object]]:
        """A line for each DAG and key but the one that seals, those with the most values first."""
        places = sorted((where for where in self._places() if where[0] != self.sealing), key=self._order)
        return [
            [dag, key, *(found[key, dag] for found in (self.blobs, self.inline, self.bytes, self.aside))]
            for key, dag in places
        ]

    def _order(self, where: tuple[str, str]) -> tuple[int, str, str]:
        return -(self.blobs[where] + self.inline[where]), where[1], where[0]

    def _places(self) -> Iterator[tuple[str, str]]:
        yield from {where for found in (self.blobs, self.inline, self.aside) for where in found}


def _of(found: Counter[tuple[str, str]], keys: Collection[str]) -> int:
    return sum(count for (key, _), count in found.items() if key in keys)
