"""What takes the space: the database's figures, aggregated for the report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from include.xcom_maintenance.core.errors import StoreUnavailable
from include.xcom_maintenance.core.sizes import NULL_CLASS, THRESHOLDS, at_least
from include.xcom_maintenance.core.table_figures import GroupKind, LogicalGroup, LogicalSizes, SizeGroup
from include.xcom_maintenance.size_audit.blobs import BlobSizes
from include.xcom_maintenance.size_audit.job import AuditJob


@dataclass(slots=True)
class Size:
    """Some rows. Stored bytes are exact; logical ones may be estimated, or None if unknown."""

    rows: int = 0
    stored: int = 0
    logical: float | None = None


@dataclass(slots=True)
class _Logical:
    """A sample: rows, stored and logical bytes, and both by class of logical size."""

    rows: int = 0
    stored: int = 0
    logical: int = 0
    class_rows: Counter[int] = field(default_factory=Counter)
    class_stored: Counter[int] = field(default_factory=Counter)

    def add(self, group: LogicalGroup) -> None:
        self.rows += group.rows
        self.stored += group.stored_bytes
        self.logical += group.logical_bytes
        if group.kind is GroupKind.CLASS and group.number is not None:
            self.class_rows[group.number] += group.rows
            self.class_stored[group.number] += group.stored_bytes


@dataclass(slots=True)
class Sizes:
    """All sizes; as large as the number of DAGs and days."""

    all: Size = field(default_factory=Size)
    dags: defaultdict[str, Size] = field(default_factory=lambda: defaultdict(Size))
    #: The largest ones.
    tasks: dict[tuple[str, str], Size] = field(default_factory=dict)
    keys: dict[tuple[str, str, str], Size] = field(default_factory=dict)
    task_count: int = 0
    key_count: int = 0
    #: Day number -> size; None for all those before the window.
    days: defaultdict[int | None, Size] = field(default_factory=lambda: defaultdict(Size))
    dag_days: defaultdict[str, dict[int, Size]] = field(default_factory=lambda: defaultdict(dict))
    #: DAG -> rows whose value is NULL.
    nulls: Counter[str] = field(default_factory=Counter)
    #: (DAG, task, day, rows), the most rows first.
    busy_days: list[tuple[str, str, int, int]] = field(default_factory=list)
    #: (DAG, task, fan-out, rows, stored bytes), the largest fan-out first.
    mapped: list[tuple[str, str, int, int, int]] = field(default_factory=list)
    oldest: datetime | None = None
    #: As JSON, of the values that were read.
    largest_logical: int = 0
    #: The share of the table's pages that was read; None if no value could be read.
    sampled_share: float | None = None
    _stored_classes: defaultdict[str, _Logical] = field(default_factory=lambda: defaultdict(_Logical))
    _logical_classes: defaultdict[str, _Logical] = field(default_factory=lambda: defaultdict(_Logical))

    #: Of the sample, by threshold: the values that are larger as text.
    _large_stored: Counter[int] = field(default_factory=Counter)
    _large_logical: Counter[int] = field(default_factory=Counter)

    @property
    def is_exact(self) -> bool:
        """Whether logical sizes are exact, not estimated."""
        return self.sampled_share == 1

    def leaves(self, dag_id: str) -> list[int]:
        """The stored bytes of a DAG that would leave the database at each of ``THRESHOLDS``."""
        exact, stored = self._stored_classes[dag_id], self.dags[dag_id].stored
        sampled = self._logical_classes.get(dag_id)
        if sampled is None or not sampled.stored:  # a stored value is hardly ever larger than its text
            return [round(at_least(exact.class_stored, threshold)) for threshold in THRESHOLDS]
        return [
            round(_scaled(at_least(sampled.class_stored, t), stored, sampled.stored, exact=self.is_exact))
            for t in THRESHOLDS
        ]

    def band(self, lower: int, upper: int | None) -> tuple[int, int]:
        """The rows and stored bytes of a band, by logical size if that is known, else by stored size."""
        if self.sampled_share is None:
            rows = sum(at_least(found.class_rows, lower, upper) for found in self._stored_classes.values())
            stored = sum(at_least(found.class_stored, lower, upper) for found in self._stored_classes.values())
            return round(rows), round(stored)
        rows = stored = 0.0
        for dag_id, size in self.dags.items():
            sampled = self._logical_classes.get(dag_id)
            exact = self._stored_classes[dag_id]
            if sampled is None or not sampled.rows:
                rows += at_least(exact.class_rows, lower, upper)
                stored += at_least(exact.class_stored, lower, upper)
                continue
            whole = size.rows - self.nulls[dag_id]
            seen = sampled.rows - sampled.class_rows[NULL_CLASS]
            rows += _scaled(at_least(sampled.class_rows, lower, upper), whole, seen, exact=self.is_exact)
            stored += _scaled(
                at_least(sampled.class_stored, lower, upper), size.stored, sampled.stored, exact=self.is_exact
            )
        return round(rows), round(stored)

    def reduction(self, lower: int) -> float | None:
        """What the database's compression saves on values of at least this logical size; None if there are none."""
        stored, logical = self._large_stored[lower], self._large_logical[lower]
        return max(0.0, 1 - stored / logical) if logical else None

    # -- filling -----------------------------------------------------------------------------------------------------

    def take(self, groups: Iterable[SizeGroup]) -> None:
        """Add the result of the pass by stored size."""
        for group in groups:
            size = Size(group.rows, group.stored_bytes)
            match group.kind:
                case GroupKind.KEY:
                    self.keys[group.dag_id, group.task_id, group.key] = size
                case GroupKind.TASK:
                    self.tasks[group.dag_id, group.task_id] = size
                case GroupKind.TASKS:
                    self.task_count = group.rows
                case GroupKind.KEYS:
                    self.key_count = group.rows
                case GroupKind.MAPPED:
                    self.mapped.append((group.dag_id, group.task_id, group.fan_out, group.rows, group.stored_bytes))
                case GroupKind.BUSY_DAY if group.number is not None:
                    self.busy_days.append((group.dag_id, group.task_id, group.number, group.rows))
                case GroupKind.DAY:
                    self._take_day(group, size)
                case GroupKind.CLASS:
                    self._take_class(group)
        self.busy_days.sort(key=lambda found: -found[3])
        self.mapped.sort(key=lambda found: -found[2])

    def _take_day(self, group: SizeGroup, size: Size) -> None:
        for total in (self.all, self.dags[group.dag_id], self.days[group.number]):
            total.rows += size.rows
            total.stored += size.stored
        if group.number is not None:
            self.dag_days[group.dag_id][group.number] = size
        if group.oldest is not None and (self.oldest is None or group.oldest < self.oldest):
            self.oldest = group.oldest

    def _take_class(self, group: SizeGroup) -> None:
        if group.number is None:
            return
        found = self._stored_classes[group.dag_id]
        found.class_rows[group.number] += group.rows
        found.class_stored[group.number] += group.stored_bytes
        if group.number == NULL_CLASS:
            self.nulls[group.dag_id] += group.rows

    def take_logical(self, found: LogicalSizes) -> None:
        """Add the result of reading the values, or a sample of them."""
        self.sampled_share = found.share
        days: dict[int | None, _Logical] = defaultdict(_Logical)
        tasks: dict[tuple[str, str], _Logical] = defaultdict(_Logical)
        keys: dict[tuple[str, str, str], _Logical] = defaultdict(_Logical)
        for group in found.groups:
            match group.kind:
                case GroupKind.CLASS:
                    self._logical_classes[group.dag_id].add(group)
                    self.largest_logical = max(self.largest_logical, group.largest_bytes or 0)
                    for threshold in THRESHOLDS:
                        if at_least({group.number or 0: 1}, threshold):
                            self._large_stored[threshold] += group.stored_bytes
                            self._large_logical[threshold] += group.logical_bytes
                case GroupKind.DAY:
                    days[group.number].add(group)
                case GroupKind.TASK:
                    tasks[group.dag_id, group.task_id].add(group)
                case GroupKind.KEY:
                    keys[group.dag_id, group.task_id, group.key].add(group)
        overall = _Logical()
        for sampled in self._logical_classes.values():
            overall.stored += sampled.stored
            overall.logical += sampled.logical
        for dag_id, size in self.dags.items():
            size.logical = self._logical(size, self._logical_classes.get(dag_id), overall)
        self.all.logical = sum(size.logical or 0 for size in self.dags.values())
        for day, size in self.days.items():
            size.logical = self._logical(size, days.get(day), overall)
        for (dag_id, task_id), size in self.tasks.items():
            size.logical = self._logical(size, tasks.get((dag_id, task_id)), self._logical_classes.get(dag_id), overall)
        for key, size in self.keys.items():
            size.logical = self._logical(size, keys.get(key), self._logical_classes.get(key[0]), overall)

    def _logical(self, size: Size, *sampled: _Logical | None) -> float:
        """Exact if everything was read; else the stored bytes by the ratio of the nearest sample that has one."""
        for found in sampled:
            if found is not None and (found.stored or self.is_exact):
                return _scaled(found.logical, size.stored, found.stored, exact=self.is_exact)
        return float(size.stored)


