"""Put back rows that a cleanup deleted and archived.

``plan`` reads the archive and counts; ``apply`` reads the same files again and restores, the newest file first: where
two hold the same row, the value that was there last returns. A row that is there is never touched, so a run that is
killed and run again ends in the same state.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.blob_uri import BlobUri, InvalidBlobUri
from include.xcom_maintenance.core.errors import ConfigurationError, StoreUnavailable
from include.xcom_maintenance.core.records import ArchivedRow
from include.xcom_maintenance.flow.courtesy import Courtesy
from include.xcom_maintenance.flow.guard import Objection
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.metadata.ports.restore import Return
from include.xcom_maintenance.reports.archive_file import ArchiveFile, ArchiveHeader
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.restore.job import RestoreJob
from include.xcom_maintenance.retention.current import policy_of

_BLOB_GONE = "its blob is gone"
_OUTCOMES = {
    "rows_to_restore": Return.POSSIBLE,
    "rows_there_already": Return.EXISTS,
    "rows_whose_run_is_gone": Return.NO_RUN,
    "rows_whose_task_instance_is_gone": Return.NO_TASK_INSTANCE,
    "rows_whose_blob_is_gone": _BLOB_GONE,
}


# -- plan --------------------------------------------------


def plan(job: RestoreJob) -> None:
    """Find out which rows of the archive could return, and write it down. Changes nothing."""
    report, settings = job.report, job.settings
    with report.phase("find the archive"):
        # By their headers, which also shows a file that is none before anything else is done.
        files = [(file, file.header()) for file in job.archives.find(settings.archive)]
        files.sort(key=lambda item: (item[1].archived_at if item[1] else "", item[0].name), reverse=True)
    found: Counter[tuple[str, str]] = Counter()
    figures: Counter[str] = Counter(files=len(files))
    with report.phase("plan"), job.place.write_manifest() as manifest:
        manifest.add(**job.plan_header("restore", job.metadata.now()))
        progress = Progress(job.log, "Archived rows looked at")
        for file, header in files:
            before = found.total()
            if header is None or header.database == job.identity.owner:
                for rows in _batches(job, file):
                    found.update((row.dag_id, outcome) for row, outcome in zip(rows, _outcomes(job, rows), strict=True))
                    progress.add(len(rows))
                figures["rows_not_chosen"] += file.rows - (found.total() - before)
            else:
                figures["rows_of_other_databases"] += _count(file)
            figures["rows_in_archive"] += file.rows
            figures["files_cut_short"] += file.cut_short
            manifest.add("archive", file=file.name, rows=file.rows, cut_short=file.cut_short)
        report.manifest = manifest.path
    with report.phase("guard"):
        _describe(job, found, figures)
        job.object_to(_judge(job, [header for _, header in files if header is not None]))
    report.finish("planned" if job.enforcing else "reported")


def _batches(job: RestoreJob, file: ArchiveFile) -> Iterator[list[ArchivedRow]]:
    settings = job.settings
    return file.batches(max_rows=settings.batch_rows, max_bytes=settings.batch_bytes, wanted=settings.chooses)


def _count(file: ArchiveFile) -> int:
    """The rows of a file that is not for us."""
    for _ in file.batches(max_rows=1, max_bytes=1, wanted=lambda *_: False):
        pass
    return file.rows


def _outcomes(job: RestoreJob, rows: Sequence[ArchivedRow]) -> list[str]:
    """What would become of each row now: a ``Return``, or that its blob is gone."""
    outcomes: list[str] = list(job.metadata.restorable(rows))
    if job.blobs is not None:
        keys = {
            number: key
            for number, row in enumerate(rows)
            if outcomes[number] == Return.POSSIBLE and (key := _blob_of(row, job.blobs)) is not None
        }
        there = {blob.key for blob in job.blobs.head(list(dict.fromkeys(keys.values())))} if keys else set()
        for number, key in keys.items():
            if key not in there:
                # A task that pulls it would be given the path as if that were the value.
                outcomes[number] = _BLOB_GONE
    return outcomes


def _blob_of(row: ArchivedRow, blobs: BlobStore) -> str | None:
    """The key of the blob that is the row's whole value, if it lies below the base path."""
    if row.text is None:
        return None
    try:
        uri = BlobUri.parse(row.text)
    except InvalidBlobUri:
        return None
    return uri.key.removeprefix(blobs.base.prefix) if blobs.base.contains(uri) else None


