"""Delete what has been in quarantine long enough."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.reconciliation.job import ReconciliationJob
from include.xcom_maintenance.sweep.quarantine import quarantined
from include.xcom_maintenance.sweep.sweep import Kept, Swept, ledger_of, sweep


class Counted:
    """A stream of blobs, counted as it passes."""

    def __init__(self, blobs: Iterator[Blob]) -> None:
        self._blobs = blobs
        self.number = 0

    def __iter__(self) -> Iterator[Blob]:
        for blob in self._blobs:
            self.number += 1
            yield blob


def purge(job: ReconciliationJob) -> int:
    """Delete what has been in quarantine for ``quarantine_days``, unless a row refers to it again.

    :returns: how many could not be deleted.
    """
    report, settings = job.report, job.settings
    swept = Swept()
    now = job.metadata.now()
    cutoff = now - timedelta(days=settings.quarantine_days)
    reason = f"in quarantine for {settings.quarantine_days:g} days"
    ledger = ledger_of(job, job.quarantine_store, part="purge", reason=reason)
    try:
        with report.phase("purge quarantine"), ledger:
            found = Counted(quarantined(job, settings.formats, planned_before=cutoff))
            sweep(
                iter(found),
                into=swept,
                blobs=job.quarantine_store,
                metadata=job.metadata,
                modified_before=cutoff,  # the time of the copy
                progress=Progress(job.log, "Quarantined blobs checked"),
                ledger=ledger,
                formats=settings.formats,
                original=lambda key: key.partition("/")[2],
                stuck_before=now - settings.grace_period,
            )
            # Those that an earlier attempt deleted are not listed any more.
            swept.account_for(found.number + ledger.earlier, ledger)
    finally:
        report.headline["quarantined_blobs_deleted"] = ledger.blobs["deleted"]
        report.headline["quarantined_blob_bytes_deleted"] = ledger.bytes["deleted"]
    if swept.left[Kept.REFERENCED]:
        report.warnings.append(
            f"Referenced by a row again, and so kept in quarantine: {counted(swept.left[Kept.REFERENCED], 'blob')}. "
            "Use xcom_restore to put them back."
        )
    if swept.left:
        swept.describe(report, job.log, "Blobs kept in quarantine", gone=ledger.blobs["deleted"])
    return swept.failed
