"""The beginning of a step: the report can be written, the stores can be used, and the job gets them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from include.xcom_maintenance import notify, stores
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.jobs.job import Job
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.settings import Resolved, Settings
from include.xcom_maintenance.tasks.needs import Needs

log = logging.getLogger("xcom_maintenance")


def begin(report: Report, place: ReportPlace, settings: Settings) -> None:
    """Prove, before any work, that the report can be written and that somebody can be told."""
    place.write(report)
    notify.check(settings)
    if settings.notifier is not None:
        place.file(".told").unlink(missing_ok=True)  # by a run that was cleared and runs again


@contextmanager
def open_job(resolved: Resolved, report: Report, place: ReportPlace, needs: Needs, *, is_first: bool) -> Iterator[Job]:
    """Open the stores, and check them.

    :param is_first: whether it is the first step of the run.
    """
    with stores.open_metadata(resolved.settings) as metadata:
        with report.phase("check" if is_first else "check again"):
            if needs.blobs is None:
                configured = _blobs_if_possible(resolved, report)
            else:
                configured = stores.open_blobs(resolved) if needs.blobs else None
            rights = needs.rights(resolved.settings, report.mode)
            identity = metadata.check(**rights, reads_references=configured is not None and needs.blobs is True)
            if configured is not None and needs.blobs:
                configured.store.check()
                if is_first:
                    report.warnings += stores.doubts(resolved, configured)
        yield Job(
            settings=resolved.settings,
            metadata=metadata,
            identity=identity,
            blobs=configured.store if configured else None,
            quarantine=configured.quarantine if configured else None,
            ignored_prefixes=configured.ignored_prefixes if configured else (),
            report=report,
            place=place,
            archives=Archives(stores.archive_root(resolved.settings)),
            log=log,
        )


def _blobs_if_possible(resolved: Resolved, report: Report) -> stores.ConfiguredBlobs | None:
    """The blob store if it can be read; else a warning."""
    try:
        configured = stores.open_blobs(resolved)
        if configured is not None:
            configured.store.check()
        return configured
    except MaintenanceError as error:
        report.warnings.append(f"Blobs are left out: {error}")
        return None
