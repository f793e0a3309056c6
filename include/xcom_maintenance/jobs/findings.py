"""What a reconciliation finds, counted as it comes and told to manifest, report and log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.orphans import BlobKind, FoundBlob, UnmatchedReference
from include.xcom_maintenance.core.records import Blob, Coordinates, RowReference
from include.xcom_maintenance.jobs.job import Job, Progress
from include.xcom_maintenance.jobs.ownership import OWNER_MARKER
from include.xcom_maintenance.reports.place import ManifestWriter
from include.xcom_maintenance.reports.report import Table

#: References whose blob the listing did not show are looked up again, this many at once.
_REFERENCES_AT_ONCE = 500
#: Blobs that may be orphans are looked up in the metadata database, this many by one look.
_CANDIDATES_AT_ONCE = 20_000


@dataclass(slots=True)
class _PerDag:
    orphans: int = 0
    orphan_bytes: int = 0
    oldest: datetime | None = None
    dangling: int = 0


class Findings:
    """Counts by kind and by DAG, and the first few of each; never as large as the bucket."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._top = job.settings.top_entries
        self.count: defaultdict[str, int] = defaultdict(int)
        self.size: defaultdict[str, int] = defaultdict(int)
        self.dangling = 0
        self._dags: defaultdict[str, _PerDag] = defaultdict(_PerDag)
        self._orphans: list[list[Any]] = []
        self._dangling: list[list[Any]] = []
        self._odd: list[list[Any]] = []
        self._known: dict[str, bool] = {}

    @property
    def recognised(self) -> int:
        return sum(n for kind, n in self.count.items() if kind != BlobKind.UNRECOGNISED)

    def take(
        self,
        findings: Iterator[FoundBlob | UnmatchedReference],
        *,
        blobs: BlobStore,
        manifest: ManifestWriter,
        snapshot: datetime,
    ) -> None:
        """Count the findings and write them down; what looks wrong is looked up again first, many at a time."""
        progress = Progress(self._job.log, "Blobs compared")
        candidates: list[FoundBlob] = []
        unmatched: list[RowReference] = []
        for finding in findings:
            if isinstance(finding, UnmatchedReference):
                if _can_dangle(finding.reference):
                    unmatched.append(finding.reference)
            elif finding.kind is BlobKind.ORPHAN:
                candidates.append(finding)
            else:
                self._take_other(finding.blob, finding.kind, snapshot)
            progress.add()
            if len(unmatched) >= _REFERENCES_AT_ONCE:
                self._take_unmatched(unmatched, blobs, manifest, snapshot)
                unmatched = []
            if len(candidates) >= _CANDIDATES_AT_ONCE:
                self._take_candidates(candidates, manifest, snapshot)
                candidates = []
        self._take_unmatched(unmatched, blobs, manifest, snapshot)
        self._take_candidates(candidates, manifest, snapshot)

    def _take_other(self, blob: Blob, kind: BlobKind, snapshot: datetime) -> None:
        if blob.key == OWNER_MARKER:
            return
        self.count[kind] += 1
        self.size[kind] += blob.size
        if kind in {BlobKind.UNRECOGNISED, BlobKind.FOREIGN} and len(self._odd) < self._top:
            self._odd.append([blob.key, kind, blob.size, _age(blob.last_modified, snapshot)])

    def _take_candidates(self, candidates: list[FoundBlob], manifest: ManifestWriter, snapshot: datetime) -> None:
        """Of blobs without a plain reference, those that are orphans by the same rules by which they are swept."""
        if not candidates:
            return
        metadata = self._job.metadata
        referenced = metadata.referenced([found.blob.key for found in candidates])
        unfinished = metadata.unfinished_runs([found.coordinates for found in candidates if found.coordinates])
        for found in candidates:
            blob, whose = found.blob, found.coordinates
            if blob.key in referenced:
                self._take_other(blob, BlobKind.REFERENCED, snapshot)
            elif whose is None:
                self._take_other(blob, BlobKind.ORPHAN, snapshot)
                self._take_orphan(blob, Coordinates("", "", ""), manifest, snapshot)
            elif not self._is_known(whose.dag_id):
                self._take_other(blob, BlobKind.FOREIGN, snapshot)
            elif (whose.dag_id, whose.run_id) in unfinished:
                self._take_other(blob, BlobKind.UNFINISHED_RUN, snapshot)
            else:
                self._take_other(blob, BlobKind.ORPHAN, snapshot)
                self._take_orphan(blob, whose, manifest, snapshot)

    def _take_orphan(self, blob: Blob, whose: Coordinates, manifest: ManifestWriter, snapshot: datetime) -> None:
        manifest.add(
            "orphan",
            key=blob.key,
            bytes=blob.size,
            last_modified=blob.last_modified.isoformat() if blob.last_modified else None,
            version=blob.version,
            **asdict(whose),
            reason="no row refers to it",
        )
        per_dag = self._dags[whose.dag_id]
        per_dag.orphans += 1
        per_dag.orphan_bytes += blob.size
        if blob.last_modified and (per_dag.oldest is None or blob.last_modified < per_dag.oldest):
            per_dag.oldest = blob.last_modified
        if len(self._orphans) < self._top:
            self._orphans.append([blob.key, whose.dag_id, blob.size, _age(blob.last_modified, snapshot)])

    def _is_known(self, dag_id: str) -> bool:
        if dag_id not in self._known:
            self._known[dag_id] = dag_id in self._job.metadata.known_dags([dag_id])
        return self._known[dag_id]

    def _take_unmatched(
        self, references: list[RowReference], blobs: BlobStore, manifest: ManifestWriter, snapshot: datetime
    ) -> None:
        """Of references without a listed blob, those whose blob is really not there and whose row still is."""
        if not references:
            return
        there = {blob.key for blob in blobs.head(list({reference.key for reference in references}))}
        dangling = [reference for reference in references if reference.key not in there]
        for reference in self._job.metadata.still_there(dangling) if dangling else ():
            self.dangling += 1
            self._dags[reference.dag_id].dangling += 1
            manifest.add("dangling", **asdict(reference))
            if len(self._dangling) < self._top:
                self._dangling.append(
                    [
                        reference.dag_id,
                        reference.run_id,
                        reference.task_id,
                        reference.map_index,
                        reference.xcom_key,
                        reference.stored_bytes,
                        _age(reference.timestamp, snapshot),
                        reference.key,
                    ]
                )

    def describe(self, references: int) -> None:
        """Put the findings into the report and the log."""
        report, count, size = self._job.report, self.count, self.size
        report.headline = {
            "objects": sum(count.values()),
            "object_bytes": sum(size.values()),
            "references": references,
            "orphan_blobs": count[BlobKind.ORPHAN],
            "orphan_bytes": size[BlobKind.ORPHAN],
            "dangling_references": self.dangling,
            "too_young_to_tell": count[BlobKind.TOO_YOUNG],
            "foreign_blobs": count[BlobKind.FOREIGN],
            "unrecognised_objects": count[BlobKind.UNRECOGNISED],
        }
        dags = sorted(self._dags.items(), key=lambda item: (-item[1].orphan_bytes, item[0]))[: self._top]
        snapshot = datetime.now(UTC)
        report.tables = [
            Table(
                "Objects below the base path",
                ["kind", "objects", "bytes"],
                [[kind.value, count[kind], size[kind]] for kind in BlobKind],
                "Only orphans are ever deleted.",
            ),
            Table(
                "By DAG",
                ["DAG", "orphan blobs", "orphan bytes", "oldest orphan (days)", "dangling references"],
                [[dag_id, d.orphans, d.orphan_bytes, _age(d.oldest, snapshot), d.dangling] for dag_id, d in dags],
            ),
            Table(
                "Orphan blobs",
                ["key", "DAG", "bytes", "age (days)"],
                self._orphans,
                self._first_of(count[BlobKind.ORPHAN]),
            ),
            Table(
                "Dangling references",
                ["DAG", "run", "task", "map index", "key", "row bytes", "age (days)", "missing blob"],
                self._dangling,
                self._first_of(self.dangling)
                + "The stock backend hands the path itself to a task that pulls one of these. They are only reported.",
            ),
            Table("Foreign and unrecognised objects", ["key", "kind", "bytes", "age (days)"], self._odd),
        ]
        self._job.log.info(
            "%s objects, %s references: %s orphans (%s bytes), %s dangling references, %s too young to tell, "
            "%s foreign, %s unrecognised",
            *(
                f"{report.headline[name]:,}"
                for name in (
                    "objects",
                    "references",
                    "orphan_blobs",
                    "orphan_bytes",
                    "dangling_references",
                    "too_young_to_tell",
                    "foreign_blobs",
                    "unrecognised_objects",
                )
            ),
        )

    def _first_of(self, total: int) -> str:
        return f"The first {self._top} of {total:,}; the manifest names them all. " if total > self._top else ""


def _can_dangle(reference: RowReference) -> bool:
    """A path that is merely mentioned, or kept in an archive table, breaks no task."""
    return reference.whole and reference.table == "xcom"


def _age(moment: datetime | None, now: datetime) -> float | None:
    """Days, to a tenth."""
    return None if moment is None else round((now - moment) / timedelta(days=1), 1)
