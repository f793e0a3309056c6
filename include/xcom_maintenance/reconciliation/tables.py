"""The report of a reconciliation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from include.xcom_maintenance.core.ages import FLOOR
from include.xcom_maintenance.core.reference_formats import OWN
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.reconciliation.causes import Cause
from include.xcom_maintenance.reconciliation.dangling import pulls_fail
from include.xcom_maintenance.reconciliation.findings import Count, Figures
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.reconciliation.merge import BlobKind
from include.xcom_maintenance.reports.report import Table

_FIGURES = {
    "too_young_to_tell": BlobKind.TOO_YOUNG,
    "blobs_of_unknown_age": BlobKind.UNKNOWN_AGE,
    "foreign_blobs": BlobKind.FOREIGN,
    "unowned_blobs": BlobKind.UNOWNED,
    "unrecognised_objects": BlobKind.UNRECOGNISED,
}


def describe(job: ReconciliationJob, found: Figures, references: int) -> None:
    """Add the findings to the report and the log."""
    report, top, now, fails = job.report, job.settings.top_entries, datetime.now(UTC), pulls_fail()
    orphans, dangling = found.kinds[BlobKind.ORPHAN], sum(found.dangling.values())
    report.headline = {
        "objects": sum(count.objects for count in found.kinds.values()),
        "object_bytes": sum(count.bytes for count in found.kinds.values()),
        "references": references,
        "orphan_blobs": orphans.objects,
        "orphan_bytes": orphans.bytes,
        "duplicate_blobs": found.causes[Cause.PUSHED_AGAIN].objects,
        "dangling_references": dangling,
        **{name: found.kinds[kind].objects for name, kind in _FIGURES.items()},
    }
    columns = ["objects", "bytes", "oldest (days)"]
    kinds = [[kind.value, *_cells(found.kinds[kind], now)] for kind in BlobKind]
    causes = [[cause.value, *_cells(found.causes[cause], now)] for cause in Cause if found.causes[cause].objects]
    report.tables = [
        Table(
            "Objects below the base path", ["kind", *columns], kinds, "Only orphans are ever quarantined or deleted."
        ),
        Table(
            "Orphans by probable cause",
            ["cause", *columns],
            causes,
            "Inferred from what the metadata database still holds.",
        ),
        _by_dag(found, top, now),
        Table(
            "Orphan blobs",
            ["key", "DAG", "bytes", "age (days)", "probable cause"],
            [[key, dag_id, size, _age(when, now), cause] for key, dag_id, size, when, cause in found.orphans[:top]],
            _first_of(orphans.objects, top),
        ),
        Table(
            "Dangling references",
            ["DAG", "run", "task", "map index", "key", "row bytes", "age (days)", "missing blob", "a pull"],
            [[*row[:6], _age(row[6], now), row[7], _pulled(row[7], fails)] for row in found.dangling_rows[:top]],
            _first_of(dangling, top)
            + "The stock backend passes the path itself as the value to a task that pulls one of these. "
            "delete_dangling_rows deletes rows of which a pull does not fail; a pull then returns None.",
        ),
        Table(
            "Foreign, unowned and unrecognised objects",
            ["key", "kind", "bytes", "age (days)"],
            [[key, kind, size, _age(when, now)] for key, kind, size, when in found.odd[:top]],
        ),
    ]
    if unknown := found.kinds[BlobKind.UNKNOWN_AGE].objects:
        report.warnings.append(
            f"The age of {counted(unknown, 'blob')} without a row is unknown: the store tells a time of modification "
            f"before {FLOOR:%Y}, one in the future, or none. Such blobs count as written now and stay. Copying them "
            "onto themselves, or touch for files, gives them a time."
        )
    job.log.info("Found: %s", ", ".join(f"{name}: {value:,}" for name, value in report.headline.items()))


def _pulled(key: str, fails: bool) -> str:
    """What a task gets that pulls a row whose blob of this key is gone.

    :param fails: whether a pull fails whoever wrote the reference, see ``pulls_fail``.
    """
    return "fails" if fails or OWN.read(key) is not None else "gets the path, or fails"


def _by_dag(found: Figures, top: int, now: datetime) -> Table:
    rows: list[list[Any]] = []
    for dag_id in sorted({*found.dags, *found.dangling}):
        kinds = found.dags.get(dag_id, {})
        orphans = kinds.get(BlobKind.ORPHAN, Count())
        which = (Cause.PUSHED_AGAIN, BlobKind.TOO_YOUNG, BlobKind.FOREIGN)
        others = [kinds.get(kind, Count()).objects for kind in which]
        rows.append([dag_id, *_cells(orphans, now), *others, found.dangling.get(dag_id, 0)])
    rows.sort(key=lambda row: (-row[2], -row[-1]))
    columns = [
        "DAG",
        "orphan blobs",
        "orphan bytes",
        "oldest orphan (days)",
        "duplicate orphans",
        "too young",
        "foreign",
        "dangling references",
    ]
    return Table("By DAG", columns, rows[:top], f"The top {top} of {len(rows):,} DAGs." if len(rows) > top else "")


def _cells(count: Count, now: datetime) -> list[Any]:
    return [count.objects, count.bytes, _age(count.oldest, now)]


def _first_of(total: int, top: int) -> str:
    return f"The first {top} of {total:,}; the manifest lists all of them. " if total > top else ""


def _age(moment: str | None, now: datetime) -> float | None:
    """In days, to a tenth."""
    return None if moment is None else round((now - datetime.fromisoformat(moment)) / timedelta(days=1), 1)