def _scaled(part: float, whole: float, seen: float, *, exact: bool) -> float:
    """A part of the sample, scaled up to the whole."""
    return part if exact or not seen else part * whole / seen


def measure(job: AuditJob, blobs: BlobSizes | None, *, since: datetime) -> Sizes:
    """One pass over all rows by stored size, then as many values as the budget allows."""
    settings, top = job.settings, job.settings.top_entries
    in_blobs = sorted(blobs.keys.items(), key=lambda item: -item[1].bytes)[:top] if blobs else []
    sizes = Sizes()
    with job.report.phase("sizes"):
        sizes.take(job.metadata.sizes(top, since=since, wanted=[key for key, _ in in_blobs]))
    with job.report.phase("logical sizes"):
        share = min(
            1.0,
            settings.audit_budget_rows / max(1, sizes.all.rows),
            settings.audit_budget_bytes / max(1, sizes.all.stored),
        )
        # If the first attempt is too slow, try a tenth of it.
        for part, seconds in ((share, 0.8), (share / 10, 0.2)):
            try:
                found = job.metadata.logical_sizes(
                    part,
                    since=since,
                    seconds=settings.audit_budget_seconds * seconds,
                    tasks=list(sizes.tasks),
                    keys=list(sizes.keys),
                )
            except StoreUnavailable as error:
                job.log.warning("Could not read the values of %.2f%% of the pages: %s", part * 100, error.problem)
                continue
            if found.groups or not sizes.all.rows:  # a sample of very few pages can be empty
                sizes.take_logical(found)
                break
        if sizes.sampled_share is None and sizes.all.rows:
            job.report.warnings.append(
                "Logical sizes could not be read within audit_budget_seconds; bands and thresholds use stored sizes."
            )
    return sizes
