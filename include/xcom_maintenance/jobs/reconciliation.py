"""Find blobs that no row refers to and rows whose blob is gone; in enforce mode, delete the former.

``find`` writes the manifest, ``apply`` sweeps what it names and nothing else.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from typing import IO, Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import ConfigurationError, PartialFailure
from include.xcom_maintenance.core.guard import ReconciliationFigures, judge_owner, judge_reconciliation
from include.xcom_maintenance.core.orphans import BlobKind, match
from include.xcom_maintenance.core.records import Blob, RowReference
from include.xcom_maintenance.jobs.findings import Findings
from include.xcom_maintenance.jobs.job import Job, Progress
from include.xcom_maintenance.jobs.ownership import claim, marked_owner
from include.xcom_maintenance.jobs.sweep import Swept, sweep
from include.xcom_maintenance.metadata.port import UnparsableReference

# -- find --------------------------------------------------


def find(job: Job) -> None:
    """Compare the listing with the references, write down what is wrong, and let the guard look at it.

    Changes nothing.

    :raises ConfigurationError: if no blob store is configured.
    """
    blobs = _blobs(job)
    report, settings = job.report, job.settings
    owner = marked_owner(blobs)
    found = Findings(job)
    unparsable: str | None = None
    # The references are put aside first, so that a long listing never holds a transaction open in the database.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        snapshot = job.metadata.now()
        with report.phase("read references"):
            try:
                references = _spool(job.metadata.references(blobs.base), spool, Progress(job.log, "References read"))
            except UnparsableReference as error:
                # Without all references nothing can be said of any blob.
                references, unparsable = 0, error.where + ": " + error.why
        with report.phase("compare"), job.place.write_manifest() as manifest:
            header = job.plan_header("reconciliation", snapshot)
            manifest.add(**header, modified_before=(snapshot - settings.grace_period).isoformat())
            if unparsable is None:
                findings = match(
                    blobs.list(),
                    _unspool(spool),
                    modified_before=snapshot - settings.grace_period,
                    ignored_prefixes=job.ignored_prefixes,
                    formats=settings.formats,
                    claims_unowned=settings.claim_unowned_blobs,
                )
                found.take(findings, blobs=blobs, manifest=manifest, snapshot=snapshot)
            report.manifest = manifest.path
    found.describe(references)
    with report.phase("guard"):
        figures = ReconciliationFigures(
            recognised_blobs=found.recognised,
            orphan_blobs=found.count[BlobKind.ORPHAN],
            referenced_blobs=found.count[BlobKind.REFERENCED],
            unparsable=unparsable,
        )
        job.object_to(
            judge_owner(owner, job.identity.owner)
            + judge_reconciliation(figures, max_orphan_share=settings.max_orphan_share)
        )
    report.finish("planned" if job.enforcing else "reported")


def _blobs(job: Job) -> BlobStore:
    if job.blobs is None:
        raise ConfigurationError(
            "There is no blob store to reconcile",
            setting="blob_base_path",
            remedy="Set it to where your XCom backend keeps its blobs, such as s3://conn_id@bucket/airflow/xcom, or "
            "configure [common.io] xcom_objectstorage_path",
        )
    return job.blobs


def _spool(references: Iterable[RowReference], spool: IO[str], progress: Progress) -> int:
    for reference in references:
        spool.write(json.dumps(asdict(reference), default=lambda moment: moment.isoformat()) + "\n")
        progress.add()
    spool.seek(0)
    return progress.done


def _unspool(spool: IO[str]) -> Iterator[RowReference]:
    for line in spool:
        fields = json.loads(line)
        if fields["timestamp"] is not None:
            fields["timestamp"] = datetime.fromisoformat(fields["timestamp"])
        yield RowReference(**fields)


# -- apply --------------------------------------------------


def apply(job: Job) -> None:
    """Sweep the orphans that the run's manifest names, each verified again just before.

    :raises ConfigurationError: if the manifest is not this run's plan for what is configured now.
    :raises ImplausiblePlan: if the base path has become somebody else's.
    :raises PartialFailure: if some could not be deleted; the others were.
    """
    blobs, figures = _blobs(job), job.report.headline
    header, lines = job.own_plan()
    if figures["orphan_blobs"]:
        claim(blobs, job.identity)
    swept = Swept()
    # The grace period may have been raised since the plan; the longer one counts.
    grace = datetime.fromisoformat(header["planned_at"]) - job.settings.grace_period
    try:
        with job.report.phase("sweep"), job.place.write_deleted() as deleted:
            sweep(
                (_candidate(line) for line in lines if line["kind"] == "orphan"),
                into=swept,
                blobs=blobs,
                metadata=job.metadata,
                modified_before=min(grace, datetime.fromisoformat(header["modified_before"])),
                progress=Progress(job.log, "Orphans swept", total=figures.get("orphan_blobs")),
                deleted=deleted,
                reason="no row refers to it",
                formats=job.settings.formats,
            )
    finally:
        for name, count in (("orphans_deleted", swept.deleted), ("orphan_bytes_deleted", swept.deleted_bytes)):
            figures[name] = figures.get(name, 0) + count
        swept.describe(job.report, job.log, "Candidates that were left")
    if swept.failed:
        raise PartialFailure(
            f"{swept.failed:,} orphans could not be deleted, {swept.deleted:,} were",
            setting="blob_base_path",
            remedy="See the report for what the store said; a re-run tries again",
        )
    job.report.finish("enforced")


def _candidate(line: dict[str, Any]) -> Blob:
    modified = line["last_modified"]
    return Blob(line["key"], line["bytes"], datetime.fromisoformat(modified) if modified else None, line["version"])
