"""The plan: which values would move between rows and blobs, and what that would free. Changes nothing.

``apply`` carries it out.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import astuple
from itertools import islice
from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.sizes import human_bytes
from include.xcom_maintenance.core.values import Movable, ReadValue
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.offload.job import OffloadJob
from include.xcom_maintenance.offload.settings import OffloadSettings
from include.xcom_maintenance.offload.tally import SAMPLE_BYTES, Tally
from include.xcom_maintenance.offload.values import DEFAULT_THRESHOLD, may_name_a_blob
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.xcom_backend.port import Backend

KIND = "values"
#: Rows of a line of the manifest.
_LINE = 500
#: A reference and what goes with it in a row, for the estimate.
_REFERENCE_BYTES = 400
VACUUM_NOTE = (
    "VACUUM, including autovacuum, makes this space available to new rows, but hardly shrinks the table on disk. To "
    "return it to the operating system, use VACUUM FULL or pg_repack."
)


def plan(job: OffloadJob, backend: Backend) -> None:
    """Find the values that would move, write the manifest, and report what that would free."""
    report, settings = job.report, job.settings
    inward = settings.direction == "inline"
    possible = is_possible(job, backend)
    with report.phase("plan"), job.place.write_manifest() as manifest:
        manifest.add(**job.plan_header("offload", job.metadata.now()), direction=settings.direction)
        threshold = 0 if inward else _threshold(settings, backend)
        tally = Tally()
        progress = Progress(job.log, "Values found")
        wanted = job.metadata.offloaded_values() if inward else job.metadata.large_values(threshold)
        chosen = (value for value in wanted if settings.chooses(value.place.dag_id))
        while values := list(islice(chosen, _LINE)):
            manifest.add(
                KIND, rows=[[*astuple(value.place), value.value_bytes, value.stored_bytes] for value in values]
            )
            tally.take(values)
            progress.add(len(values))
        report.manifest = manifest.path
    if not inward and tally.rows:
        with report.phase("sample"):
            tally.shrinks_to = _sample(job, backend if possible else None, tally.sample)
    _describe(job, backend, tally, threshold=threshold, possible=possible)
    if job.enforcing and possible and tally.rows:
        with report.phase("probe"):
            make_sure(job, backend, tally.sample[0])
    report.finish("planned" if job.enforcing and possible else "reported")


def is_possible(job: OffloadJob, backend: Backend) -> bool:
    """Whether anything may move: values go into blobs only where tasks push into blobs, and back wherever they can."""
    return job.settings.direction == "inline" or backend.takes_pushes


def make_sure(job: OffloadJob, backend: Backend, place: ValuePlace) -> None:
    """Make sure, before anything moves, that the right is there and that tasks can read what rows would hold.

    :param place: of one of the values.
    :raises ConfigurationError: if not.
    """
    job.metadata.check(may_delete=False, reads_references=False, may_update=True)
    backend.probe(job.settings.direction, place)


def _threshold(settings: OffloadSettings, backend: Backend) -> int:
    if settings.offload_threshold_bytes is not None:
        return settings.offload_threshold_bytes
    # One of zero is for what is pushed: to move every small value there is would make the table no smaller.
    return max(backend.threshold, 1_024) if backend.takes_pushes else DEFAULT_THRESHOLD


def _sample(job: OffloadJob, backend: Backend | None, places: list[ValuePlace]) -> float | None:
    """The share of their size to which some of the values shrink; by the backend itself, or about as gzip does."""
    before = after = 0
    for value in _read(job, places):
        data = value.text.encode()
        before += len(data)
        after += backend.blob_bytes(value) if backend else len(zlib.compress(data))
        if before >= SAMPLE_BYTES:
            break
    return round(after / before, 4) if before else None


def _read(job: OffloadJob, places: list[ValuePlace]) -> Iterator[ReadValue]:
    for place in places:
        yield from job.metadata.read_values([place])


def _describe(job: OffloadJob, backend: Backend, tally: Tally, *, threshold: int, possible: bool) -> None:
    report, top = job.report, job.settings.top_entries
    inward = job.settings.direction == "inline"
    value_bytes, stored = tally.value_bytes.total(), tally.stored_bytes.total()
    report.headline = {"rows_to_move": tally.rows, "value_bytes_to_move": value_bytes, "stored_bytes_to_move": stored}
    if not inward:
        report.headline["threshold_bytes"] = threshold
        report.headline["bytes_to_free"] = max(0, stored - tally.rows * _REFERENCE_BYTES)
        if tally.shrinks_to is not None:
            report.headline["blob_bytes_expected"] = round(value_bytes * tally.shrinks_to)
            report.headline["compression_ratio_expected"] = round(1 / max(tally.shrinks_to, 0.0001), 2)
    columns = ["DAG", "values", "bytes as JSON", "stored bytes", "largest bytes"]
    rows: list[list[Any]] = [
        [dag_id, tally.values[dag_id], tally.value_bytes[dag_id], size, tally.largest[dag_id]]
        for dag_id, size in tally.stored_bytes.most_common()
    ]
    if inward:
        title, note = (
            "Values in blobs, by DAG",
            "Values of finished runs that the bundle's XCom backend keeps in blobs.",
        )
        rows.sort(key=lambda row: -row[2])
    else:
        title = "Large values in the table, by DAG"
        note = f"Values of finished runs of {human_bytes(threshold)} and larger, as Postgres writes JSON. {VACUUM_NOTE}"
    note += f" Showing the first {top} of {len(rows):,}." if len(rows) > top else ""
    report.put(Table(title, columns, rows[:top], note))
    if not possible:
        report.warnings.append(
            f"The configured XCom backend is {backend.name}, so nothing is moved in any mode. The figures show what "
            "would leave the table with xcom_blob_backend.XComBlobBackend (docs/backend.md); the compression is "
            "estimated with zlib."
        )
    job.log.info("Plan: %s", ", ".join(f"{name}: {value:,}" for name, value in report.headline.items()))


def stays(value: ReadValue, bases: tuple[str, ...]) -> str | None:
    """Why a value must not go into a blob, if it must not."""
    return "may refer to other blobs, which are kept because of it" if may_name_a_blob(value.text, *bases) else None


def check_direction(job: OffloadJob, header: dict[str, Any]) -> None:
    """Make sure that the plan is for what the form says now.

    :raises ConfigurationError: if it is not.
    """
    if header["direction"] != job.settings.direction:
        raise ConfigurationError(
            "The plan was made for the opposite direction", setting="direction", remedy="Run the DAG again"
        )


def places(line: dict[str, Any]) -> list[Movable]:
    """The rows of a line of the manifest."""
    return [Movable(ValuePlace(*row[:6]), row[6], row[7]) for row in line["rows"]]
