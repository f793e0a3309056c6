"""Ranges of keys for parallel tasks, planned from where the keys really are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

#: The most keys in a sample: small next to a manifest, and fine enough for a hundred ranges.
_MOST = 2_048


@dataclass(slots=True)
class Sample:
    """Keys spread evenly over a sorted stream of unknown length: each n-th, and n doubles when the sample is full."""

    keys: list[str] = field(default_factory=list)
    every: int = 1
    seen: int = 0

    def add(self, key: str) -> None:
        if self.seen % self.every == 0:
            self.keys.append(key)
            if len(self.keys) > _MOST:
                self.keys = self.keys[::2]
                self.every *= 2
        self.seen += 1

    @classmethod
    def joined(cls, samples: Iterable[Sample]) -> Sample:
        """One sample of several streams, spread evenly over all of them."""
        parts = list(samples)
        every = max((part.every for part in parts), default=1)
        keys = [key for part in parts for key in part.keys[:: every // part.every]]
        while len(keys) > _MOST:
            keys, every = keys[::2], every * 2
        return cls(keys, every, sum(part.seen for part in parts))


def divide(sample: Sequence[str], count: int) -> list[tuple[str | None, str | None]]:
    """Ranges of keys, in byte order, with about equally many sampled keys each; together they cover every possible key.

    So a DAG with very many keys is split between several ranges, and many small DAGs share one.

    :param sample: in any order.
    :returns: at most ``count`` pairs (from this key on, before that key); None at the ends of the key space.
    """
    keys = sorted({key for key in sample if _can_be_a_bound(key)}, key=str.encode)
    cuts = dict.fromkeys(keys[len(keys) * part // count] for part in range(1, count)) if keys else {}
    bounds: list[str | None] = [None, *(cut for cut in cuts if cut != keys[0]), None]
    return list(pairwise(bounds))


def _can_be_a_bound(key: str) -> bool:
    """Whether a key can be sent to a store, and means the same there."""
    return key.isprintable()
