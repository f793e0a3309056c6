"""What values would move between rows and blobs, and what that would give: the plan. Changes nothing.

``offload_apply`` carries it out.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from itertools import islice
from typing import Any, Protocol

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.offloading import DEFAULT_THRESHOLD, Movable, ReadValue, may_name_a_blob
from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.sizes import human_bytes
from include.xcom_maintenance.jobs.job import Job, Progress
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.settings import OffloadSettings

KIND = "values"
#: Rows of a line of the manifest.
_LINE = 500
#: Values that are compressed to tell how far they shrink: in number, and in bytes of JSON.
_SAMPLE_VALUES, _SAMPLE_BYTES = 200, 32 * 2**20
#: A reference and what goes with it in a row, for the estimate.
_REFERENCE_BYTES = 400
VACUUM_NOTE = (
    "VACUUM (autovacuum does it, too) makes this space usable for new rows; the file of the table hardly shrinks by "
    "it. Only VACUUM FULL or pg_repack gives it back to the operating system."
)


@dataclass(frozen=True, slots=True)
class Moved:
    """What a row is to hold instead of its value, or of the reference to it."""

    #: As JSON.
    text: str = field(repr=False)
    #: Of the value as JSON.
    value_bytes: int
    #: Of the blob.
    blob_bytes: int


class ValueStays(Exception):
    """A value that cannot or must not move; the message says why, and holds no value."""


class Backend(Protocol):
    """This project's XCom backend. Every method raises ``ConfigurationError`` if it is not there or not configured,
    and ``StoreUnavailable`` if its store cannot be reached."""

    @property
    def name(self) -> str:
        """The class that this Airflow uses, whichever it is."""

    @property
    def takes_pushes(self) -> bool:
        """Whether that class is this project's backend."""

    @property
    def threshold(self) -> int:
        """From how many bytes on as JSON it puts values into blobs."""

    @property
    def bases(self) -> tuple[str, ...]:
        """Its base paths, as ``bucket/prefix``."""

    def blob_bytes(self, value: ReadValue) -> int:
        """How large the blob of a value would be."""

    def into_blob(self, value: ReadValue) -> Moved:
        """Write a blob, and read it back to see that it holds the value.

        :raises ValueStays: if the value may not go there.
        """

    def into_row(self, value: ReadValue) -> Moved:
        """What the row of a reference would hold instead.

        :raises ValueStays: if the blob cannot be had.
        """

    def probe(self, direction: str, place: ValuePlace) -> None:
        """Make sure, by a canary that is removed again, that the active backend reads what rows would hold.

        :raises ConfigurationError: if it does not.
        """


def plan(job: Job, backend: Backend) -> None:
    """Find the values that would move, write them down, and say what it would give."""
    report, settings = job.report, settings_of(job)
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


def settings_of(job: Job) -> OffloadSettings:
    assert isinstance(job.settings, OffloadSettings)  # noqa: S101 - the DAG asks for them
    return job.settings


def is_possible(job: Job, backend: Backend) -> bool:
    """Whether anything may move: values go into blobs only where tasks push into blobs, and back wherever they can."""
    return settings_of(job).direction == "inline" or backend.takes_pushes


def make_sure(job: Job, backend: Backend, place: ValuePlace) -> None:
    """Make sure, before anything moves, that the right is there and that tasks can read what rows would hold.

    :param place: of one of the values.
    :raises ConfigurationError: if not.
    """
    job.metadata.check(may_delete=False, reads_references=False, may_update=True)
    backend.probe(settings_of(job).direction, place)


def _threshold(settings: OffloadSettings, backend: Backend) -> int:
    if settings.offload_threshold_bytes is not None:
        return settings.offload_threshold_bytes
    # One of zero is for what is pushed: to move every small value there is would make the table no smaller.
    return max(backend.threshold, 1_024) if backend.takes_pushes else DEFAULT_THRESHOLD


