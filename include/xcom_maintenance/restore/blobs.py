"""Restore blobs that a reconciliation moved to quarantine: the other half of ``xcom_restore``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore
from include.xcom_maintenance.core.errors import ConfigurationError, PartialFailure
from include.xcom_maintenance.core.records import Blob, Coordinates
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.restore.job import RestoreJob
from include.xcom_maintenance.restore.settings import RestoreSettings
from include.xcom_maintenance.sweep.owner import is_anothers, marked_owner
from include.xcom_maintenance.sweep.quarantine import FOLDER, folder_of, quarantined, returning

_AT_ONCE = 1_000
#: What moves blobs into quarantine.
_MOVERS = ("xcom_orphan_reconciliation", "xcom_cleanup")
_MANIFEST = ".manifest.jsonl.gz"


def plan(job: RestoreJob) -> None:
    """Find the blobs that can be restored, and write them down. Changes nothing.

    Whoever owns the base path, what is in quarantine may return: nothing is overwritten or lost by that. Only the owner
    takes it out of the quarantine.

    :raises ConfigurationError: if there is no such quarantine.
    """
    blobs, report, settings = job.blob_store, job.report, job.settings
    chosen = _folder(job, str(settings.quarantine))
    figures: Counter[str] = Counter(blobs_to_restore=0, blob_bytes_to_restore=0, blobs_there_already=0)
    by_dag: dict[str, list[Any]] = {}
    with report.phase("plan"), job.place.write_manifest() as manifest:
        manifest.add(**job.plan_header("quarantine", job.metadata.now()))
        for batch in _batches(_newest_first(job, chosen)):
            whose = _whose(job, [origin for _, origin in batch])
            wanted = [(blob, origin) for blob, origin in batch if _chosen(settings, whose[origin])]
            there = {found.key for found in blobs.head([origin for _, origin in wanted])}
            for blob, origin in wanted:
                if origin in there:
                    figures["blobs_there_already"] += 1
                    continue
                figures["blobs_to_restore"] += 1
                figures["blob_bytes_to_restore"] += blob.size
                row = by_dag.setdefault(owner.dag_id if (owner := whose[origin]) else "", [0, 0])
                row[0], row[1] = row[0] + 1, row[1] + blob.size
                modified = blob.last_modified.isoformat() if blob.last_modified else None
                manifest.add(
                    "blob", key=blob.key, origin=origin, bytes=blob.size, last_modified=modified, version=blob.version
                )
        report.manifest = manifest.path
    report.headline = dict(figures)
    if is_anothers(marked := marked_owner(blobs), job.identity.owner):
        report.warn(
            f"The blob base path has another owner, the metadata database {marked}. Blobs return, but their copies "
            "stay in the quarantine, and the owner's next reconciliation would take the blobs again. Give each Airflow "
            "a base path of its own."
        )
    rows = sorted(([dag_id, *row] for dag_id, row in by_dag.items()), key=lambda row: -row[1])
    report.put(Table("Quarantined blobs to restore", ["DAG", "blobs", "bytes"], rows[: settings.top_entries]))
    report.finish("planned" if job.enforcing else "reported")


def _folder(job: RestoreJob, text: str) -> str | None:
    """The quarantine folder that the form names; None for all."""
    if text.strip().lower() == "all":
        return None
    name = text.strip().rstrip("/").rsplit("/", 1)[-1]
    if FOLDER.fullmatch(name):
        return name
    # The name of a manifest, or a run id, which may contain slashes.
    run_id = name.removesuffix(_MANIFEST) if name.endswith(_MANIFEST) else text.strip()
    for dag_id in _MOVERS:
        with suppress(ConfigurationError):
            return folder_of(next(job.place.of(dag_id, run_id).read_manifest()))
    raise ConfigurationError(
        f"There is no manifest for run {run_id!r} of {' or '.join(_MOVERS)}",
        setting="quarantine",
        remedy="Enter a run id, a manifest, a quarantine folder, or all",
    )


def _newest_first(job: RestoreJob, chosen: str | None) -> Iterator[tuple[Blob, str]]:
    """Blobs with their original keys. Of several with the same key, the one quarantined last is restored."""
    formats = returning(job)
    found = () if chosen else quarantined(job, formats)
    folders = [chosen] if chosen else sorted({blob.key.partition("/")[0] for blob in found}, reverse=True)
    for folder in folders:
        for blob in job.quarantine_store.list(after=f"{folder}/", before=f"{folder}0"):  # "0" follows "/"
            origin = blob.key.partition("/")[2]
            if formats.read(origin) is not None:
                yield blob, origin


def _whose(job: RestoreJob, origins: list[str]) -> dict[str, Coordinates | None]:
    """The task instances of some blobs; ids that are cut in their names are whole where this Airflow knows them."""
    formats = returning(job)
    found = {origin: formats.coordinates_of(origin) for origin in origins}
    in_full = job.metadata.named_in_full({whose for whose in found.values() if whose is not None})
    return {origin: in_full.get(whose, whose) if whose else None for origin, whose in found.items()}


def _chosen(settings: RestoreSettings, whose: Coordinates | None) -> bool:
    if whose is None:
        return not (settings.dag_ids or settings.run_ids or settings.task_ids)
    return settings.chooses(whose.dag_id, whose.run_id, whose.task_id)


def _batches(stream: Iterable[Any]) -> Iterator[list[Any]]:
    items = iter(stream)
    while batch := list(islice(items, _AT_ONCE)):
        yield batch


def apply(job: RestoreJob) -> None:
    """Copy the planned blobs back, unless there is a blob at the key already, and remove them from our quarantine.

    :raises PartialFailure: if some could not be restored.
    """
    blobs, quarantine, figures = job.blob_store, job.quarantine_store, job.report.headline
    for name in ("blobs_restored", "blob_bytes_restored"):
        figures.setdefault(name, 0)  # a second attempt adds to the first
    failed = 0
    with job.report.phase("restore blobs"):
        _, lines = job.own_plan()
        ours = not is_anothers(marked_owner(blobs), job.identity.owner)
        progress = Progress(job.log, "Blobs restored", total=figures["blobs_to_restore"])
        for batch in _batches(lines):
            failed += _put_back(batch, blobs, quarantine, figures, takes_out=ours)
            progress.add(len(batch))
    # What was planned and did not happen.
    there = figures["blobs_to_restore"] - figures["blobs_restored"] - failed
    reasons = {"a blob is there already": there, "it changed or went from the quarantine": failed}
    if rows := [[why, number] for why, number in reasons.items() if number > 0]:
        job.report.put(Table("Blobs not restored", ["reason", "blobs"], rows), first=True)
    if failed:
        raise PartialFailure(
            f"Could not restore {counted(failed, 'blob')} (restored {figures['blobs_restored']:,})",
            setting="blob_base_path",
            remedy="Blobs in quarantine changed or were deleted during the run. Run the DAG again",
        )
    job.report.finish("enforced")


def _put_back(
    lines: list[dict[str, Any]], blobs: BlobStore, quarantine: BlobStore, figures: dict[str, Any], *, takes_out: bool
) -> int:
    """Returns how many could not be restored.

    :param takes_out: whether restored blobs are removed from quarantine.
    """
    there = {found.key for found in blobs.head([line["origin"] for line in lines])}
    back, failed = [], 0
    for line in lines:
        if (
            line["origin"] in there
        ):  # restored by an earlier attempt, or written anew: an existing blob is never touched
            continue
        modified = datetime.fromisoformat(line["last_modified"]) if line["last_modified"] else None
        blob = Blob(line["key"], line["bytes"], modified, line["version"])
        if quarantine.copy_to(blob, target=blobs.base, key=line["origin"]):
            there.add(line["origin"])
            back.append(blob)
            figures["blobs_restored"] += 1
            figures["blob_bytes_restored"] += blob.size
        else:
            failed += 1
    if takes_out:
        for _ in quarantine.delete_unchanged(back):
            pass
    return failed
