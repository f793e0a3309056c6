"""Carry out the plan of an offload, in batches: first the blob, then the row.

A blob is written and read back before its row is touched, and the row is changed in a short transaction if it still
holds what was read. An interruption leaves at most orphan blobs, which the reconciliation finds; the blobs of values
that were moved back are left to it, too. The next plan does not find moved values again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.values import Movable, ReadValue, Replacement
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.courtesy import Courtesy, deadline_of
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.flow.vacuum import vacuum
from include.xcom_maintenance.offload.job import OffloadJob
from include.xcom_maintenance.offload.plan import (
    KIND,
    VACUUM_NOTE,
    check_direction,
    is_possible,
    make_sure,
    places,
    stays,
)
from include.xcom_maintenance.offload.values import same_order, same_value
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.xcom_backend.port import Backend, Moved, ValueStays

#: Rows of one transaction: short, whatever ``batch_rows`` allows, since each row is a blob too.
_MOST_ROWS = 200
#: Blobs that are written or read at a time.
_WORKERS = 8
_DONE = ("rows_moved", "value_bytes_moved", "stored_bytes_moved", "blob_bytes_moved", "transactions")
_CHANGED = "changed or deleted since the plan, or its run is active again"


def apply(job: OffloadJob, backend: Backend) -> None:
    """Move what the plan names, as far as it is still as it was."""
    report, settings = job.report, job.settings
    if not is_possible(job, backend):
        if report.status == "planned":
            raise ConfigurationError(
                f"This worker uses a different XCom backend from the one that planned: {backend.name}",
                setting="[core] xcom_backend",
                remedy="Configure the same backend on all workers",
            )
        report.finish("reported")  # the plan says why
        return
    figures = report.headline
    for name in _DONE:
        figures.setdefault(name, 0)  # a second attempt adds to what the first one did
    courtesy = Courtesy(settings, job.metadata, job.log, deadline_of(settings))
    mover = _Mover(job, backend)
    with report.phase("move values"), ThreadPoolExecutor(_WORKERS) as pool:
        header, lines = job.own_plan()
        check_direction(job, header)
        progress = Progress(job.log, "Values processed", total=figures["rows_to_move"])
        probed = False
        for batch in _batches(job, lines):
            if not courtesy.go_on():
                break
            # By this worker, which need not be the one that planned; and before threads need the store, since its
            # first use may have to ask Airflow for a Connection.
            if not probed:
                make_sure(job, backend, batch[0].place)
                probed = True
            mover.move(pool, batch)
            progress.add(len(batch))
        figures["rows_left"] = figures["rows_to_move"] - progress.done
    _describe(job, mover.stayed, courtesy.stopped)
    if settings.vacuum and figures["rows_moved"]:
        vacuum(job)
    report.finish("enforced")


def _batches(job: OffloadJob, lines: Iterator[dict[str, Any]]) -> Iterator[list[Movable]]:
    most_rows, most_bytes = min(job.settings.batch_rows, _MOST_ROWS), job.settings.batch_bytes
    batch: list[Movable] = []
    size = 0
    for line in lines:
        for value in places(line) if line["kind"] == KIND else ():
            if batch and (len(batch) >= most_rows or size + value.value_bytes > most_bytes):
                yield batch
                batch, size = [], 0
            batch.append(value)
            size += value.value_bytes
    if batch:
        yield batch


class _Mover:
    """Moves batches, and keeps count."""

    def __init__(self, job: OffloadJob, backend: Backend) -> None:
        self._job = job
        self._backend = backend
        self._inward = job.settings.direction == "inline"
        own = job.settings.blob_base_path
        self._bases = (*backend.bases, *([own.partition("://")[2].rpartition("@")[2].strip("/")] if own else ()))
        #: Why -> how many values did not move.
        self.stayed: Counter[str] = Counter()

    def move(self, pool: ThreadPoolExecutor, batch: list[Movable]) -> None:
        stored = {value.place: value.stored_bytes for value in batch}
        read = self._job.metadata.read_values(list(stored))
        self.stayed[_CHANGED] += len(batch) - len(read)
        outcomes = list(pool.map(self._prepare, read))
        ready: dict[ReadValue, Moved] = {}
        for value, outcome in zip(read, outcomes, strict=True):
            if isinstance(outcome, ValueStays):
                self.stayed[str(outcome)] += 1
            else:
                ready[value] = outcome
        if self._inward:
            ready = self._that_can_be_held(ready)
        if not ready:
            return
        started = time.monotonic()
        done = self._job.metadata.replace_values([Replacement(old, new.text) for old, new in ready.items()])
        seconds = round(time.monotonic() - started, 3)
        self.stayed[_CHANGED] += len(ready) - len(done)
        figures = self._job.report.headline
        figures["transactions"] += 1
        figures["longest_transaction_seconds"] = max(figures.get("longest_transaction_seconds", 0), seconds)
        for old in (one.old for one in done):
            figures["rows_moved"] += 1
            figures["value_bytes_moved"] += ready[old].value_bytes
            figures["blob_bytes_moved"] += ready[old].blob_bytes
            figures["stored_bytes_moved"] += stored[old.place]

    def _prepare(self, value: ReadValue) -> Moved | ValueStays:
        """What the row is to hold; the blob is there when it is known. Called by several threads."""
        try:
            if self._inward:
                return self._backend.into_row(value)
            if why := stays(value, self._bases):
                return ValueStays(why)
            return self._backend.into_blob(value)
        except ValueStays as why:
            return why

    def _that_can_be_held(self, ready: dict[ReadValue, Moved]) -> dict[ReadValue, Moved]:
        """Those that tasks get from the database as they are."""
        stored = self._job.metadata.as_stored([moved.text for moved in ready.values()])
        held = {}
        for (value, moved), found in zip(ready.items(), stored, strict=True):
            if why := self._why_not(moved, found):
                self.stayed[why] += 1
            else:
                held[value] = moved
        return held

    def _why_not(self, moved: Moved, found: str | None) -> str:
        """Why a value must not come back into its row; empty if it may.

        JSONB has no NUL, writes large numbers in its own way and sorts the keys of dicts; Airflow's channel takes no
        integers that are longer than 64 bits.

        :param found: what the database makes of it.
        """
        if found is None or not same_value(found, moved.text):
            return "the database cannot store it unchanged"
        if not moved.can_be_pulled:
            return "no task could pull it from its row as it is"
        if self._job.settings.key_order == "keep" and not same_order(found, moved.text):
            return "its keys would come in another order (key_order)"
        return ""


def _describe(job: OffloadJob, stayed: Counter[str], stopped: str) -> None:
    figures = job.report.headline
    if figures["blob_bytes_moved"]:
        figures["compression_ratio"] = round(figures["value_bytes_moved"] / figures["blob_bytes_moved"], 2)
    figures["rows_that_stay"] = stayed.total()
    rows: list[list[Any]] = [[why, count] for why, count in stayed.most_common() if count]
    job.report.put(Table("Values not moved", ["reason", "values"], rows))
    if job.settings.direction == "offload":
        job.report.put(
            Table(
                "Space for VACUUM to reclaim",
                ["stored bytes before the move", "values moved"],
                [[figures["stored_bytes_moved"], figures["rows_moved"]]],
                VACUUM_NOTE,
            )
        )
    if figures["rows_left"]:
        job.report.warnings.append(f"{counted(figures['rows_left'], 'row')} left for the next run: {stopped}.")
    job.log.info(
        "Moved %s in %s", counted(figures["rows_moved"], "value"), counted(figures["transactions"], "transaction")
    )
