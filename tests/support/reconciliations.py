"""The jobs of a reconciliation, called one after the other without the tasks around them: quick, and open to kills."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.core.records import DatabaseIdentity
from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from include.xcom_maintenance.reconciliation import decide, find, finish, plan, share_out, sweep_orphans
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report

#: In their order; those from the fourth on change something.
PHASES = ("plan", "find", "decide", "share_out", "sweep", "finish")


@dataclass
class Reconciliation:
    """One run; each job over a metadata store of its own, as each task has."""

    store: Callable[[], AbstractContextManager[PostgresMetadataStore]]
    #: Where the reports are: a folder, or any path.
    reports: Path | str
    settings: Settings
    blobs: BlobStore
    quarantine: BlobStore
    mode: str = "enforce"
    run_id: str = field(default_factory=lambda: f"run_{uuid.uuid4().hex[:8]}")
    shards: list[dict[str, Any]] = field(default_factory=list)
    #: Of the database; None: each job asks it.
    identity: DatabaseIdentity | None = None
    plan_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.report = Report("xcom_orphan_reconciliation", self.run_id, mode=self.mode, plan_id=self.plan_id)

    @contextmanager
    def job(self) -> Iterator[Job]:
        from airflow.sdk import ObjectStoragePath

        place = ReportPlace(
            ObjectStoragePath(self.reports if isinstance(self.reports, str) else f"file://{self.reports}"),
            self.report.dag_id,
            self.run_id,
        )
        with self.store() as metadata:
            identity = self.identity or metadata.check(may_delete=False, reads_references=True)
            yield Job(self.settings, metadata, identity, self.blobs, self.report, place, quarantine=self.quarantine)
            place.write(self.report)

    def plan(self) -> None:
        with self.job() as job:
            plan.plan(job)

    def find(self) -> None:
        with self.job() as job:
            shards = plan.split(job)
        for shard in shards:
            with self.job() as job:
                find.find(job, shard)

    def decide(self) -> None:
        with self.job() as job:
            decide.decide(job)

    def share_out(self) -> None:
        with self.job() as job:
            self.shards = share_out.share_out(job)

    def sweep(self) -> None:
        for shard in self.shards:
            with self.job() as job:
                sweep_orphans.sweep_orphans(job, shard)

    def finish(self) -> None:
        with self.job() as job:
            finish.finish(job, self.shards)

    def run(self) -> Report:
        for phase in PHASES if self.mode == "enforce" else PHASES[:3]:
            getattr(self, phase)()
        return self.report
