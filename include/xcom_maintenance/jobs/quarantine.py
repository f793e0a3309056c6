"""The quarantine: where it keeps a blob, which says where the blob came from, and how long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.core.reference_formats import Formats
from include.xcom_maintenance.jobs.job import Job, Progress
from include.xcom_maintenance.jobs.sweep import Kept, Swept, ledger_of, sweep

FOLDER = re.compile(r"(?P<planned>\d{8}T\d{6}Z)-[0-9a-f]{8}")
_TIME = "%Y%m%dT%H%M%SZ"


def folder_of(header: dict[str, Any]) -> str:
    """The folder of a plan's blobs: folders sort by time, and each plan has its own.

    :param header: of the plan's manifest.
    """
    planned = datetime.fromisoformat(header["planned_at"]).astimezone(UTC)
    return f"{planned:{_TIME}}-{header['plan_id'][:8]}"


def origin_of(key: str, formats: Formats) -> str | None:
    """The key below the base path of a blob in quarantine; None for an object that no sweep has put there."""
    folder, _, origin = key.partition("/")
    return origin if FOLDER.fullmatch(folder) and formats.read(origin) is not None else None


def quarantined(job: Job, *, planned_before: datetime | None = None) -> Iterator[Blob]:
    """What sweeps have put into quarantine, the oldest first.

    :param planned_before: only by plans made before then (UTC).
    """
    assert job.quarantine is not None  # noqa: S101 - there is one wherever there is a blob store
    before = f"{planned_before.astimezone(UTC):{_TIME}}" if planned_before else None
    formats = job.settings.formats
    return (blob for blob in job.quarantine.list(before=before) if origin_of(blob.key, formats) is not None)


def purge(job: Job) -> int:
    """Delete what has been in quarantine for ``quarantine_days``, unless a row refers to it after all.

    :returns: how many could not be deleted.
    """
    assert job.quarantine is not None  # noqa: S101 - whoever calls this has one
    report, settings = job.report, job.settings
    swept = Swept()
    cutoff = job.metadata.now() - timedelta(days=settings.quarantine_days)
    reason = f"in quarantine for {settings.quarantine_days:g} days"
    ledger = ledger_of(job, job.quarantine, part="purge", reason=reason)
    try:
        with report.phase("purge quarantine"), ledger:
            sweep(
                quarantined(job, planned_before=cutoff),
                into=swept,
                blobs=job.quarantine,
                metadata=job.metadata,
                modified_before=cutoff,  # that is when it was copied
                progress=Progress(job.log, "Blobs in quarantine looked at"),
                ledger=ledger,
                formats=settings.formats,
                original=lambda key: key.partition("/")[2],
            )
    finally:
        report.headline["quarantined_blobs_deleted"] = ledger.blobs["deleted"]
        report.headline["quarantined_blob_bytes_deleted"] = ledger.bytes["deleted"]
    if swept.left[Kept.REFERENCED]:
        report.warnings.append(
            f"{swept.left[Kept.REFERENCED]:,} blobs in quarantine are meant by a value again and stay there: put them "
            "back with xcom_restore."
        )
    if swept.failed:
        swept.describe(report, job.log, "Blobs that stay in quarantine", gone=ledger.blobs["deleted"])
    return swept.failed
