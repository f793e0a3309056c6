"""What the tasks of a reconciliation find, counted as it comes; the counts of the tasks add up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.ages import believed
from include.xcom_maintenance.core.records import Coordinates, RowReference
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.metadata.ports.reconciliation import Circumstances
from include.xcom_maintenance.reconciliation.causes import Cause, cause_of
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reconciliation.merge import BlobKind, FoundBlob, UnmatchedReference
from include.xcom_maintenance.reconciliation.ranges import Sample
from include.xcom_maintenance.reports.place import ManifestWriter
from include.xcom_maintenance.sweep.owner import OWNER_MARKER

#: References whose blob was not in the listing are checked again, this many at a time.
_REFERENCES_AT_ONCE = 500
#: Possible orphans are checked against the metadata database, this many by one query, which reads the whole table.
_CANDIDATES_AT_ONCE = 100_000
#: Tasks whose circumstances are queried at a time.
_CIRCUMSTANCES_AT_ONCE = 5_000


@dataclass(slots=True)
class Count:
    """The objects of one kind."""

    objects: int = 0
    bytes: int = 0
    #: When the oldest of them was last modified (ISO, UTC).
    oldest: str | None = None

    def add(self, objects: int, bytes: int, oldest: str | None) -> None:  # noqa: A002 - the name of the field
        self.objects += objects
        self.bytes += bytes
        if oldest is not None and (self.oldest is None or oldest < self.oldest):
            self.oldest = oldest


@dataclass(slots=True)
class Figures:
    """The counts of one task or of all, small however large the bucket; plain enough for JSON."""

    #: By BlobKind, and for orphans by Cause.
    kinds: defaultdict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    causes: defaultdict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    #: By DAG and BlobKind (duplicates by their Cause); and the number of dangling references by DAG.
    dags: defaultdict[str, dict[str, Count]] = field(default_factory=lambda: defaultdict(dict))
    dangling: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    #: The first few of each, as rows of the report's tables, with ISO times.
    orphans: list[list[Any]] = field(default_factory=list)
    dangling_rows: list[list[Any]] = field(default_factory=list)
    odd: list[list[Any]] = field(default_factory=list)
    #: Of the listed keys.
    sample: Sample = field(default_factory=Sample)
    done: bool = False

    def to_json(self) -> dict[str, Any]:
        plain = {name: dict(getattr(self, name)) for name in ("kinds", "causes", "dags", "dangling")}
        return asdict(replace(self, **plain))  # type: ignore[arg-type]  # asdict cannot make defaultdicts

    def add(self, other: dict[str, Any]) -> None:
        """Add the findings of another task, as ``to_json`` wrote them."""
        for ours, theirs in ((self.kinds, other["kinds"]), (self.causes, other["causes"])):
            for name, count in theirs.items():
                ours[name].add(**count)
        for dag_id, kinds in other["dags"].items():
            for kind, count in kinds.items():
                self.dags[dag_id].setdefault(kind, Count()).add(**count)
        for dag_id, rows in other["dangling"].items():
            self.dangling[dag_id] += rows
        self.orphans += other["orphans"]
        self.dangling_rows += other["dangling_rows"]
        self.odd += other["odd"]
        self.sample = Sample.joined([self.sample, Sample(**other["sample"])])

    @property
    def recognised(self) -> int:
        return sum(count.objects for kind, count in self.kinds.items() if kind != BlobKind.UNRECOGNISED)


#: Kinds that the report counts by DAG, besides orphans.
_BY_DAG = {BlobKind.FOREIGN, BlobKind.TOO_YOUNG, BlobKind.UNKNOWN_AGE, BlobKind.UNFINISHED_RUN}
_ODD = {BlobKind.UNRECOGNISED, BlobKind.FOREIGN, BlobKind.UNOWNED, BlobKind.UNKNOWN_AGE}


class Findings:
    """Takes what the merge yields, checks suspicious findings again, and writes them down."""

    def __init__(
        self, job: ReconciliationJob, blobs: BlobStore, lines: ManifestWriter, *, modified_before: datetime
    ) -> None:
        self._job, self._blobs, self._lines = job, blobs, lines
        self._modified_before = modified_before
        self._top = job.settings.top_entries
        self._known: dict[str, bool] = {}
        self.figures = Figures()

    def take(self, findings: Iterator[FoundBlob | UnmatchedReference]) -> None:
        """Count the findings and write them down; suspicious ones are checked again first, many at a time."""
        progress = Progress(self._job.log, "Blobs compared")
        candidates: list[FoundBlob] = []
        unmatched: list[RowReference] = []
        # Referenced blobs, which are most, are only counted.
        referenced = size = 0
        oldest: datetime | None = None
        for finding in findings:
            if isinstance(finding, UnmatchedReference):
                if can_dangle(self._job, finding.reference):
                    unmatched.append(finding.reference)
                    if len(unmatched) >= _REFERENCES_AT_ONCE:
                        self._take_unmatched(unmatched)
                        unmatched = []
                continue
            blob = finding.blob
            self.figures.sample.add(blob.key)
            if finding.kind is BlobKind.REFERENCED:
                referenced += 1
                size += blob.size
                if (modified := believed(blob.last_modified)) and (oldest is None or modified < oldest):
                    oldest = modified
            elif finding.kind is BlobKind.ORPHAN:
                candidates.append(finding)
                if len(candidates) >= _CANDIDATES_AT_ONCE:
                    self._take_candidates(candidates)
                    candidates = []
            else:
                self._count(finding, finding.kind)
            progress.add()
        self._take_unmatched(unmatched)
        self._take_candidates(candidates)
        if referenced:
            self.figures.kinds[BlobKind.REFERENCED].add(referenced, size, _iso(oldest))
        self.figures.done = True

    def _count(self, found: FoundBlob, kind: BlobKind) -> None:
        blob = found.blob
        if blob.key == OWNER_MARKER:
            return
        modified = None if kind is BlobKind.UNKNOWN_AGE else _iso(believed(blob.last_modified))
        self.figures.kinds[kind].add(1, blob.size, modified)
        if found.coordinates is not None and (kind is BlobKind.ORPHAN or kind in _BY_DAG):
            self.figures.dags[found.coordinates.dag_id].setdefault(kind, Count()).add(1, blob.size, modified)
        if kind in _ODD and len(self.figures.odd) < self._top:
            self.figures.odd.append([blob.key, kind, blob.size, modified])

    def _take_candidates(self, candidates: list[FoundBlob]) -> None:
        """Find the orphans among blobs without a plain reference, by the rules of the sweep."""
        if not candidates:
            return
        metadata = self._job.metadata
        whose_all = {found.coordinates for found in candidates if found.coordinates}
        if in_full := metadata.named_in_full(whose_all):
            candidates = [found.named(in_full) for found in candidates]
        referenced = metadata.referenced([found.blob.key for found in candidates])
        # A task that has been silent for the whole grace period, in a run that is over, writes no row any more.
        runs = [found.coordinates for found in candidates if found.coordinates]
        unfinished = metadata.unfinished_runs(runs, stuck_before=self._modified_before)
        self._look_up_dags({found.coordinates.dag_id for found in candidates if found.coordinates})
        orphans: list[FoundBlob] = []
        for found in candidates:
            whose = found.coordinates
            if found.blob.key in referenced:
                self._count(found, BlobKind.REFERENCED)
            elif whose is not None and not self._known[whose.dag_id]:
                self._count(found, BlobKind.FOREIGN)
            elif whose is not None and (whose.dag_id, whose.run_id) in unfinished:
                self._count(found, BlobKind.UNFINISHED_RUN)
            else:
                orphans.append(found)
        self._take_orphans(orphans)

    def _take_orphans(self, orphans: list[FoundBlob]) -> None:
        places = list(dict.fromkeys(found.coordinates for found in orphans if found.coordinates))
        known: dict[Coordinates, Circumstances] = {}
        for first in range(0, len(places), _CIRCUMSTANCES_AT_ONCE):
            asked = places[first : first + _CIRCUMSTANCES_AT_ONCE]
            known |= self._job.metadata.circumstances(asked, self._blobs.base)
        for found in orphans:
            blob, whose = found.blob, found.coordinates
            modified = _iso(blob.last_modified)
            cause = cause_of(blob.last_modified, known[whose] if whose else None)
            self._count(found, BlobKind.ORPHAN)
            self.figures.causes[cause].add(1, blob.size, modified)
            dag_id = whose.dag_id if whose else None
            if dag_id is not None and cause is Cause.PUSHED_AGAIN:
                self.figures.dags[dag_id].setdefault(cause, Count()).add(1, blob.size, modified)
            self._lines.add(
                "orphan",
                key=blob.key,
                dag_id=dag_id,
                run_id=whose.run_id if whose else None,
                task_id=whose.task_id if whose else None,
                bytes=blob.size,
                last_modified=modified,
                version=blob.version,
                cause=cause,
            )
            if len(self.figures.orphans) < self._top:
                self.figures.orphans.append([blob.key, dag_id, blob.size, modified, cause])

    def _look_up_dags(self, dag_ids: set[str]) -> None:
        new = dag_ids - self._known.keys()
        known = self._job.metadata.known_dags(new) if new else set()
        self._known.update((dag_id, dag_id in known) for dag_id in new)

    def _take_unmatched(self, references: list[RowReference]) -> None:
        """Find the dangling references: the blob is really missing, and the row still exists."""
        if not references:
            return
        there = {blob.key for blob in self._blobs.head(list({reference.key for reference in references}))}
        dangling = [reference for reference in references if reference.key not in there]
        for found in self._job.metadata.still_there(dangling) if dangling else ():
            self.figures.dangling[found.dag_id] += 1
            self._lines.add("dangling", **found._asdict())
            if len(self.figures.dangling_rows) < self._top:
                place = [found.dag_id, found.run_id, found.task_id, found.map_index, found.xcom_key]
                self.figures.dangling_rows.append([*place, found.stored_bytes, _iso(found.timestamp), found.key])


def can_dangle(job: ReconciliationJob, reference: RowReference) -> bool:
    """Whether a task that pulls the row is broken if there is no blob.

    A path that is merely mentioned, or kept in an archive table, breaks none; nor does one that no backend wrote there.
    """
    owner = Coordinates(reference.dag_id, reference.run_id, reference.task_id)
    return (
        reference.whole
        and reference.table == "xcom"
        and job.settings.formats.may_dangle(reference.key, owner, ignored_prefixes=job.ignored_prefixes)
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