def _describe(job: RestoreJob, found: Counter[tuple[str, str]], figures: Counter[str]) -> None:
    """Put what was found into the report and the log."""
    report, top = job.report, job.settings.top_entries
    totals: Counter[str] = Counter()
    for (_, outcome), rows in found.items():
        totals[outcome] += rows
    report.headline = {
        "files": figures["files"],
        "files_cut_short": figures["files_cut_short"],
        "rows_in_archive": figures["rows_in_archive"],
        **{name: totals[outcome] for name, outcome in _OUTCOMES.items()},
        "rows_not_chosen": figures["rows_not_chosen"],
        "rows_of_other_databases": figures["rows_of_other_databases"],
    }
    by_dag: list[list[Any]] = [
        [dag_id, *(found[dag_id, outcome] for outcome in _OUTCOMES.values())]
        for dag_id, _ in groupby(sorted(dag_id for dag_id, _ in found))
    ]
    by_dag.sort(key=lambda row: -row[1])
    note = f"The first {top} of {len(by_dag)}." if len(by_dag) > top else ""
    report.put(Table("Archived rows, by DAG", ["DAG", *_OUTCOMES.values()], by_dag[:top], note))
    if figures["files_cut_short"]:
        report.warnings.append(
            f"{figures['files_cut_short']:,} files of the archive are cut short or damaged; what can be read of them "
            "is restored. The manifest names them."
        )
    if job.blobs is None:
        report.warnings.append(
            "No blob store is configured (blob_base_path, or [common.io] xcom_objectstorage_path), so nobody looks "
            "whether the blobs that rows refer to are still there."
        )
    _warn_of_the_next_cleanup(job, found)
    job.log.info("Plan: %s", ", ".join(f"{name}: {value:,}" for name, value in report.headline.items()))


def _warn_of_the_next_cleanup(job: RestoreJob, found: Counter[tuple[str, str]]) -> None:
    policy = policy_of(job, job.metadata.now())
    loose = sorted(
        dag_id
        for (dag_id, outcome), rows in found.items()
        if rows and outcome == Return.POSSIBLE and any(not link.rule.hold for link in policy.chain(dag_id))
    )
    if loose:
        shown = ", ".join(loose[:5]) + (f" and {len(loose) - 5:,} more" * (len(loose) > 5))
        job.report.warnings.append(
            "Rows return with the timestamps that they had, so the next enforcing cleanup would delete them again, "
            f"unless a rule with hold: true comes first in retention for these DAGs: {shown}."
        )


def _judge(job: RestoreJob, headers: Sequence[ArchiveHeader]) -> list[Objection]:
    others = Counter(header.database for header in headers if header.database != job.identity.owner)
    return [
        Objection(
            f"{files:,} files of the archive hold rows of the metadata database {database}, but the connection leads "
            f"to {job.identity.owner}",
            "archive",
            "Choose an archive of this database, or correct metadata_conn_id",
        )
        for database, files in others.items()
    ]


# -- apply --------------------------------------------------


def apply(job: RestoreJob) -> None:
    """Restore from the files that the plan names, as far as rows still can return.

    :raises ConfigurationError: if a file is not there any more, or the manifest is not this run's plan.
    """
    figures = job.report.headline
    for name in ("rows_restored", "transactions", "longest_transaction_seconds"):
        figures.setdefault(name, 0)  # a second attempt adds to what the first one did
    with job.report.phase("restore rows"):
        _, lines = job.own_plan()
        there = {file.name: file for file in job.archives.find(job.settings.archive)}
        progress = Progress(job.log, "Rows restored", total=figures["rows_to_restore"])
        courtesy = Courtesy(job.settings, job.metadata, job.log, deadline=None)
        for line in lines:
            if line["file"] not in there:
                raise ConfigurationError(
                    f"The file {line['file']} of the archive is not there any more",
                    setting="archive",
                    remedy="Run the DAG again for a new plan; what was restored stays",
                )
            _restore(job, there[line["file"]], figures, progress, courtesy)
    job.log.info("Restored %s rows in %s transactions", f"{figures['rows_restored']:,}", figures["transactions"])
    job.report.finish("enforced")


def _restore(
    job: RestoreJob, file: ArchiveFile, figures: dict[str, Any], progress: Progress, courtesy: Courtesy
) -> None:
    """
    :raises StoreUnavailable: if the database stays busy with others.
    """
    header = file.header()
    if header is None or header.database != job.identity.owner:
        return
    for rows in _batches(job, file):
        going = [row for row, outcome in zip(rows, _outcomes(job, rows), strict=True) if outcome == Return.POSSIBLE]
        if not going:
            continue
        if not courtesy.go_on():
            raise StoreUnavailable(
                f"Not all rows were restored: {courtesy.stopped}", remedy="What returned stays; a re-run goes on"
            )
        started = time.monotonic()
        restored = job.metadata.restore(going)
        seconds = round(time.monotonic() - started, 3)
        figures["rows_restored"] += restored
        figures["transactions"] += 1
        figures["longest_transaction_seconds"] = max(figures["longest_transaction_seconds"], seconds)
        progress.add(restored)
