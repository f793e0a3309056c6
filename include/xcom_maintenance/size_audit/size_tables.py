"""The tables and charts about sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import nlargest
from typing import Any

from include.xcom_maintenance.core.sizes import BANDS, THRESHOLDS, at_least, human_bytes
from include.xcom_maintenance.reports.report import Chart, Table
from include.xcom_maintenance.size_audit.blobs import BlobSum
from include.xcom_maintenance.size_audit.findings import Findings
from include.xcom_maintenance.size_audit.growth import day_number, day_of
from include.xcom_maintenance.size_audit.sizes import Size

_COLUMNS = ["rows", "share of rows", "stored bytes", "share of bytes", "logical bytes", "blobs", "blob bytes"]
_NOTHING = BlobSum()
#: Days in the table of pushes; the table by day goes further back.
_SHOWN_DAYS = 7


def size_tables(found: Findings, top: int) -> Iterator[Table]:
    """What takes the space."""
    sizes, blobs = found.sizes, found.blobs
    of_dags: Mapping[Any, BlobSum] = {(dag_id,): total for dag_id, total in blobs.dags.items()} if blobs else {}
    of_keys: Mapping[Any, BlobSum] = blobs.keys if blobs else {}
    of_tasks: dict[Any, BlobSum] = {}
    for (dag_id, task_id, _), total in of_keys.items():
        task = of_tasks.setdefault((dag_id, task_id), BlobSum())
        task.references += total.references
        task.bytes += total.bytes
    dags = {(dag_id,): size for dag_id, size in sizes.dags.items()}
    note = _logical_note(found)
    yield _ranking("By DAG", ["DAG"], dags, len(dags), of_dags, found, top, note)
    yield _ranking("By task", ["DAG", "task"], sizes.tasks, sizes.task_count, of_tasks, found, top)
    yield _ranking("By key", ["DAG", "task", "key"], sizes.keys, sizes.key_count, of_keys, found, top)
    yield _by_day(found)
    yield _bands(found)
    yield _thresholds(found, top)
    yield Table(
        "Largest entries",
        ["DAG", "run", "task", "map index", "key", "stored bytes", "logical bytes", "pushed at"],
        [
            [
                *(e.dag_id, e.run_id, e.task_id, e.map_index, e.key, e.stored_bytes, logical),
                e.timestamp.isoformat(timespec="seconds"),
            ]
            for e, logical in found.entries
        ],
    )


def _ranking(
    title: str,
    columns: list[str],
    sizes: Mapping[Any, Size],
    total: int,
    blobs: Mapping[Any, BlobSum],
    found: Findings,
    top: int,
    note: str = "",
) -> Table:
    def takes(item: tuple[Any, Size]) -> tuple[float, int]:
        return item[1].stored + blobs.get(item[0], _NOTHING).bytes, item[1].rows

    rows = []
    for names, size in nlargest(top, sizes.items(), key=takes):
        rows.append([*names, *_cells(size, blobs.get(names, _NOTHING), found)])
    notes = [f"Showing the largest {top} of {total:,}."] if total > top else []
    return Table(title, [*columns, *_COLUMNS], rows, " ".join([*notes, *([note] if note else [])]))


def _cells(size: Size, blobs: BlobSum, found: Findings) -> list[Any]:
    whole = found.sizes.all
    return [
        size.rows,
        _share(size.rows, whole.rows),
        size.stored,
        _share(size.stored, whole.stored),
        None if size.logical is None else round(size.logical),
        blobs.references if found.blobs else None,
        round(blobs.bytes) if found.blobs else None,
    ]


def _by_day(found: Findings) -> Table:
    days = found.blobs.days if found.blobs else {}
    by_day: list[list[Any]] = [
        [
            day_of(number).isoformat() if number is not None else "earlier",
            *_cells(size, days.get(number, _NOTHING), found),
        ]
        for number, size in sorted(found.sizes.days.items(), key=lambda item: -(item[0] or 0))
    ]
    return Table(
        "By day pushed", ["day", *_COLUMNS], by_day, "UTC days, counting rows that still exist; today is incomplete."
    )


def _bands(found: Findings) -> Table:
    classes = found.blobs.classes if found.blobs else None
    rows: list[list[Any]] = []
    for band in BANDS:
        count, stored = found.sizes.band(band.lower, band.upper)
        in_blobs = round(at_least(classes, band.lower, band.upper)) if classes is not None else None
        rows.append([band.name, count, _share(count, found.sizes.all.rows), stored, in_blobs, band.advice])
    by = (
        "stored size"
        if found.sizes.sampled_share is None
        else "the size of the value as JSON, which is what tasks push and pull"
    )
    return Table(
        "Size bands",
        ["band", "rows", "share of rows", "stored bytes", "blobs of this size", "recommendation"],
        rows,
        f"Rows are grouped by {by}, blobs by object size. {_logical_note(found)}".strip(),
    )


def _thresholds(found: Findings, top: int) -> Table:
    sizes = found.sizes
    largest = nlargest(top, sizes.dags.items(), key=lambda item: item[1].stored)
    rows: list[list[Any]] = []
    if sizes.all.rows:
        every = [sizes.leaves(dag_id) for dag_id in sizes.dags]
        rows.append(["all DAGs", sizes.all.stored, *(sum(column) for column in zip(*every, strict=True))])
    rows += [[dag_id, size.stored, *sizes.leaves(dag_id)] for dag_id, size in largest]
    return Table(
        "What would leave the database at each backend threshold",
        ["DAG", "stored bytes", *(f"bytes at {human_bytes(threshold)}" for threshold in THRESHOLDS)],
        rows,
        "Stored bytes of the values that are at least this large as JSON; [common.io] xcom_objectstorage_threshold "
        f"is compared with the size as JSON. {_logical_note(found)}".strip(),
    )


def _logical_note(found: Findings) -> str:
    share = found.sizes.sampled_share
    if share is None or share == 1:
        return ""
    return f"Logical sizes are estimated from {share:.2%} of the table's pages; stored bytes are exact."


def pushes_table(found: Findings, top: int) -> Table:
    """Pushes per DAG and day."""
    today = day_number(found.moment)
    shown = [today - back for back in range(_SHOWN_DAYS + 1)]
    rows: list[list[Any]] = []
    for dag_id, days in found.sizes.dag_days.items():
        counts = [days[day].rows if day in days else 0 for day in shown]
        if any(counts):
            rows.append([dag_id, round(sum(counts[1:]) / _SHOWN_DAYS, 1), *counts])
    rows.sort(key=lambda row: (-row[1], row[0]))
    return Table(
        "Pushes per DAG and day",
        ["DAG", "daily mean", *(day_of(day).isoformat() for day in shown)],
        rows[:top],
        "UTC days, counting rows that still exist. The mean covers the last seven complete days."
        + (f" Showing the busiest {top} of {len(rows):,}." if len(rows) > top else ""),
    )


def size_charts(found: Findings, top: int) -> Iterator[Chart]:
    """The charts of the report."""
    sizes, blobs = found.sizes, found.blobs
    dags = nlargest(
        top, sizes.dags.items(), key=lambda item: item[1].stored + (blobs.dags[item[0]].bytes if blobs else 0)
    )
    series: dict[str, list[float | None]] = {"database": [size.stored for _, size in dags]}
    if blobs is not None:
        series["blobs"] = [round(blobs.dags[dag_id].bytes) for dag_id, _ in dags]
    yield Chart("Bytes by DAG", "stacked", [dag_id for dag_id, _ in dags], series, "bytes")
    audits = sorted([*found.past, found.now], key=lambda audit: audit.moment)
    yield Chart(
        "Growth over time",
        "line",
        [audit.moment.isoformat(timespec="seconds") for audit in audits],
        {"table": [audit.table_bytes for audit in audits]},
        "bytes",
        "Heap, TOAST and indexes at each audit, in UTC.",
    )
    bands = [sizes.band(band.lower, band.upper)[0] for band in BANDS]
    yield Chart("Size bands", "bar", [band.name for band in BANDS], {"rows": [*bands]}, "rows")
    names = [f"{e.dag_id} / {e.task_id} / {e.key}" for e, _ in found.entries]
    largest: list[float | None] = [e.stored_bytes for e, _ in found.entries]
    yield Chart("Largest entries", "bar", names, {"stored": largest}, "bytes")


def _share(part: float, whole: float) -> float:
    """Between 0 and 1, to four digits."""
    return round(part / whole, 4) if whole else 0.0
