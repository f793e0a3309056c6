"""What every job is given: its settings, the ports, the report that it fills, and the place for its manifest."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import ConfigurationError, ImplausiblePlan
from include.xcom_maintenance.core.guard import Objection
from include.xcom_maintenance.core.records import DatabaseIdentity
from include.xcom_maintenance.metadata.port import MetadataStore
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Approval, Report
from include.xcom_maintenance.settings import Settings


@dataclass(slots=True)
class Job:
    """One task's share of a run. The stores were checked before the job begins."""

    settings: Settings
    metadata: MetadataStore
    identity: DatabaseIdentity
    #: None if neither we nor Airflow has a blob store configured.
    blobs: BlobStore | None
    report: Report
    place: ReportPlace
    archives: Archives = field(default_factory=lambda: Archives(None))
    #: Beside the blob store, if there is one.
    quarantine: BlobStore | None = None
    ignored_prefixes: tuple[str, ...] = ()
    #: What the scorecard of an audit says has crossed its threshold, in words; people are told of it.
    breaches: list[str] = field(default_factory=list)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("xcom_maintenance"))

    @property
    def enforcing(self) -> bool:
        return self.report.mode == "enforce"

    @property
    def batch_bounds(self) -> tuple[int, int]:
        """The most rows and stored bytes that a cleanup deletes in one transaction.

        A quarter of the bytes where the rows are archived, which takes longer.
        """
        part = 1 if self.archives.root is None else 4
        return self.settings.batch_rows, max(1, self.settings.batch_bytes // part)

    def plan_header(self, kind: str, planned_at: datetime) -> dict[str, Any]:
        """The first line of a manifest: whose plan it is, and for which database and base path."""
        return {
            "kind": kind,
            "plan_id": self.report.plan_id,
            "dag_id": self.report.dag_id,
            "run_id": self.report.run_id,
            "planned_at": planned_at.isoformat(),
            "database": self.identity.owner,
            "base": str(self.blobs.base) if self.blobs else None,
        }

    def own_plan(self) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """The header and the lines of the run's own manifest.

        :raises ConfigurationError: if it is not the plan that this run made for what is configured now.
        """
        lines = self.place.read_manifest()
        header = next(lines)
        if header["plan_id"] != self.report.plan_id or not self.is_for_us(header):
            raise ConfigurationError(
                "The manifest was made by another run, or for another database or base path",
                setting="report_path, metadata_conn_id, blob_base_path",
                remedy="The configuration changed while the run was under way, or two Airflows share a report path; "
                "run the DAG again. Nothing was changed",
            )
        return header, lines

    def is_for_us(self, header: dict[str, Any]) -> bool:
        """Whether a manifest was made for the database and the base path that are configured now."""
        base = str(self.blobs.base) if self.blobs else None
        return bool(header["database"] == self.identity.owner and header["base"] == base)

    def object_to(self, objections: list[Objection], *, on_limit: str = "refuse") -> None:
        """Put the guard's objections into the report; in enforce mode they stop the run, or make it ask.

        :param on_limit: what becomes of a plan that is merely large: ask, approve or refuse.
        :raises ImplausiblePlan: in enforce mode, if the plan is refused.
        """
        for objection in objections:
            self.report.objections.append(
                {"problem": objection.problem, "setting": objection.setting, "remedy": objection.remedy}
            )
            self.log.warning("Guard: %s (setting: %s). %s.", objection.problem, objection.setting, objection.remedy)
        if not objections or not self.enforcing:
            return
        refused = [objection for objection in objections if not objection.large or on_limit == "refuse"]
        if refused:
            first = refused[0]
            raise ImplausiblePlan(first.problem, setting=first.setting, remedy=first.remedy + ". Nothing was changed")
        self.report.approval = Approval.NEEDED if on_limit == "ask" else Approval.UNASKED


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's collector of cycles, which takes half the time of a plan.

    What many runs allocate has no cycles, and each look for them goes through all that Airflow has imported.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def heap_set_aside() -> Iterator[None]:
    """Let the collector pass over what is there already, which is all that Airflow has imported.

    Unlike ``uncollected`` for work of any length: the few cycles that clients of stores leave are still collected.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Progress:
    """Says now and then how far long work has come.

    :param every: seconds between two lines.
    """

    def __init__(self, log: logging.Logger, what: str, *, total: int | None = None, every: float = 10) -> None:
        self._log = log
        self._what = what
        self._total = total
        self._every = every
        self._start = self._last = time.monotonic()
        self.done = 0

    def add(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            of = f" of {self._total:,}" if self._total is not None else ""
            self._log.info("%s: %s%s after %.0f s", self._what, f"{self.done:,}", of, now - self._start)
