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
from include.xcom_maintenance.jobs.sweep import sweep
from include.xcom_maintenance.metadata.port import UnparsableReference
from include.xcom_maintenance.reports.report import Table

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
            manifest.add(
                "reconciliation",
                dag_id=report.dag_id,
                run_id=report.run_id,
                snapshot_at=snapshot.isoformat(),
                modified_before=(snapshot - settings.grace_period).isoformat(),
                database=job.identity.owner,
                base=str(blobs.base),
            )
            if unparsable is None:
                findings = match(
                    blobs.list(),
                    _unspool(spool),
                    modified_before=snapshot - settings.grace_period,
                    ignored_prefixes=job.ignored_prefixes,
                )
                found.take(findings, blobs=blobs, manifest=manifest, snapshot=snapshot)
            report.manifest = manifest.path
    found.describe(references)
    with report.phase("guard"):
        figures = ReconciliationFigures(
            recognised_blobs=found.recognised,
            orphan_blobs=found.count[BlobKind.ORPHAN],
            references=references,
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

    :raises PartialFailure: if some could not be deleted; the others were.
    """
    blobs = _blobs(job)
    manifest = job.place.read_manifest()
    header = next(manifest)
    if header["base"] != str(blobs.base) or header["database"] != job.identity.owner:
        raise ConfigurationError(
            "The manifest was made for another database or base path",
            setting="blob_base_path",
            remedy="The configuration changed while the run was under way; run the DAG again",
        )
    if job.report.headline["orphan_blobs"]:
        claim(blobs, job.identity)
    with job.report.phase("sweep"), job.place.write_deleted() as deleted:
        swept = sweep(
            (_candidate(line) for line in manifest if line["kind"] == "orphan"),
            blobs=blobs,
            metadata=job.metadata,
            modified_before=datetime.fromisoformat(header["modified_before"]),
            progress=Progress(job.log, "Orphans swept", total=job.report.headline.get("orphan_blobs")),
            deleted=deleted,
            reason="no row refers to it",
        )
    job.report.headline |= {"orphans_deleted": swept.deleted, "orphan_bytes_deleted": swept.deleted_bytes}
    job.log.info(
        "Deleted %s orphans (%s bytes); left %s",
        f"{swept.deleted:,}",
        f"{swept.deleted_bytes:,}",
        dict(swept.left),
    )
    if swept.left:
        left = [[reason, count] for reason, count in swept.left.most_common()]
        job.report.put(Table("Candidates that were left", ["reason", "blobs"], left), first=True)
    if swept.failed:
        failures = [list(failure) for failure in swept.failures]
        job.report.put(Table("Blobs that could not be deleted", ["blob", "answer"], failures), first=True)
        raise PartialFailure(
            f"{swept.failed:,} orphans could not be deleted, {swept.deleted:,} were",
            setting="blob_base_path",
            remedy="See the report for what the store said; a re-run tries again",
        )
    job.report.finish("enforced")


def _candidate(line: dict[str, Any]) -> Blob:
    modified = line["last_modified"]
    return Blob(line["key"], line["bytes"], datetime.fromisoformat(modified) if modified else None, line["version"])
