"""Restore rows that a cleanup deleted and archived.

``plan`` reads the archive and counts. ``apply`` reads the same files again and restores, newest file first: if several
hold the same row, its last value is restored. Existing rows are never touched, so a run that is killed and repeated
ends in the same state.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import ConfigurationError, StoreUnavailable
from include.xcom_maintenance.core.records import ArchivedRow
from include.xcom_maintenance.core.references import reference_in
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.courtesy import Courtesy
from include.xcom_maintenance.flow.guard import Objection
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.metadata.ports.restore import Return
from include.xcom_maintenance.reports.archive_file import ArchiveFile, ArchiveHeader
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.restore.job import RestoreJob
from include.xcom_maintenance.retention.current import policy_of

_BLOB_MISSING = "blob missing"
_IN_PART = "other rows of its mapped task cannot be restored"
_OUTCOMES = {
    "rows_to_restore": Return.POSSIBLE,
    "rows_there_already": Return.EXISTS,
    "rows_whose_run_is_gone": Return.NO_RUN,
    "rows_whose_task_instance_is_gone": Return.NO_TASK_INSTANCE,
    "rows_whose_blob_is_gone": _BLOB_MISSING,
    "rows_left_with_their_group": _IN_PART,
}
_COLUMNS = [
    "can be restored",
    "already in the table",
    "run deleted",
    "task instance deleted",
    "blob missing",
    "mapped result incomplete",
]


# -- plan --------------------------------------------------


def plan(job: RestoreJob) -> None:
    """Find out which archived rows can be restored, and write it down. Changes nothing."""
    report, settings = job.report, job.settings
    with report.phase("find the archive"):
        # The headers also reveal a file that is no archive, before anything else is done.
        files = [(file, file.header()) for file in job.archives.find(settings.archive)]
        files.sort(key=lambda item: (item[1].archived_at if item[1] else "", item[0].name), reverse=True)
    found: Counter[tuple[str, str]] = Counter()
    figures: Counter[str] = Counter(files=len(files))
    with report.phase("plan"), job.place.write_manifest() as manifest:
        manifest.add(**job.plan_header("restore", job.metadata.now()))
        progress = Progress(job.log, "Archived rows checked")
        for file, header in files:
            before = found.total()
            torn: set[_Group] = set()
            whole: Counter[_Group] = Counter()
            in_part: set[_Group] = set()
            if header is None or header.database == job.identity.owner:
                for rows in _batches(job, file):
                    outcomes = _outcomes(job, rows, header, torn, figures)
                    found.update((row.dag_id, outcome) for row, outcome in zip(rows, outcomes, strict=True))
                    whole.update(
                        _group(row)
                        for row, outcome in zip(rows, outcomes, strict=True)
                        if outcome == Return.POSSIBLE and row.map_index >= 0
                    )
                    in_part.update(
                        _group(row) for row, outcome in zip(rows, outcomes, strict=True) if outcome == _IN_PART
                    )
                    progress.add(len(rows))
                figures["rows_not_chosen"] += file.rows - (found.total() - before)
            else:
                figures["rows_of_other_databases"] += _count(file)
            figures["rows_in_archive"] += file.rows
            figures["files_cut_short"] += file.cut_short
            if file.cut_short:  # other rows of the same groups may be in what is missing
                torn |= set(whole)
            # What came before it was known that another row of its group cannot return.
            for group in sorted(torn):
                found[group[0], Return.POSSIBLE] -= whole[group]
                found[group[0], _IN_PART] += whole[group]
            left = [list(group) for group in sorted(torn) if whole[group] or group in in_part]
            manifest.add("archive", file=file.name, rows=file.rows, cut_short=file.cut_short, in_part=left)
        report.manifest = manifest.path
    with report.phase("guard"):
        _describe(job, found, figures)
        job.object_to(_judge(job, [header for _, header in files if header is not None]))
    report.finish("planned" if job.enforcing else "reported")


def _batches(job: RestoreJob, file: ArchiveFile) -> Iterator[list[ArchivedRow]]:
    settings = job.settings
    return file.batches(max_rows=settings.batch_rows, max_bytes=settings.batch_bytes, wanted=settings.chooses)


def _count(file: ArchiveFile) -> int:
    """How many rows a file of another database has."""
    for _ in file.batches(max_rows=1, max_bytes=1, wanted=lambda *_: False):
        pass
    return file.rows


#: DAG, run, task and key: rows of a mapped task that return together or not at all, else a task that pulls them would
#: take some for all of them. What went in one transaction is in one file, so they are.
_Group = tuple[str, str, str, str]


def _group(row: ArchivedRow) -> _Group:
    return row.dag_id, row.run_id, row.task_id, row.key


def _outcomes(
    job: RestoreJob,
    rows: Sequence[ArchivedRow],
    header: ArchiveHeader | None,
    torn: set[_Group],
    figures: Counter[str] | None = None,
) -> list[str]:
    """What would become of each row now: a ``Return``, or that its blob is gone, or another's of its group.

    :param header: of their file.
    :param torn: the groups in this file of which a row cannot return, as far as they are known; more are added.
    :param figures: counts the rows that can return and whose blob nobody can look for.
    """
    outcomes: list[str] = list(job.metadata.restorable(rows, archived_at=header.archived_at if header else None))
    if job.blobs is not None:
        _look_for_blobs(job.blobs, rows, outcomes, figures)
    torn |= {
        _group(row)
        for row, outcome in zip(rows, outcomes, strict=True)
        if row.map_index >= 0 and outcome not in (Return.POSSIBLE, Return.EXISTS)
    }
    return [
        _IN_PART
        if outcome == Return.PUSHED_ANEW or (outcome == Return.POSSIBLE and row.map_index >= 0 and _group(row) in torn)
        else outcome
        for row, outcome in zip(rows, outcomes, strict=True)
    ]


def _look_for_blobs(
    blobs: BlobStore, rows: Sequence[ArchivedRow], outcomes: list[str], figures: Counter[str] | None
) -> None:
    """Find those of the rows that could return whose blob is gone."""
    possible = (number for number, outcome in enumerate(outcomes) if outcome == Return.POSSIBLE)
    held = {number: found for number in possible if (found := reference_in(rows[number].value)) is not None}
    keys = {number: key for number, found in held.items() if (key := found.below(blobs.base)) is not None}
    there = {blob.key for blob in blobs.head(list(dict.fromkeys(keys.values())))} if keys else set()
    unknown = 0
    for number, found in held.items():
        if number in keys and keys[number] in there:
            continue
        if number in keys and found.says_where:
            # A task that pulls it would be given the path as if that were the value, or fail.
            outcomes[number] = _BLOB_MISSING
        else:
            # A bare key, whose blob may lie anywhere; and what our own backend keeps below another path. Any other
            # address may be a user's own text.
            unknown += found.own or not found.says_where
    if figures is not None:
        figures["unknown_blobs"] += unknown


def _describe(job: RestoreJob, found: Counter[tuple[str, str]], figures: Counter[str]) -> None:
    """Add what was found to the report and the log."""
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
    note = f"The top {top} of {len(by_dag):,} DAGs." if len(by_dag) > top else ""
    report.put(Table("Archived rows, by DAG", ["DAG", *_COLUMNS], by_dag[:top], note))
    if figures["files_cut_short"]:
        report.warnings.append(
            f"{counted(figures['files_cut_short'], 'archive file')} cut short or damaged, as listed in the manifest. "
            "Whatever can be read is restored, except results of mapped tasks, of which rows may be missing."
        )
    if job.blobs is None:
        report.warnings.append(
            "No blob store is configured (blob_base_path, or [common.io] xcom_objectstorage_path), so the plan does "
            "not check whether the blobs that the rows refer to still exist."
        )
    if unknown := figures["unknown_blobs"]:
        report.warnings.append(
            f"{counted(unknown, 'row')} to restore {'refers' if unknown == 1 else 'refer'} to a blob outside the blob "
            "base path, as far as the row says where it is, so the plan does not check whether that blob still exists."
        )
    if totals[_BLOB_MISSING] and next(job.quarantine_store.list(), None) is not None:
        report.warnings.append(
            "Blobs in quarantine count as missing. If those of these rows may be there, put the blobs back first (the "
            "field quarantine), and then the rows."
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
            "Restored rows keep their original timestamps, so the next enforcing cleanup would delete them again. To "
            f"prevent that, put a retention rule with hold: true first for these DAGs: {shown}."
        )


def _judge(job: RestoreJob, headers: Sequence[ArchiveHeader]) -> list[Objection]:
    others = Counter(header.database for header in headers if header.database != job.identity.owner)
    return [
        Objection(
            f"The archive has {counted(files, 'file')} from the metadata database {database}, but the connection "
            f"points to {job.identity.owner}",
            "archive",
            "Choose an archive of this database, or fix metadata_conn_id",
        )
        for database, files in others.items()
    ]


# -- apply --------------------------------------------------


def apply(job: RestoreJob) -> None:
    """Restore those rows of the planned files that still can be restored.

    :raises ConfigurationError: if a file no longer exists, or the manifest is not this run's plan.
    """
    figures = job.report.headline
    for name in ("rows_restored", "transactions", "longest_transaction_seconds"):
        figures.setdefault(name, 0)  # a second attempt adds to the first
    with job.report.phase("restore rows"):
        _, lines = job.own_plan()
        there = {file.name: file for file in job.archives.find(job.settings.archive)}
        progress = Progress(job.log, "Rows restored", total=figures["rows_to_restore"])
        courtesy = Courtesy(job.settings, job.metadata, job.log, deadline=None)
        for line in lines:
            if line["file"] not in there:
                raise ConfigurationError(
                    f"The archive file {line['file']} no longer exists",
                    setting="archive",
                    remedy="Run the DAG again for a new plan. Rows already restored stay",
                )
            torn = {(dag_id, run_id, task_id, key) for dag_id, run_id, task_id, key in line.get("in_part", ())}
            _restore(job, there[line["file"]], torn, figures, progress, courtesy)
    job.log.info(
        "Restored %s in %s", counted(figures["rows_restored"], "row"), counted(figures["transactions"], "transaction")
    )
    job.report.finish("enforced")


def _restore(
    job: RestoreJob,
    file: ArchiveFile,
    torn: set[_Group],
    figures: dict[str, Any],
    progress: Progress,
    courtesy: Courtesy,
) -> None:
    """Restore the rows of one file.

    :raises StoreUnavailable: if the database stays busy with other work.
    """
    header = file.header()
    if header is None or header.database != job.identity.owner:
        return
    for rows in _batches(job, file):
        outcomes = _outcomes(job, rows, header, torn)
        going = [row for row, outcome in zip(rows, outcomes, strict=True) if outcome == Return.POSSIBLE]
        if not going:
            continue
        if not courtesy.go_on():
            raise StoreUnavailable(
                f"Not all rows were restored: {courtesy.stopped}",
                remedy="Rows already restored stay. Run the DAG again for the rest",
            )
        started = time.monotonic()
        restored = job.metadata.restore(going, archived_at=header.archived_at)
        seconds = round(time.monotonic() - started, 3)
        figures["rows_restored"] += restored
        figures["transactions"] += 1
        figures["longest_transaction_seconds"] = max(figures["longest_transaction_seconds"], seconds)
        progress.add(restored)
