"""The report of a run, the common source of its JSON, Markdown and HTML."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

#: Raised whenever a field changes its meaning or goes away; new fields do not raise it.
SCHEMA_VERSION = 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Approval(StrEnum):
    """What happened to a plan above a limit."""

    NEEDED = "needed"
    UNASKED = "not required: on_limit is approve"
    GIVEN = "approved"
    REJECTED = "rejected"
    TIMED_OUT = "rejected: no answer in time"


@dataclass(slots=True)
class Table:
    """A table of a report; cells are numbers, texts or None."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""


@dataclass(slots=True)
class Chart:
    """A chart of a report, for the formats that can show one."""

    title: str
    #: bar: a value for each label; stacked: several for each label; line: over time.
    kind: Literal["bar", "stacked", "line"]
    #: Names, or for a line ISO dates.
    labels: list[str]
    #: Name -> a value for each label; None where there is none.
    series: dict[str, list[float | None]]
    #: bytes, rows, seconds, ...: says how figures are written.
    unit: str = ""
    note: str = ""


@dataclass(slots=True)
class Report:
    """The report of one run of one DAG; written when its plan stands, and again when the plan was carried out."""

    dag_id: str
    run_id: str
    #: running, reported, planned, enforced, audited, refused, rejected or failed.
    status: str = "running"
    mode: str = ""
    started_at: str = field(default_factory=_now)
    finished_at: str | None = None
    #: The few figures that matter, flat.
    headline: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    #: How many of the tables are shown before the charts.
    charts_after: int = 0
    #: Figures for programs, such as the next audit, which are not shown.
    details: dict[str, Any] = field(default_factory=dict)
    #: Each as {"problem", "setting", "remedy"}.
    objections: list[dict[str, str]] = field(default_factory=list)
    #: Of ``Approval``; None for a plan within the limits.
    approval: str | None = None
    #: What a person is asked about a plan above a limit.
    question: str | None = None
    warnings: list[str] = field(default_factory=list)
    #: {"type", "message", "setting", "remedy"} of what stopped the run.
    error: dict[str, Any] | None = None
    manifest: str | None = None
    #: Ties the manifest to the attempt that planned it.
    plan_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    #: Setting -> {"value", "source"}.
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Each as {"name", "seconds"}, in order.
    phases: list[dict[str, Any]] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; it is kept even if the phase fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.phases.append({"name": name, "seconds": round(time.monotonic() - start, 3)})

    def put(self, table: Table, *, first: bool = False) -> None:
        """Add a table, replacing one with the same title: a second attempt does not repeat it."""
        self.tables = [other for other in self.tables if other.title != table.title]
        self.tables.insert(0 if first else len(self.tables), table)

    def warn(self, text: str) -> None:
        """Add a warning, unless it is there: a second attempt does not say things twice."""
        if text not in self.warnings:
            self.warnings.append(text)

    def finish(self, status: str) -> None:
        self.status = status
        self.finished_at = _now()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """Read back what ``to_json`` wrote, so that the next task continues the same report."""
        tables = [Table(**table) for table in data.pop("tables", [])]
        charts = [Chart(**chart) for chart in data.pop("charts", [])]
        return cls(**data, tables=tables, charts=charts)
