"""Whether the value of a row refers to a blob, and to which: one answer for everybody who asks.

What backends write instead of a value, as the whole value of a row:

* the address of the blob, a string: the stock backend,
* an object around the address: this project's own backend,
* an object that names a bucket and a key, or a bare key, perhaps with a scheme of its own such as ``xcom_s3://``:
  other backends in the field.

An address anywhere else in a value is a mention: it keeps a blob, and makes no row a reference.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from include.xcom_maintenance.core.blob_uri import BasePath, BlobUri, InvalidBlobUri

#: What this project's own backend calls the object that it writes instead of a value.
OWN_CLASS = "xcom_blob_backend.BlobReference"
#: Names under which other backends keep bucket and key; of several the first counts.
BUCKET_NAMES = ("bucket", "bucket_name", "s3_bucket", "container", "Bucket")
KEY_NAMES = ("key", "s3_key", "object_key", "object_name", "blob_name", "path", "Key")
#: Keys that do not say in which bucket and below which prefix they lie; the group is the key.
BARE_KEY = re.compile(r"(?:xcom_[a-z0-9]+://(?P<named>.+)|(?P<bare>(?:s3|gcs|gs|azure|wasb)_xcom_.+))", re.DOTALL)
#: A value that is longer as JSON is no reference: a key of S3 has 1,024 bytes at most.
LONGEST = 4_096


@dataclass(frozen=True, slots=True)
class HeldReference:
    """What a row refers to."""

    #: Of an object store; as it stands in the row.
    key: str
    #: None: the row does not say.
    bucket: str | None = None
    #: None: the row does not say.
    scheme: str | None = None
    #: Whether this project's own backend wrote it.
    own: bool = False

    @property
    def says_where(self) -> bool:
        """Whether the row says where the blob lies, so that a missing blob is known to be gone."""
        return self.bucket is not None

    def below(self, base: BasePath) -> str | None:
        """The key relative to a base path; None if the blob lies elsewhere. A bare key is taken to lie there."""
        if self.bucket is None:
            return self.key.removeprefix(base.prefix) or None
        if not base.contains(BlobUri(self.scheme or base.uri.scheme, self.bucket, self.key)):
            return None
        return self.key.removeprefix(base.prefix)


def reference_of(value: object) -> HeldReference | None:
    """What a row refers to whose whole value this is; None if it is a value of its own.

    :param value: as JSON reads it.
    """
    if isinstance(value, str):
        return _of_text(value)
    if not isinstance(value, dict):
        return None
    if value.get("__classname__") == OWN_CLASS:
        data = value.get("__data__")
        uri = data.get("uri") if isinstance(data, dict) else None
        return _of_address(uri, own=True) if isinstance(uri, str) else None
    bucket, key = _first(value, BUCKET_NAMES), _first(value, KEY_NAMES)
    return HeldReference(key, bucket) if bucket and key and _is_plain(key) else None


def reference_in(text: str | None) -> HeldReference | None:
    """The same of a value as JSON text; None also for a text that is too long to be a reference, or no JSON."""
    if text is None or len(text) > LONGEST or text[:1] not in ('"', "{"):
        return None
    try:
        return reference_of(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _of_text(text: str) -> HeldReference | None:
    bare = BARE_KEY.fullmatch(text)
    if bare is None:
        return _of_address(text)
    key = bare["named"] or bare["bare"]
    return HeldReference(key) if _is_plain(key) else None


def _of_address(text: str, *, own: bool = False) -> HeldReference | None:
    try:
        uri = BlobUri.parse(text)
    except InvalidBlobUri:
        return None
    return HeldReference(uri.key, uri.bucket, uri.scheme, own) if uri.key else None


def _is_plain(key: str) -> bool:
    return not {"", ".", ".."} & set(key.split("/"))


def _first(value: dict[str, object], names: tuple[str, ...]) -> str | None:
    """The first of some fields that is there and not null, if it is a text."""
    found = next((value[name] for name in names if value.get(name) is not None), None)
    return found if isinstance(found, str) else None
