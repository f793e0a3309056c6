"""Delete XCom rows that the retention policy has done with, then the blobs that those rows referred to.

``plan`` writes the manifest; ``apply`` carries it out and nothing else: row first, commit, then blob. A run that is
killed leaves its manifest marked as pending, and the next attempt, or the next run, finishes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import PartialFailure, UnreadableManifest
from include.xcom_maintenance.core.guard import CleanupFigures, judge_cleanup, judge_owner
from include.xcom_maintenance.core.records import Blob, Coordinates, RunCutoff
from include.xcom_maintenance.core.reference_formats import belongs_to, coordinates_of
from include.xcom_maintenance.core.retention import RunVerdict, judge_runs
from include.xcom_maintenance.jobs.job import Job, Progress
from include.xcom_maintenance.jobs.ownership import claim, marked_owner
from include.xcom_maintenance.jobs.sweep import Swept, sweep
from include.xcom_maintenance.jobs.tally import Tally
from include.xcom_maintenance.reports.place import ManifestWriter

#: Runs judged and measured by one statement.
_RUNS_AT_ONCE = 50_000
#: Blobs looked up at once before they are swept.
_HEADS_AT_ONCE = 1_000


# -- plan --------------------------------------------------


def plan(job: Job) -> None:
    """Find out what goes and what stays, write it down, and let the guard look at it. Changes nothing."""
    report, settings = job.report, job.settings
    tally = Tally(settings.rules())
    with report.phase("plan"), job.place.write_manifest() as manifest:
        now = job.metadata.now()
        manifest.add(**job.plan_header("cleanup", now))
        verdicts = judge_runs(job.metadata.runs(), settings.rules(), now=now)
        progress = Progress(job.log, "Runs judged")
        while batch := list(islice(verdicts, _RUNS_AT_ONCE)):
            _plan_batch(job, batch, tally, manifest)
            progress.add(len(batch))
        report.manifest = manifest.path
    with report.phase("guard"):
        figures = CleanupFigures(tally.total.rows, job.metadata.row_count_estimate())
        tally.describe(job, rows_in_table=figures.rows_in_table)
        job.report.warnings += [
            f"An enforcing run did not finish {name}: some of its blobs may be left. The next enforcing run goes on."
            for name in job.place.pending_manifests()
        ]
        owner = judge_owner(marked_owner(job.blobs), job.identity.owner) if job.blobs else []
        limits = judge_cleanup(figures, max_rows=settings.max_delete_rows, max_share=settings.max_delete_share)
        job.object_to(owner + limits)
    report.finish("planned" if job.enforcing else "reported")


def _plan_batch(job: Job, verdicts: list[RunVerdict], tally: Tally, manifest: ManifestWriter) -> None:
    going = {v.cutoff.dag_run_id: v for v in verdicts if v.cutoff is not None}
    cutoffs = [v.cutoff for v in going.values() if v.cutoff is not None]
    for verdict in verdicts:
        tally.judged(verdict)
    # In the order in which the runs were made, which is about how their rows lie on disk.
    for measured in sorted(job.metadata.measure(cutoffs), key=lambda measured: measured.dag_run_id):
        verdict = going[measured.dag_run_id]
        assert verdict.cutoff is not None  # noqa: S101 - going holds only verdicts with a cutoff
        manifest.add(
            "rows",
            dag_id=verdict.run.dag_id,
            run_id=verdict.run.run_id,
            dag_run_id=measured.dag_run_id,
            cutoff=verdict.cutoff.cutoff.isoformat(),
            keep_latest_value=verdict.cutoff.keep_latest_value,
            rows=measured.rows,
            bytes=measured.bytes,
            reason=verdict.reason,
            rule=verdict.rule,
        )
        tally.goes(verdict, measured.rows, measured.bytes)
    if job.blobs is not None:
        for reference in job.metadata.doomed_references(cutoffs, job.blobs.base):
            owner = Coordinates(reference.dag_id, reference.run_id, reference.task_id)
            if not belongs_to(reference.key, owner, ignored_prefixes=job.ignored_prefixes):
                tally.paths_of_others += 1
                continue
            manifest.add("blob", key=reference.key, map_index=reference.map_index, xcom_key=reference.xcom_key)
            tally.blobs[reference.dag_id] += 1


# -- apply --------------------------------------------------


def apply(job: Job) -> None:
    """Carry out the run's manifest, and what earlier runs left half done.

    :raises ConfigurationError: if the manifest is not this run's plan for what is configured now.
    :raises ImplausiblePlan: if the base path has become somebody else's.
    :raises PartialFailure: if blobs could not be deleted; everything else was done.
    """
    report = job.report
    header, lines = job.own_plan()
    if job.blobs is not None and (report.headline["blobs_to_purge"] or job.place.pending_manifests()):
        claim(job.blobs, job.identity)
    job.place.mark_pending()
    with report.phase("delete rows"):
        _delete_rows(job, header, lines)
    failed = 0
    if job.blobs is not None:
        failed = _purge(job, job.blobs, *job.own_plan(), suffix="")
        if not failed:
            job.place.clear_pending()
        failed += _finish_earlier_runs(job, job.blobs)
    else:
        job.place.clear_pending()
    if failed:
        raise PartialFailure(
            f"{failed} blobs could not be deleted; their rows are gone",
            setting="blob_base_path",
            remedy="See the report for what the store said; the next run tries again",
        )
    report.finish("enforced")


def _delete_rows(job: Job, header: dict[str, Any], lines: Iterator[dict[str, Any]]) -> None:
    """Delete what the manifest names and the policy still gives up; counts go into the headline as they come."""
    figures = job.report.headline
    for name in ("rows_deleted", "bytes_deleted", "transactions", "longest_transaction_seconds"):
        figures.setdefault(name, 0)  # a second attempt adds to what the first one did
    allowed = _allowed(job, datetime.fromisoformat(header["planned_at"]))
    progress = Progress(job.log, "Rows deleted", total=figures.get("rows_to_delete"))
    for cutoffs, limit in _batches(lines, allowed, job.settings.batch_rows, job.settings.batch_bytes):
        while True:
            started = time.monotonic()
            deleted = job.metadata.delete(cutoffs, limit=limit)
            seconds = round(time.monotonic() - started, 3)
            figures["rows_deleted"] += deleted.rows
            figures["bytes_deleted"] += deleted.bytes
            figures["transactions"] += 1
            figures["longest_transaction_seconds"] = max(figures["longest_transaction_seconds"], seconds)
            progress.add(deleted.rows)
            if job.settings.batch_pause_seconds:
                time.sleep(job.settings.batch_pause_seconds)
            if limit is None or deleted.rows < limit:
                break
    job.log.info(
        "Deleted %s rows (%s bytes) in %s transactions",
        *(f"{figures[name]:,}" for name in ("rows_deleted", "bytes_deleted", "transactions")),
    )


def _allowed(job: Job, planned_at: datetime) -> dict[int, RunCutoff]:
    """What the policy gives up now, run by run: settings and history may have changed since the plan."""
    verdicts = judge_runs(job.metadata.runs(), job.settings.rules(), now=planned_at)
    return {verdict.run.dag_run_id: verdict.cutoff for verdict in verdicts if verdict.cutoff is not None}


def _batches(
    lines: Iterable[dict[str, Any]], allowed: Mapping[int, RunCutoff], max_rows: int, max_bytes: int
) -> Iterator[tuple[list[RunCutoff], int | None]]:
    """Whole runs up to the limits; a run above them comes alone, with the most rows that one transaction may delete.

    Of plan and policy the more careful one counts.
    """
    batch: list[RunCutoff] = []
    rows = size = 0
    for line in lines:
        now = allowed.get(line["dag_run_id"]) if line["kind"] == "rows" else None
        if now is None:
            continue
        cutoff = RunCutoff(
            dag_run_id=now.dag_run_id,
            cutoff=min(now.cutoff, datetime.fromisoformat(line["cutoff"])),
            keep_latest_value=now.keep_latest_value or line["keep_latest_value"],
        )
        if line["rows"] > max_rows or line["bytes"] > max_bytes:
            yield [cutoff], max(1, min(max_rows, line["rows"] * max_bytes // max(1, line["bytes"])))
            continue
        if batch and (rows + line["rows"] > max_rows or size + line["bytes"] > max_bytes):
            yield batch, None
            batch, rows, size = [], 0, 0
        batch.append(cutoff)
        rows, size = rows + line["rows"], size + line["bytes"]
    if batch:
        yield batch, None


def _purge(job: Job, blobs: BlobStore, header: dict[str, Any], lines: Iterator[dict[str, Any]], *, suffix: str) -> int:
    """Delete the blobs that a manifest names, as far as their rows are gone; returns how many failed.

    :param suffix: of the names of the figures in the headline.
    """
    swept = Swept()
    keys = (line["key"] for line in lines if line["kind"] == "blob" and coordinates_of(line["key"]) is not None)
    try:
        with job.report.phase(f"purge blobs{suffix}"), job.place.write_deleted() as deleted:
            sweep(
                _looked_up(blobs, keys),
                into=swept,
                blobs=blobs,
                metadata=job.metadata,
                modified_before=datetime.fromisoformat(header["planned_at"]),
                progress=Progress(job.log, "Blobs looked at", total=job.report.headline.get("blobs_to_purge")),
                deleted=deleted,
                reason=f"its row was deleted by run {header['run_id']}",
            )
    finally:
        figures = job.report.headline
        for name, count in (("blobs_deleted", swept.deleted), ("blob_bytes_deleted", swept.deleted_bytes)):
            figures[name + suffix] = figures.get(name + suffix, 0) + count
        swept.describe(job.report, job.log, f"Blobs that stay{suffix.replace('_', ' ')}")
    return swept.failed


def _looked_up(blobs: BlobStore, keys: Iterator[str]) -> Iterator[Blob]:
    while batch := list(islice(keys, _HEADS_AT_ONCE)):
        yield from blobs.head(list(dict.fromkeys(batch)))


def _finish_earlier_runs(job: Job, blobs: BlobStore) -> int:
    """Purge what runs that were killed between row and blob left behind; returns how many blobs failed."""
    failed = 0
    for name in job.place.pending_manifests():
        try:
            lines = job.place.read_manifest(name)
            header = next(lines)
            if not job.is_for_us(header):
                job.report.warnings.append(
                    f"{name} is pending and left alone: it is for another database or base path."
                )
                continue
            job.log.info("An earlier run did not finish its manifest %s; its blobs are purged now", name)
            left = _purge(job, blobs, header, lines, suffix="_for_earlier_runs")
        except UnreadableManifest as error:
            job.report.warnings.append(f"{name} is pending and cannot be read: {error.problem}. Delete it by hand.")
            continue
        if not left:
            job.place.clear_pending(name)
        failed += left
    return failed