@dataclass(slots=True)
class Tally:
    """What was found, by DAG."""

    values: Counter[str] = field(default_factory=Counter)
    value_bytes: Counter[str] = field(default_factory=Counter)
    stored_bytes: Counter[str] = field(default_factory=Counter)
    largest: Counter[str] = field(default_factory=Counter)
    sample: list[ValuePlace] = field(default_factory=list)
    #: The share of its size that a value has in a blob; None if it is not known.
    shrinks_to: float | None = None
    _seen: int = 0

    @property
    def rows(self) -> int:
        return self.values.total()

    def take(self, values: list[Movable]) -> None:
        for value in values:
            dag_id = value.place.dag_id
            self.values[dag_id] += 1
            self.value_bytes[dag_id] += value.value_bytes
            self.stored_bytes[dag_id] += value.stored_bytes
            self.largest[dag_id] = max(self.largest[dag_id], value.value_bytes)
            self._sample(value)

    def _sample(self, value: Movable) -> None:
        """Every so many of them, so that those of all ages are among it; all if they are few."""
        self._seen += 1
        step = 1 + (self._seen - 1) // _SAMPLE_VALUES
        if len(self.sample) >= 2 * _SAMPLE_VALUES:
            self.sample = self.sample[::2]
        if (self._seen - 1) % step == 0:
            self.sample.append(value.place)


def _sample(job: Job, backend: Backend | None, places: list[ValuePlace]) -> float | None:
    """The share of their size to which some of the values shrink; by the backend itself, or about as gzip does."""
    before = after = 0
    for value in _read(job, places):
        data = value.text.encode()
        before += len(data)
        after += backend.blob_bytes(value) if backend else len(zlib.compress(data))
        if before >= _SAMPLE_BYTES:
            break
    return round(after / before, 4) if before else None


def _read(job: Job, places: list[ValuePlace]) -> Iterator[ReadValue]:
    for place in places:
        yield from job.metadata.read_values([place])


def _describe(job: Job, backend: Backend, tally: Tally, *, threshold: int, possible: bool) -> None:
    report, top = job.report, job.settings.top_entries
    inward = settings_of(job).direction == "inline"
    value_bytes, stored = tally.value_bytes.total(), tally.stored_bytes.total()
    report.headline = {"rows_to_move": tally.rows, "value_bytes_to_move": value_bytes, "stored_bytes_to_move": stored}
    if not inward:
        report.headline["threshold_bytes"] = threshold
        report.headline["bytes_to_free"] = max(0, stored - tally.rows * _REFERENCE_BYTES)
        if tally.shrinks_to is not None:
            report.headline["blob_bytes_expected"] = round(value_bytes * tally.shrinks_to)
            report.headline["compression_ratio_expected"] = round(1 / max(tally.shrinks_to, 0.0001), 2)
    columns = ["DAG", "values", "bytes as JSON", "bytes in the table", "largest bytes"]
    rows: list[list[Any]] = [
        [dag_id, tally.values[dag_id], tally.value_bytes[dag_id], size, tally.largest[dag_id]]
        for dag_id, size in tally.stored_bytes.most_common()
    ]
    if inward:
        title, note = (
            "Values in blobs, by DAG",
            "The values of finished runs that are in blobs of this project's backend.",
        )
        rows.sort(key=lambda row: -row[2])
    else:
        title = "Large values in the table, by DAG"
        note = f"The values of finished runs from {human_bytes(threshold)} on, as Postgres writes JSON. {VACUUM_NOTE}"
    note += f" The first {top} of {len(rows)}." if len(rows) > top else ""
    report.put(Table(title, columns, rows[:top], note))
    if not possible:
        report.warnings.append(
            f"This Airflow uses the XCom backend {backend.name}, so nothing is moved, whatever the mode: the figures "
            "say what would leave the table with xcom_blob_backend.XComBlobBackend (docs/backend.md). How far values "
            "shrink is estimated with zlib."
        )
    job.log.info("Plan: %s", ", ".join(f"{name}: {value:,}" for name, value in report.headline.items()))


def stays(value: ReadValue, bases: tuple[str, ...]) -> str | None:
    """Why a value must not go into a blob, if it must not."""
    return "may name other blobs, which are kept for it" if may_name_a_blob(value.text, *bases) else None


def check_direction(job: Job, header: dict[str, Any]) -> None:
    """Make sure that the plan is for what the form says now.

    :raises ConfigurationError: if it is not.
    """
    if header["direction"] != settings_of(job).direction:
        raise ConfigurationError(
            "The plan was made for the other direction", setting="direction", remedy="Run the DAG again"
        )


def places(line: dict[str, Any]) -> list[Movable]:
    """The rows of a line of the manifest."""
    return [Movable(ValuePlace(*row[:6]), row[6], row[7]) for row in line["rows"]]
