"""The start of a step: check that the report can be written and the stores can be used, and open them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from include.xcom_maintenance.blobs.opening import ConfiguredBlobs, doubts, open_blobs
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.flow import notifier
from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.opening import open_metadata
from include.xcom_maintenance.metadata.ports import MetadataStore
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.reports.roots import archive_root
from include.xcom_maintenance.settings.common import CommonSettings
from include.xcom_maintenance.settings.layers import Resolved

log = logging.getLogger("xcom_maintenance")
_S = TypeVar("_S", bound=CommonSettings)


def _never(_: CommonSettings) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs(Generic[_S]):
    """What the tasks of a DAG need; write privileges in the metadata database only when it enforces."""

    #: Whether rows are deleted; may depend on the settings.
    deletes: Callable[[_S], bool] = _never
    #: Whether rows are inserted; may depend on the settings.
    inserts: Callable[[_S], bool] = _never
    #: Whether values in rows are replaced.
    updates: bool = False
    #: Whether the DAG reads blobs through our own adapters; None: if it can, else it does without.
    blobs: bool | None = True
    #: Whether a plan warns if no run has enforced for a long time.
    looks_back: bool = False
    #: Whether a crossed threshold fails the run.
    fails_on_breach: Callable[[_S], bool] = _never

    def rights(self, settings: _S, mode: str) -> dict[str, bool]:
        """The rights that are needed, by the names that ``Metadata.check`` has for them."""
        wanted = {
            "may_delete": self.deletes(settings),
            "may_insert": self.inserts(settings),
            "may_update": self.updates,
        }
        return {right: needed and mode == "enforce" for right, needed in wanted.items()}


def begin(report: Report, place: ReportPlace, settings: CommonSettings) -> None:
    """Make sure, before any work, that the report can be written and the notifier works."""
    place.write(report)
    notifier.check(settings)
    if settings.notifier is not None:
        place.file(".told").unlink(missing_ok=True)  # left by a run that was cleared


@contextmanager
def open_job(
    resolved: Resolved[_S], report: Report, place: ReportPlace, needs: Needs[_S], *, is_first: bool
) -> Iterator[Job[_S, MetadataStore]]:
    """Open the stores, and check them.

    :param is_first: whether it is the first step of the run.
    """
    with open_metadata(resolved.settings) as metadata:
        with report.phase("check" if is_first else "check again"):
            if needs.blobs is None:
                configured = _blobs_if_possible(resolved, report)
            else:
                configured = open_blobs(resolved) if needs.blobs else None
            rights = needs.rights(resolved.settings, report.mode)
            identity = metadata.check(**rights, reads_references=configured is not None and needs.blobs is True)
            if configured is not None and needs.blobs:
                configured.store.check()
                if is_first:
                    report.warnings += doubts(resolved, configured)
        yield Job(
            settings=resolved.settings,
            metadata=metadata,
            identity=identity,
            blobs=configured.store if configured else None,
            quarantine=configured.quarantine if configured else None,
            ignored_prefixes=configured.ignored_prefixes if configured else (),
            report=report,
            place=place,
            archives=Archives(archive_root(resolved.settings)),
            log=log,
        )


def _blobs_if_possible(resolved: Resolved[CommonSettings], report: Report) -> ConfiguredBlobs | None:
    """The blob store if it can be read; else a warning."""
    try:
        configured = open_blobs(resolved)
        if configured is not None:
            configured.store.check()
        return configured
    except MaintenanceError as error:
        report.warnings.append(f"Blobs were left out: {error}")
        return None
