"""The jobs of a cleanup, called one after the other without the tasks around them: quick, and open to interruptions."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.cleanup import delete_rows, finish, plan, share_out
from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report


@dataclass
class Cleanup:
    """One run of the cleanup; each job over a store of its own, as each task has."""

    store: Callable[[], PostgresMetadataStore]
    #: Where the reports are.
    folder: Path
    settings: Settings
    blobs: BlobStore | None = None
    run_id: str = field(default_factory=lambda: f"run_{uuid.uuid4().hex[:8]}")
    shards: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.report = Report("xcom_cleanup", self.run_id, mode="enforce")

    @contextmanager
    def job(self) -> Iterator[Job]:
        from airflow.sdk import ObjectStoragePath

        place = ReportPlace(ObjectStoragePath(f"file://{self.folder}"), self.report.dag_id, self.run_id)
        archive = self.settings.archive_path
        with self.store() as metadata:
            identity = metadata.check(may_delete=True, reads_references=self.blobs is not None)
            archives = Archives(ObjectStoragePath(archive) if archive else None)
            yield Job(self.settings, metadata, identity, self.blobs, self.report, place, archives)
            place.write(self.report)

    def plan(self) -> None:
        with self.job() as job:
            plan.plan(job)

    def share_out(self) -> None:
        with self.job() as job:
            self.shards = share_out.share_out(job)

    def delete_rows(self) -> None:
        for shard in self.shards:
            with self.job() as job:
                delete_rows.delete_rows(job, shard)

    def finish(self) -> None:
        with self.job() as job:
            finish.finish(job, self.shards)

    def run(self) -> Report:
        self.plan()
        self.share_out()
        self.delete_rows()
        self.finish()
        return self.report
