"""What every job gets: its settings, the ports, the report to fill, and the place for its manifest."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import ConfigurationError, ImplausiblePlan
from include.xcom_maintenance.core.records import DatabaseIdentity
from include.xcom_maintenance.flow.guard import Objection
from include.xcom_maintenance.metadata.ports.shared import Metadata
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Approval, Report
from include.xcom_maintenance.settings.common import CommonSettings

S_co = TypeVar("S_co", bound=CommonSettings, covariant=True)
M_co = TypeVar("M_co", bound=Metadata, covariant=True)


@dataclass(frozen=True, slots=True)
class Job(Generic[S_co, M_co]):
    """One task's part of a run. The stores are checked before the job starts.

    Its type says which settings a step reads, and what it may ask of the metadata.
    """

    settings: S_co
    metadata: M_co
    identity: DatabaseIdentity
    #: None if neither we nor Airflow has a blob store configured.
    blobs: BlobStore | None
    report: Report
    place: ReportPlace
    archives: Archives = field(default_factory=lambda: Archives(None))
    #: Beside the blob store, if there is one.
    quarantine: BlobStore | None = None
    ignored_prefixes: tuple[str, ...] = ()
    #: The crossed thresholds of an audit's scorecard, in words, for the notifier.
    breaches: list[str] = field(default_factory=list)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("xcom_maintenance"))

    @property
    def enforcing(self) -> bool:
        return self.report.mode == "enforce"

    @property
    def blob_store(self) -> BlobStore:
        """The blob store.

        :raises ConfigurationError: if there is none.
        """
        if self.blobs is None:
            raise ConfigurationError(
                "No blob store is configured",
                setting="blob_base_path",
                remedy="Set it to where your XCom backend stores its blobs, such as s3://conn_id@bucket/airflow/xcom, "
                "or configure [common.io] xcom_objectstorage_path",
            )
        return self.blobs

    @property
    def quarantine_store(self) -> BlobStore:
        """The quarantine beside ``blob_store``; the two are always opened together."""
        assert self.quarantine is not None  # noqa: S101 - they are opened together
        return self.quarantine

    def plan_header(self, kind: str, planned_at: datetime) -> dict[str, Any]:
        """The first line of a manifest: which run made it, and for which database and base path."""
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
                "The manifest belongs to another run, database or base path",
                setting="report_path, metadata_conn_id, blob_base_path",
                remedy="The configuration changed during the run, or two Airflow deployments share a report path. "
                "Run the DAG again. Nothing was changed",
            )
        return header, lines

    def is_for_us(self, header: dict[str, Any]) -> bool:
        """Whether a manifest was made for the database and the base path that are configured now."""
        base = str(self.blobs.base) if self.blobs else None
        return bool(header["database"] == self.identity.owner and header["base"] == base)

    def object_to(self, objections: list[Objection], *, on_limit: str = "refuse", question: str | None = None) -> None:
        """Put the guard's objections into the report; in enforce mode they stop the run, or make it ask.

        :param on_limit: what happens to a plan that is merely large: ask, approve or refuse.
        :param question: what a person is asked then.
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
        self.report.question = question
