"""What would move, by DAG."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.values import Movable

#: Values that are compressed to tell how far they shrink: in number, and in bytes of JSON.
_SAMPLE_VALUES, SAMPLE_BYTES = 200, 32 * 2**20


@dataclass(slots=True)
class Tally:
    """What was found, by DAG."""

    values: Counter[str] = field(default_factory=Counter)
    value_bytes: Counter[str] = field(default_factory=Counter)
    stored_bytes: Counter[str] = field(default_factory=Counter)
    largest: Counter[str] = field(default_factory=Counter)
    sample: list[ValuePlace] = field(default_factory=list)
    #: The share of its size that a value has in a blob; None if it is not known.
    shrinks_to: float | None = None
    _seen: int = 0

    @property
    def rows(self) -> int:
        return self.values.total()

    def take(self, values: list[Movable]) -> None:
        for value in values:
            dag_id = value.place.dag_id
            self.values[dag_id] += 1
            self.value_bytes[dag_id] += value.value_bytes
            self.stored_bytes[dag_id] += value.stored_bytes
            self.largest[dag_id] = max(self.largest[dag_id], value.value_bytes)
            self._sample(value)

    def _sample(self, value: Movable) -> None:
        """Every so many of them, so that those of all ages are among it; all if they are few."""
        self._seen += 1
        step = 1 + (self._seen - 1) // _SAMPLE_VALUES
        if len(self.sample) >= 2 * _SAMPLE_VALUES:
            self.sample = self.sample[::2]
        if (self._seen - 1) % step == 0:
            self.sample.append(value.place)
