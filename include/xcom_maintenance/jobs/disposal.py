"""Dispose of the orphans that a manifest names, shared out between tasks, and end the reconciliation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import count, islice
from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError, PartialFailure, SharesFailed
from include.xcom_maintenance.core.records import Blob, RowReference
from include.xcom_maintenance.jobs.deletion import Shard
from include.xcom_maintenance.jobs.job import Job, Progress
from include.xcom_maintenance.jobs.ownership import claim
from include.xcom_maintenance.jobs.quarantine import folder_of, purge
from include.xcom_maintenance.jobs.reconciliation import blobs_of
from include.xcom_maintenance.jobs.sweep import Quarantine, Swept, ledger_of, sweep
from include.xcom_maintenance.reports.ledger import Ledger
from include.xcom_maintenance.reports.report import Table

#: What a task did, added up over its attempts, and over the tasks.
_COUNTS = ("orphans_deleted", "orphan_bytes_deleted", "orphans_quarantined", "orphan_bytes_quarantined", "failed")
#: Blobs that are looked up at once, before the rows that lead to them go.
_HEADS_AT_ONCE = 1_000
#: The phase of the tasks that worked at the same time: the longest of them.
_SWEEPING = "sweep"


def _own_plan(job: Job) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """As ``Job.own_plan``.

    :raises ConfigurationError: also if the plan is too old.
    """
    header, lines = job.own_plan()
    age = job.metadata.now() - datetime.fromisoformat(header["planned_at"])
    limit = job.settings.max_manifest_age_days
    if age > timedelta(days=limit):
        raise ConfigurationError(
            f"The manifest was made {age / timedelta(days=1):.1f} days ago, longer than {limit:g}",
            setting="max_manifest_age_days",
            remedy="Run the DAG again for a new plan",
        )
    return header, lines


# -- share out --------------------------------------------------


def share_out(job: Job) -> list[Shard]:
    """Divide the orphans of the manifest between tasks; the first step that changes something outside.

    :raises ConfigurationError: if the manifest is too old, or not this run's plan for what is configured now.
    :raises ImplausiblePlan: if the base path has become somebody else's.
    """
    blobs, settings = blobs_of(job), job.settings
    _own_plan(job)
    orphans = job.report.headline["orphan_blobs"]
    if not orphans:
        return []
    claim(blobs, job.identity)
    tasks = min(settings.max_shards, max(1, math.ceil(orphans / settings.shard_blobs)))
    bounds = [orphans * part // tasks for part in range(tasks + 1)]
    return [
        {"shard": number, "first": bounds[number - 1], "last": bounds[number] - 1} for number in range(1, tasks + 1)
    ]


# -- sweep --------------------------------------------------


def sweep_orphans(job: Job, shard: Shard) -> dict[str, Any]:
    """Dispose of one share of the orphans; returns its figures, which are also kept where ``finish`` finds them."""
    name = f"shard-{shard['shard']}"
    figures: dict[str, Any] = dict.fromkeys(_COUNTS, 0) | {"seconds": 0.0} | (job.place.read_part(name) or {})
    figures |= {"done": False, "left": {}, "failures": [], "error": "", "failed": 0}
    # An attempt that is killed leaves no word; what an earlier one left must not say that all is done.
    job.place.write_part(name, figures)
    swept = Swept()
    try:
        with job.report.phase(_SWEEPING):
            _sweep(job, shard, name, swept, figures)
        figures["done"] = True
    except Exception as error:
        # The text of an unknown error could quote a value.
        figures["error"] = error.problem if isinstance(error, MaintenanceError) else type(error).__name__
        raise
    finally:
        figures |= {"left": dict(swept.left), "failures": swept.failures, "failed": swept.failed}
        figures["seconds"] = round(figures["seconds"] + job.report.phases[-1]["seconds"], 3)
        job.place.write_part(name, figures)
    return figures


def _sweep(job: Job, shard: Shard, name: str, swept: Swept, figures: dict[str, Any]) -> None:
    header, lines = _own_plan(job)
    settings = job.settings
    own = islice((line for line in lines if line["kind"] == "orphan"), shard["first"], shard["last"] + 1)
    # The grace period may have been raised since the plan; the longer one counts.
    grace = datetime.fromisoformat(header["planned_at"]) - settings.grace_period
    quarantine = None
    if settings.disposal == "quarantine":
        assert job.quarantine is not None  # noqa: S101 - there is one wherever there is a blob store
        quarantine = Quarantine(job.quarantine, folder_of(header))
    with _ledger(job, name, figures, quarantine) as ledger:
        sweep(
            map(_candidate, own),
            into=swept,
            blobs=blobs_of(job),
            metadata=job.metadata,
            modified_before=min(grace, datetime.fromisoformat(header["modified_before"])),
            progress=Progress(job.log, "Orphans swept", total=shard["last"] + 1 - shard["first"]),
            ledger=ledger,
            formats=settings.formats,
            quarantine=quarantine,
        )


@contextmanager
def _ledger(job: Job, name: str, figures: dict[str, Any], quarantine: Quarantine | None = None) -> Iterator[Ledger]:
    """The list of what a share deletes; its figures are those of all attempts."""
    ledger = ledger_of(job, blobs_of(job), part=name, reason="no row refers to it", quarantine=quarantine)
    with ledger:
        try:
            yield ledger
        finally:
            for kind in ("deleted", "quarantined"):
                figures[f"orphans_{kind}"] = ledger.blobs[kind]
                figures[f"orphan_bytes_{kind}"] = ledger.bytes[kind]


def _candidate(line: dict[str, Any]) -> Blob:
    modified = line["last_modified"]
    return Blob(line["key"], line["bytes"], datetime.fromisoformat(modified) if modified else None, line["version"])


# -- finish --------------------------------------------------


def finish(job: Job, shards: list[Shard]) -> None:
    """Put what was done into the report, and delete what has been in quarantine for long enough.

    :param shards: as they were shared out.
    :raises SharesFailed: if a share did not come to its end.
    :raises PartialFailure: if blobs could not be disposed of; everything else was done.
    """
    failed, errors = _collect(job, shards)
    if errors:
        raise SharesFailed(
            f"{len(errors)} of {len(shards)} tasks did not sweep all their orphans: {'; '.join(sorted(set(errors)))}",
            remedy="What was done is counted. Clear the tasks that failed, or let the next run find the rest again",
        )
    if job.settings.delete_dangling_rows and job.report.headline["dangling_references"]:
        _delete_dangling(job)
    failed += purge(job)
    if failed:
        raise PartialFailure(
            f"{failed:,} blobs could not be disposed of, {_disposed(job):,} were",
            setting="blob_base_path",
            remedy="See the report for what the store said; the next run tries again",
        )
    job.report.finish("enforced")


def _delete_dangling(job: Job) -> None:
    """Delete the rows whose blob the manifest says is gone, if it still is: a blob may have been put back."""
    blobs, figures = blobs_of(job), job.report.headline
    figures.setdefault("dangling_rows_deleted", 0)  # a second attempt adds to what the first one did
    _, lines = _own_plan(job)
    claim(blobs, job.identity)
    found = (line for line in lines if line["kind"] == "dangling")
    origin = {"database": job.identity.owner, "dag_id": job.report.dag_id, "run_id": job.report.run_id}
    with job.report.phase("delete dangling rows"):
        for number in count(1):
            batch = [
                RowReference(**{name: line[name] for name in RowReference._fields})
                for line in islice(found, _HEADS_AT_ONCE)
            ]
            if not batch:
                return
            there = {blob.key for blob in blobs.head(list({reference.key for reference in batch}))}
            gone = [reference for reference in batch if reference.key not in there]
            archive = None
            if job.archives.root is not None:
                archive = partial(job.archives.write, f"dangling-{number:06}", **origin)
            if gone:
                figures["dangling_rows_deleted"] += job.metadata.delete_dangling(gone, archive=archive)


def _disposed(job: Job) -> int:
    return int(job.report.headline["orphans_deleted"] + job.report.headline["orphans_quarantined"])


def _part(job: Job, name: str) -> dict[str, Any]:
    """The figures of a share; of one that was killed, those that can be found out now."""
    part = job.place.read_part(name) or {}
    if not part.get("done"):
        try:
            with _ledger(job, name, part):
                pass
        except MaintenanceError as error:
            job.log.warning("What %s did before it broke off cannot be found out: %s", name, error)
    return part


def _collect(job: Job, shards: list[Shard]) -> tuple[int, list[str]]:
    """Put the figures of the shares into the report; returns how many blobs failed, and why shares did."""
    report = job.report
    parts = [_part(job, f"shard-{shard['shard']}") for shard in shards]
    swept = Swept()
    for name in _COUNTS[:-1]:
        report.headline[name] = sum(part.get(name, 0) for part in parts)
    for part in parts:
        swept.left.update(part.get("left", {}))
        swept.failures += [(key, answer) for key, answer in part.get("failures", [])][: 10 - len(swept.failures)]
    report.phases = [phase for phase in report.phases if phase["name"] != _SWEEPING]
    report.phases.append({"name": _SWEEPING, "seconds": max((part.get("seconds", 0) for part in parts), default=0)})
    report.tables = [table for table in report.tables if table.title != "Orphans swept, by task"]
    if len(parts) > 1:
        rows = [[n, *(part.get(name, 0) for name in (*_COUNTS, "seconds"))] for n, part in enumerate(parts, 1)]
        columns = ["task", *(name.replace("_", " ") for name in _COUNTS), "seconds"]
        report.put(Table("Orphans swept, by task", columns, rows), first=True)
    swept.describe(report, job.log, "Candidates that were left", gone=_disposed(job))
    failed = sum(part.get("failed", 0) for part in parts)
    return failed, [part.get("error") or "killed; see the logs of sweep" for part in parts if not part.get("done")]
