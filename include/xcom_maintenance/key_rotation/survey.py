"""Find out which key holds what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from itertools import islice
from typing import Any

from include.xcom_maintenance.core.errors import StoreUnavailable
from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.key_rotation.holdings import Holdings
from include.xcom_maintenance.key_rotation.job import RotationJob
from include.xcom_maintenance.reports.place import ManifestWriter
from include.xcom_maintenance.xcom_backend.port import Trouble, Vault

KIND = "values"


#: Headers that are asked for at a time.
_HEADERS_AT_ONCE = 500


#: The most values of a batch, whatever ``batch_rows`` says: of a batch that breaks off all new blobs are orphans.
_VALUES_AT_ONCE = 500


#: Failures of the store in one batch from which on it is no use to go on.
_STORE_FAILURES = 8


class Lines:
    """Writes what is to be re-encrypted into the manifest: a line is what is changed in one transaction."""

    def __init__(self, job: RotationJob, manifest: ManifestWriter) -> None:
        self._manifest = manifest
        self._max_rows = min(job.settings.batch_rows, _VALUES_AT_ONCE)
        self._max_bytes = job.settings.batch_bytes
        self._places: list[tuple[Any, ...]] = []
        self._bytes = 0

    def add(self, place: ValuePlace, size: int) -> None:
        if self._places and (len(self._places) >= self._max_rows or self._bytes + size > self._max_bytes):
            self.flush()
        self._places.append(astuple(place))
        self._bytes += size

    def flush(self) -> None:
        if self._places:
            self._manifest.add(KIND, values=len(self._places), bytes=self._bytes, places=self._places)
        self._places, self._bytes = [], 0


def survey(job: RotationJob, vault: Vault, lines: Lines | None = None) -> Holdings:
    """What each key holds.

    :param lines: takes what is to be re-encrypted.
    """
    holdings = Holdings(vault.sealing, vault.configured)
    progress = Progress(job.log, "Values checked")
    found = iter(job.metadata.stored_rows())
    while rows := list(islice(found, _HEADERS_AT_ONCE)):
        seals = vault.seals(rows)
        stop_if_the_store_is_down(seal.trouble for seal in seals)
        for row, seal in zip(rows, seals, strict=True):
            holdings.add(row, seal)
            if lines is not None and row.place is not None and holdings.goes(row, seal):
                lines.add(row.place, seal.bytes)
        progress.add(len(rows))
    if lines is not None:
        lines.flush()
    return holdings


def stop_if_the_store_is_down(troubles: Iterable[Trouble | None]) -> None:
    failures = sum(trouble is Trouble.UNREACHABLE for trouble in troubles)
    if failures >= _STORE_FAILURES:
        raise StoreUnavailable(
            f"The XCom backend's store failed {failures} times in one batch",
            setting="[xcom_blob_backend] path",
            remedy="See the task log. Values re-encrypted so far are kept, and the task is retried",
        )
