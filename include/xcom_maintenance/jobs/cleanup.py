"""Delete XCom rows that the retention policy has done with, then the blobs that those rows referred to.

``plan`` writes the manifest; ``apply`` carries it out and nothing else: row first, commit, then blob. A run that is
killed leaves its manifest marked as pending, and the next attempt, or the next run, finishes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import ConfigurationError, PartialFailure
from include.xcom_maintenance.core.guard import CleanupFigures, judge_cleanup, judge_owner
from include.xcom_maintenance.core.records import Blob, RunCutoff
from include.xcom_maintenance.core.retention import RunVerdict, judge_runs
from include.xcom_maintenance.jobs.job import Job, Progress
from include.xcom_maintenance.jobs.ownership import claim, marked_owner
from include.xcom_maintenance.jobs.sweep import Swept, sweep
from include.xcom_maintenance.jobs.tally import Tally
from include.xcom_maintenance.reports.place import ManifestWriter
from include.xcom_maintenance.reports.report import Table

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
        manifest.add(
            "cleanup",
            dag_id=report.dag_id,
            run_id=report.run_id,
            planned_at=now.isoformat(),
            database=job.identity.owner,
            base=str(job.blobs.base) if job.blobs else None,
        )
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
            manifest.add(
                "blob",
                key=reference.key,
                dag_id=reference.dag_id,
                run_id=reference.run_id,
                task_id=reference.task_id,
                map_index=reference.map_index,
                xcom_key=reference.xcom_key,
            )
            tally.blobs[reference.dag_id] += 1


# -- apply --------------------------------------------------


def apply(job: Job) -> None:
    """Carry out the run's manifest, and what earlier runs left half done.

    :raises ConfigurationError: if the plan was made for another database or base path.
    :raises PartialFailure: if blobs could not be deleted; everything else was done.
    """
    report = job.report
    if job.blobs is not None and not _is_ours(job, job.blobs, job.place.read_manifest()):
        raise ConfigurationError(
            "The plan was made for another database or base path",
            setting="blob_base_path",
            remedy="The configuration changed while the run was under way; run the DAG again. Nothing was changed",
        )
    if job.blobs is not None and report.headline["blobs_to_purge"]:
        claim(job.blobs, job.identity)
    job.place.mark_pending()
    with report.phase("delete rows"):
        rows, size, transactions, longest = _delete_rows(job)
    report.headline |= {
        "rows_deleted": rows,
        "bytes_deleted": size,
        "transactions": transactions,
        "longest_transaction_seconds": round(longest, 3),
    }
    job.log.info("Deleted %s rows (%s bytes) in %s transactions", f"{rows:,}", f"{size:,}", f"{transactions:,}")
    failed = 0
    if job.blobs is not None:
        with report.phase("purge blobs"), job.place.write_deleted() as deleted:
            swept = _purge(job, job.blobs, job.place.read_manifest(), deleted)
        report.headline |= {"blobs_deleted": swept.deleted, "blob_bytes_deleted": swept.deleted_bytes}
        failed = _describe_sweep(job, swept, "Blobs that stay")
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


def _delete_rows(job: Job) -> tuple[int, int, int, float]:
    """Returns rows, stored bytes, transactions, and the seconds of the longest transaction."""
    rows = size = transactions = 0
    longest = 0.0
    progress = Progress(job.log, "Rows deleted", total=job.report.headline.get("rows_to_delete"))
    lines = (line for line in job.place.read_manifest() if line["kind"] == "rows")
    for cutoffs, limit in _batches(lines, job.settings.batch_rows, job.settings.batch_bytes):
        while True:
            started = time.monotonic()
            deleted = job.metadata.delete(cutoffs, limit=limit)
            longest = max(longest, time.monotonic() - started)
            rows, size, transactions = rows + deleted.rows, size + deleted.bytes, transactions + 1
            progress.add(deleted.rows)
            if job.settings.batch_pause_seconds:
                time.sleep(job.settings.batch_pause_seconds)
            if deleted.rows < limit:
                break
    return rows, size, transactions, longest


def _batches(lines: Iterable[dict[str, Any]], max_rows: int, max_bytes: int) -> Iterator[tuple[list[RunCutoff], int]]:
    """Batches with the most rows that one transaction may delete.

    Whole runs up to the limits, and one row more than was planned, so that one statement sees that nothing is left; a
    run above the limits comes alone, to be deleted in several steps.
    """
    batch: list[RunCutoff] = []
    rows = size = 0
    for line in lines:
        if batch and (rows + line["rows"] > max_rows or size + line["bytes"] > max_bytes):
            yield batch, rows + 1
            batch, rows, size = [], 0, 0
        cutoff = RunCutoff(line["dag_run_id"], datetime.fromisoformat(line["cutoff"]), line["keep_latest_value"])
        if line["rows"] > max_rows or line["bytes"] > max_bytes:
            yield [cutoff], max(1, min(max_rows, line["rows"] * max_bytes // max(1, line["bytes"])))
            continue
        batch.append(cutoff)
        rows, size = rows + line["rows"], size + line["bytes"]
    if batch:
        yield batch, rows + 1


def _purge(job: Job, blobs: BlobStore, manifest: Iterator[dict[str, Any]], deleted: ManifestWriter) -> Swept:
    """Delete the blobs that a manifest names, as far as their rows are gone."""
    header = next(manifest)
    keys = (line["key"] for line in manifest if line["kind"] == "blob")
    return sweep(
        _looked_up(blobs, keys),
        blobs=blobs,
        metadata=job.metadata,
        modified_before=datetime.fromisoformat(header["planned_at"]),
        progress=Progress(job.log, "Blobs looked at", total=job.report.headline.get("blobs_to_purge")),
        deleted=deleted,
        reason=f"its row was deleted by run {header['run_id']}",
    )


def _is_ours(job: Job, blobs: BlobStore, manifest: Iterator[dict[str, Any]]) -> bool:
    """Whether a manifest was made for the database and the base path that are configured now."""
    header = next(manifest)
    return bool(header["base"] == str(blobs.base) and header["database"] == job.identity.owner)


def _looked_up(blobs: BlobStore, keys: Iterator[str]) -> Iterator[Blob]:
    while batch := list(islice(keys, _HEADS_AT_ONCE)):
        yield from blobs.head(list(dict.fromkeys(batch)))


def _finish_earlier_runs(job: Job, blobs: BlobStore) -> int:
    """Purge what runs that were killed between row and blob left behind; returns how many blobs failed."""
    failed = 0
    headline = job.report.headline
    for name in job.place.pending_manifests():
        if not _is_ours(job, blobs, job.place.read_manifest(name)):
            job.report.warnings.append(
                f"{name} was not finished by its run and is left alone: it was made for another database or base path."
            )
            continue
        job.log.info("An earlier run did not finish its manifest %s; its blobs are purged now", name)
        with job.report.phase(f"finish {name}"), job.place.write_deleted() as deleted:
            swept = _purge(job, blobs, job.place.read_manifest(name), deleted)
        for figure, count in (("blobs", swept.deleted), ("blob_bytes", swept.deleted_bytes)):
            key = f"{figure}_deleted_for_earlier_runs"
            headline[key] = headline.get(key, 0) + count
        this_failed = _describe_sweep(job, swept, f"Blobs of {name} that stay")
        if not this_failed:
            job.place.clear_pending(name)
        failed += this_failed
    return failed


def _describe_sweep(job: Job, swept: Swept, title: str) -> int:
    """Put what was left, and what failed, into the report; returns how many failed."""
    if swept.left:
        left = [[reason, count] for reason, count in swept.left.most_common()]
        job.report.put(Table(title, ["reason", "blobs"], left))
    if swept.failures:
        failures = [list(failure) for failure in swept.failures]
        job.report.put(Table("Blobs that could not be deleted", ["blob", "answer"], failures))
    job.log.info(
        "Purged %s blobs (%s bytes); left %s",
        f"{swept.deleted:,}",
        f"{swept.deleted_bytes:,}",
        dict(swept.left),
    )
    return swept.failed
