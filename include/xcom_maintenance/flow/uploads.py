"""What a report says of uploads in parts that nobody has finished, and how to end them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from include.xcom_maintenance.blobs.port import BlobStore, Uploads
from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.sizes import human_bytes
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.metadata.ports.shared import Metadata
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.settings.common import CommonSettings

_TITLE = "Unfinished multipart uploads"
_COLUMNS = ["below", "uploads", "bytes", "oldest (days)"]


def tell_of_uploads(job: Job[CommonSettings, Metadata]) -> None:
    """Count those below the base path and below the quarantine. Never raises; what is not known is a note."""
    stores = [store for store in (job.blobs, job.quarantine) if store is not None]
    found = [(store, uploads) for store in stores if (uploads := _look(store)) is not None]
    if not found:
        return
    report, known = job.report, [uploads for _, uploads in found if uploads.unknown is None]
    number = sum(uploads.number for uploads in known)
    report.headline["unfinished_uploads"] = number if known else None
    report.headline["unfinished_upload_bytes"] = sum(uploads.bytes for uploads in known) if known else None
    if not number and len(known) == len(found):
        return
    rows = [_row(store, uploads) for store, uploads in found if uploads.number or uploads.unknown]
    notes = [_unknown(uploads.unknown) for _, uploads in found if uploads.unknown]
    report.put(Table(_TITLE, _COLUMNS, rows, " ".join(dict.fromkeys([*notes, *([_ends(found)] if number else [])]))))
    if number:
        size = sum(uploads.bytes for uploads in known)
        least = "at least " if any(uploads.more or uploads.more_bytes for uploads in known) else ""
        report.warn(
            f"There {'is' if number == 1 else 'are'} {least}{counted(number, 'unfinished multipart upload')} of "
            f"{least}{human_bytes(size)}, which {'costs' if number == 1 else 'cost'} money and "
            f"{'is' if number == 1 else 'are'} in no listing. {_ends(found)}"
        )


def _look(store: BlobStore) -> Uploads | None:
    try:
        return store.unfinished_uploads()
    except MaintenanceError as error:
        return Uploads(unknown=error.problem)


def _row(store: BlobStore, uploads: Uploads) -> list[Any]:
    age = None if uploads.oldest is None else (datetime.now(UTC) - uploads.oldest) / timedelta(days=1)
    if uploads.unknown:
        return [str(store.base), None, None, None]
    return [str(store.base), uploads.number, uploads.bytes, None if age is None else round(age, 1)]


def _unknown(said: str) -> str:
    return f"What is empty is not known: the store said {said}. It takes the right s3:ListBucketMultipartUploads."


def _ends(found: list[tuple[BlobStore, Uploads]]) -> str:
    """How to end them."""
    uri = next(store.base.uri for store, uploads in found if uploads.number)
    return (
        "A lifecycle rule of the bucket with AbortIncompleteMultipartUpload ends them; or, one by one, "
        f"`aws s3api list-multipart-uploads --bucket {uri.bucket} --prefix {uri.key}/` and `aws s3api "
        f"abort-multipart-upload --bucket {uri.bucket} --key KEY --upload-id ID`."
    )
