"""How large the referenced blobs are: a listing merged with the references, within a budget."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.byte_order import in_byte_order
from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.core.sizes import class_of
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.size_audit.growth import day_number
from include.xcom_maintenance.size_audit.job import AuditJob

Key = tuple[str, str, str]

#: The most keys that are counted separately; references of further ones only count for their DAG.
_MOST_KEYS = 10_000
#: Blobs that are looked up one by one beyond the end of the listing.
_LOOKED_UP = 500


@dataclass(slots=True)
class BlobSum:
    """References and the bytes of their blobs; a missing blob counts as zero."""

    references: int = 0
    bytes: float = 0


@dataclass(slots=True)
class BlobSizes:
    """What rows keep in blobs."""

    total: BlobSum = field(default_factory=BlobSum)
    dags: defaultdict[str, BlobSum] = field(default_factory=lambda: defaultdict(BlobSum))
    keys: dict[Key, BlobSum] = field(default_factory=dict)
    #: Day number -> sum; None for all those before the window.
    days: defaultdict[int | None, BlobSum] = field(default_factory=lambda: defaultdict(BlobSum))
    #: Class of sizes -> blobs of that size.
    classes: Counter[int] = field(default_factory=Counter)
    largest_bytes: int = 0
    #: References whose blob was not found.
    missing: int = 0
    #: References with an estimated blob size, because the budget was used up.
    estimated: int = 0

    def add(self, reference: RowReference, size: float, since: datetime) -> None:
        key = (reference.dag_id, reference.task_id, reference.xcom_key)
        sums = [self.total, self.dags[reference.dag_id], self.days[_day(reference, since)]]
        if key in self.keys or len(self.keys) < _MOST_KEYS:
            sums.append(self.keys.setdefault(key, BlobSum()))
        for found in sums:
            found.references += 1
            found.bytes += size


def measure_blobs(job: AuditJob, blobs: BlobStore, *, since: datetime) -> BlobSizes:
    """Measure the blobs of all rows. Memory is bounded by the DAGs and days, whatever the rows and blobs.

    :param since: rows pushed earlier are not counted by day.
    """
    settings = job.settings
    found = BlobSizes()
    listing = _Listing(blobs, settings.audit_budget_blobs, settings.audit_budget_seconds)
    rest = _Rest(since)
    progress = Progress(job.log, "References checked")
    previous = ""
    for reference in job.metadata.whole_references(blobs.base):
        progress.add()
        if reference.key == previous:  # two rows of one blob, which takes its space once
            found.add(reference, 0, since)
            continue
        previous = reference.key
        if not listing.reaches(reference.key):
            rest.add(reference)
            continue
        size = listing.size_of(reference.key)
        if size is None:
            found.missing += 1
        else:
            found.classes[class_of(size)] += 1
            found.largest_bytes = max(found.largest_bytes, size)
        found.add(reference, size or 0, since)
    rest.estimate(blobs, found)
    return found


class _Listing:
    """A sorted listing that is read along with sorted keys, until a budget is used up."""

    def __init__(self, blobs: BlobStore, most: int, seconds: float) -> None:
        self._stream: Iterator[tuple[str, int]] = ((in_byte_order(blob.key), blob.size) for blob in blobs.list())
        self._left = most
        self._deadline = time.monotonic() + seconds
        self._current: tuple[str, int] | None = None
        self._ended = False

    def reaches(self, key: str) -> bool:
        """Whether the listing has come far enough to say if this key exists."""
        wanted = in_byte_order(key)
        while not self._ended and (self._current is None or self._current[0] < wanted):
            if self._left <= 0 or time.monotonic() > self._deadline:
                return False
            self._left -= 1
            self._current = next(self._stream, None)
            self._ended = self._current is None
        return True

    def size_of(self, key: str) -> int | None:
        """The size of a blob within reach of the listing; None if it does not exist."""
        return self._current[1] if self._current is not None and self._current[0] == in_byte_order(key) else None


class _Rest:
    """References beyond the listing: all are counted, and a uniform random sample is kept to be looked up."""

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._groups: Counter[tuple[Key, int | None]] = Counter()
        self._kept: list[RowReference] = []
        self._count = 0
        self._chance = random.Random(0)  # noqa: S311 - a sample, not a secret

    def add(self, reference: RowReference) -> None:
        self._count += 1
        key = (reference.dag_id, reference.task_id, reference.xcom_key)
        group = (key, _day(reference, self._since))
        if group not in self._groups and len(self._groups) >= _MOST_KEYS:
            group = ((reference.dag_id, "", ""), None)
        self._groups[group] += 1
        if len(self._kept) < _LOOKED_UP:
            self._kept.append(reference)
        elif (place := self._chance.randrange(self._count)) < _LOOKED_UP:
            self._kept[place] = reference

    def estimate(self, blobs: BlobStore, found: BlobSizes) -> None:
        """Add the rest, each at the mean size of its DAG's sampled blobs, or of all of them if there are none."""
        if not self._count:
            return
        sizes = {blob.key: blob.size for blob in blobs.head([reference.key for reference in self._kept])}
        by_dag: defaultdict[str, list[int]] = defaultdict(list)
        for reference in self._kept:
            by_dag[reference.dag_id].append(sizes.get(reference.key, 0))
        everything = [size for of_dag in by_dag.values() for size in of_dag]
        for size in sizes.values():
            found.classes[class_of(size)] += round(self._count / len(self._kept))
        found.largest_bytes = max([found.largest_bytes, *sizes.values()])
        for (key, day), count in self._groups.items():
            of_dag = by_dag.get(key[0]) or everything
            added = BlobSum(count, count * sum(of_dag) / len(of_dag))
            sums = [found.total, found.dags[key[0]], found.days[day]]
            if key[1]:
                sums.append(found.keys.setdefault(key, BlobSum()))
            for total in sums:
                total.references += added.references
                total.bytes += added.bytes
        found.estimated = self._count


def _day(reference: RowReference, since: datetime) -> int | None:
    pushed = reference.timestamp
    return day_number(pushed) if pushed is not None and pushed >= since else None
