"""ETags as versions of blobs: without their quotes, which some servers and clients leave out here and not there."""

from __future__ import annotations


def unquoted(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None
