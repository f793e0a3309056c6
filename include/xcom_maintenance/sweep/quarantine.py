"""The quarantine: the key of a blob there tells where the blob came from and since when it is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.core.reference_formats import FORMERLY_KNOWN, Formats
from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.shared import Metadata
from include.xcom_maintenance.settings.common import CommonSettings

FOLDER = re.compile(r"(?P<planned>\d{8}T\d{6}Z)-[0-9a-f]{8}")
_TIME = "%Y%m%dT%H%M%SZ"


def folder_of(header: dict[str, Any]) -> str:
    """The quarantine folder of a plan. Folders sort by time, and each plan has its own.

    :param header: of the plan's manifest.
    """
    planned = datetime.fromisoformat(header["planned_at"]).astimezone(UTC)
    return f"{planned:{_TIME}}-{header['plan_id'][:8]}"


def origin_of(key: str, formats: Formats) -> str | None:
    """The original key of a quarantined blob; None for an object that no sweep put there."""
    folder, _, origin = key.partition("/")
    return origin if FOLDER.fullmatch(folder) and formats.read(origin) is not None else None


def returning(job: Job[CommonSettings, Metadata]) -> Formats:
    """In which blobs are named that may return from the quarantine: also what an earlier version took for one."""
    return job.settings.formats.and_also(FORMERLY_KNOWN)


def quarantined(
    job: Job[CommonSettings, Metadata], formats: Formats, *, planned_before: datetime | None = None
) -> Iterator[Blob]:
    """The quarantined blobs, oldest first.

    :param planned_before: only those of plans made before this time (UTC).
    """
    before = f"{planned_before.astimezone(UTC):{_TIME}}" if planned_before else None
    return (blob for blob in job.quarantine_store.list(before=before) if origin_of(blob.key, formats) is not None)
