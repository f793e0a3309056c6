"""Multipart uploads that nobody has finished: what they take is paid for, and no listing of objects shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from include.xcom_maintenance.blobs.port import Uploads
from include.xcom_maintenance.blobs.s3.requests import S3Requests, code_of

#: Pages of 1,000 uploads that are read at most.
_PAGES = 20
#: Of so many uploads the parts are looked up, a request for each.
_MEASURED = 50


def unfinished_uploads(requests: S3Requests) -> Uploads:
    """Count them below the base path, page by page."""
    from botocore.exceptions import ClientError

    found = Uploads()
    request: dict[str, Any] = {"Bucket": requests.bucket, "Prefix": requests.base.prefix}
    with requests.errors():
        try:
            for _ in range(_PAGES):
                page: dict[str, Any] = {**requests.client.list_multipart_uploads(**request)}
                for upload in page.get("Uploads", ()):
                    _add(requests, upload, found)
                markers = {name: page.get(f"Next{name}") for name in ("KeyMarker", "UploadIdMarker")}
                found.more = bool(page.get("IsTruncated")) and bool(markers["KeyMarker"])
                if not found.more:
                    break
                request |= {name: text for name, text in markers.items() if text}
        except ClientError as error:
            if not found.number:
                found.unknown = code_of(error)
            found.more = found.more_bytes = True
    return found


def _add(requests: S3Requests, upload: dict[str, Any], found: Uploads) -> None:
    if not upload["Key"].startswith(requests.base.prefix):  # a server that takes no prefix here
        return
    began: datetime | None = upload.get("Initiated")
    if began is not None:
        began = began.astimezone(UTC)
        found.oldest = began if found.oldest is None else min(found.oldest, began)
    if found.number < _MEASURED:
        _measure(requests, upload, found)
    else:
        found.more_bytes = True
    found.number += 1


def _measure(requests: S3Requests, upload: dict[str, Any], found: Uploads) -> None:
    from botocore.exceptions import ClientError

    try:
        parts: dict[str, Any] = {
            **requests.client.list_parts(Bucket=requests.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        }
    except ClientError:  # it has ended meanwhile, or there is no right to look
        found.more_bytes = True
        return
    found.bytes += sum(part.get("Size", 0) for part in parts.get("Parts", ()))
    found.more_bytes |= bool(parts.get("IsTruncated"))
