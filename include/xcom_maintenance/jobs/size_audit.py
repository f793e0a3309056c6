"""Who takes the space: rows and bytes by DAG, task and key, size bands, the largest entries, the table's health."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from heapq import nlargest
from typing import Any

from include.xcom_maintenance.core.sizes import BANDS
from include.xcom_maintenance.jobs.job import Job, Progress
from include.xcom_maintenance.metadata.port import Entry, GroupSize, TableHealth
from include.xcom_maintenance.reports.report import Table


def audit(job: Job, *parts: Callable[[Job], None]) -> None:
    """Measure the ``xcom`` table and describe it. Reads only.

    :param parts: what else the audit does, each in a phase of its own, in the end.
    """
    totals = _Totals()
    with job.report.phase("sizes"):
        progress = Progress(job.log, "Groups of rows measured")
        for group in job.metadata.group_sizes():
            totals.add(group)
            progress.add()
    with job.report.phase("largest entries"):
        entries = job.metadata.largest_entries(job.settings.top_entries)
    with job.report.phase("table health"):
        health = job.metadata.table_health()
    _describe(job, totals, entries, health)
    for part in parts:
        part(job)
    job.report.finish("audited")


@dataclass(slots=True)
class _Size:
    rows: int = 0
    bytes: int = 0


def _no_bands() -> list[_Size]:
    return [_Size() for _ in BANDS]


@dataclass(slots=True)
class _Totals:
    """Sums by DAG, task and key: as large as the number of distinct keys of tasks, not of rows."""

    all: _Size = field(default_factory=_Size)
    by_dag: defaultdict[str, _Size] = field(default_factory=lambda: defaultdict(_Size))
    by_task: defaultdict[tuple[str, str], _Size] = field(default_factory=lambda: defaultdict(_Size))
    by_key: dict[tuple[str, str, str], _Size] = field(default_factory=dict)
    bands: list[_Size] = field(default_factory=_no_bands)
    oldest: datetime | None = None

    def add(self, group: GroupSize) -> None:
        self.by_key[group.dag_id, group.task_id, group.key] = _Size()
        for size in (
            self.all,
            self.by_dag[group.dag_id],
            self.by_task[group.dag_id, group.task_id],
            self.by_key[group.dag_id, group.task_id, group.key],
        ):
            size.rows += group.rows
            size.bytes += group.stored_bytes
        for band, rows, stored in zip(self.bands, group.band_rows, group.band_bytes, strict=True):
            band.rows += rows
            band.bytes += stored
        if self.oldest is None or group.oldest < self.oldest:
            self.oldest = group.oldest


def _describe(job: Job, totals: _Totals, entries: list[Entry], health: TableHealth) -> None:
    report, top = job.report, job.settings.top_entries
    report.headline = {
        "rows": totals.all.rows,
        "bytes": totals.all.bytes,
        "dags": len(totals.by_dag),
        "rows_above_48_kb": sum(b.rows for band, b in zip(BANDS, totals.bands, strict=True) if band.lower >= 48 * 1024),
        "largest_bytes": entries[0].stored_bytes if entries else 0,
        "oldest_row": totals.oldest.isoformat(timespec="seconds") if totals.oldest else None,
        "table_total_bytes": health.total_bytes,
        "dead_rows": health.dead_rows_estimate,
        "share_of_database": _share(health.total_bytes, health.database_bytes),
    }
    report.tables = [
        _ranking("By DAG", ["DAG"], {(dag_id,): size for dag_id, size in totals.by_dag.items()}, totals.all, top),
        _ranking("By task", ["DAG", "task"], totals.by_task, totals.all, top),
        _ranking("By key", ["DAG", "task", "key"], totals.by_key, totals.all, top),
        Table(
            "Size bands",
            ["band", "rows", "share of rows", "stored bytes"],
            [
                [band.name, size.rows, _share(size.rows, totals.all.rows), size.bytes]
                for band, size in zip(BANDS, totals.bands, strict=True)
            ],
            "By the size of the value as JSON, which is what a task pushes and pulls.",
        ),
        Table(
            "Largest entries",
            ["DAG", "run", "task", "map index", "key", "stored bytes", "pushed at"],
            [
                [
                    e.dag_id,
                    e.run_id,
                    e.task_id,
                    e.map_index,
                    e.key,
                    e.stored_bytes,
                    e.timestamp.isoformat(timespec="seconds"),
                ]
                for e in entries
            ],
        ),
        Table(
            "Space of the table",
            ["part", "bytes"],
            [
                ["heap", health.heap_bytes],
                ["TOAST", health.toast_bytes],
                ["indexes", health.index_bytes],
                ["in all", health.total_bytes],
            ],
            "Stored bytes are what the database keeps for the values, after its own compression.",
        ),
        Table(
            "Health of the table",
            ["measure", "value"],
            [
                ["live rows (estimate)", health.live_rows_estimate],
                ["dead rows (estimate)", health.dead_rows_estimate],
                ["last vacuum", _moment(health.last_vacuum)],
                ["last analyze", _moment(health.last_analyze)],
            ],
        ),
        Table(
            "Tables with XComs set aside",
            ["table", "total bytes"],
            [[name, size] for name, size in health.archive_tables.items()],
            "`airflow db clean` without --skip-archive and migrations leave these; their rows may refer to blobs.",
        ),
    ]
    job.log.info(
        "%s rows with %s bytes of %s DAGs; %s rows are above 48 KB; the table takes %s bytes in all",
        f"{totals.all.rows:,}",
        f"{totals.all.bytes:,}",
        f"{len(totals.by_dag):,}",
        f"{report.headline['rows_above_48_kb']:,}",
        f"{health.total_bytes:,}",
    )


def _ranking(title: str, columns: list[str], sizes: dict[Any, _Size], whole: _Size, top: int) -> Table:
    largest = nlargest(top, sizes.items(), key=lambda item: (item[1].bytes, item[1].rows))
    rows = [
        [*names, size.rows, _share(size.rows, whole.rows), size.bytes, _share(size.bytes, whole.bytes)]
        for names, size in largest
    ]
    note = f"The {top} largest of {len(sizes):,}." if len(sizes) > top else ""
    return Table(title, [*columns, "rows", "share of rows", "stored bytes", "share of bytes"], rows, note)


def _share(part: int, whole: int) -> float:
    """Between 0 and 1, to four digits."""
    return round(part / whole, 4) if whole else 0.0


def _moment(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else "never"
