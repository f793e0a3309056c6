"""Where a blob lies, in one normal form: (scheme, bucket, key).

Every comparison of references and blobs goes through this module, so that ``s3a://conn@bucket/x`` in a row and ``x``
in the listing of ``bucket`` are known to be the same blob, and so that nothing outside the base path is ever taken for
ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from include.xcom_maintenance.core.errors import ConfigurationError

# urllib's urlsplit is no help here: it cuts keys at "?" and "#", which object stores allow.
#: What may stand before the "@". Anything else may be a key or a password that somebody put there.
CONNECTION_ID = re.compile(r"[\w.\-]+")
_URI = re.compile(r"(?s)([A-Za-z][A-Za-z0-9+.\-]*)://([^/]*)(?:/(.*))?")

#: Spellings of one store. Airflow's ObjectStoragePath takes all three for S3, and abfs and abfss for Azure; az is
#: adlfs's own, and wasb and wasbs are Airflow's older names for the same.
_SAME_SCHEME = {
    "s3a": "s3",
    "s3n": "s3",
    "gcs": "gs",
    "abfss": "abfs",
    "az": "abfs",
    "wasb": "abfs",
    "wasbs": "abfs",
    "local": "file",
}


class InvalidBlobUri(ValueError):
    """A text that is no blob's address; its message says why."""


@dataclass(frozen=True, slots=True)
class BlobUri:
    """The address of one blob. ``conn_id`` says how to reach it, not where it is: it takes no part in comparisons."""

    scheme: str
    bucket: str
    key: str
    conn_id: str | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, text: str) -> BlobUri:
        """Parse ``scheme://[conn_id@]bucket/key``; for local files the bucket is empty.

        :raises InvalidBlobUri: for anything else, and for keys with empty, ``.`` or ``..`` segments, which name
            different things to different clients.
        """
        match = _URI.fullmatch(text)
        if match is None:
            raise InvalidBlobUri("it does not have the form scheme://bucket/key")
        scheme, authority, key = match.group(1).lower(), match.group(2), match.group(3) or ""
        conn_id, _, bucket = authority.rpartition("@")
        if conn_id and not CONNECTION_ID.fullmatch(conn_id):
            raise InvalidBlobUri("the part before the '@' is not a Connection id")
        scheme = _SAME_SCHEME.get(scheme, scheme)
        if scheme == "file":
            # ObjectStoragePath writes file:///x, file://x and file://conn@/x for the same path.
            key, bucket = (f"{bucket}/{key}" if bucket else key), ""
        elif not bucket:
            raise InvalidBlobUri("it names no bucket")
        segments = key.rstrip("/").split("/")
        if key and any(segment in {"", ".", ".."} for segment in segments):
            raise InvalidBlobUri("its key has an empty, '.' or '..' segment")
        return cls(scheme, bucket, key, conn_id or None)

    def __str__(self) -> str:
        """Without the connection id, so that two spellings of one blob print alike."""
        return f"{self.scheme}://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class BasePath:
    """The one prefix under which this project reads and deletes blobs."""

    uri: BlobUri

    @classmethod
    def parse(cls, text: str, *, setting: str) -> BasePath:
        """Parse a configured base path; its last slash may be missing.

        :raises ConfigurationError: if it is empty, no address, or the root of a bucket or of the file system.
        """
        remedy = "Give it a bucket and a dedicated prefix, such as s3://my-bucket/airflow/xcom"
        if not text.strip():
            raise ConfigurationError("The blob base path is empty", setting=setting, remedy=remedy)
        try:
            uri = BlobUri.parse(text.strip())
        except InvalidBlobUri as why:
            raise ConfigurationError(
                f"The blob base path cannot be used: {why}", setting=setting, remedy=remedy
            ) from None
        if not uri.key.isprintable() or {'"', "\\"} & set(uri.key):
            # Their spelling inside of JSON differs, so no reference would ever be recognised.
            raise ConfigurationError(
                "The blob base path has a quotation mark, a backslash or a character that cannot be printed",
                setting=setting,
                remedy=remedy,
            )
        uri = replace(uri, key=uri.key.rstrip("/"))
        if not uri.key:
            raise ConfigurationError(
                f"The blob base path {text!r} is the root of a bucket, where other things live too",
                setting=setting,
                remedy=remedy,
            )
        return cls(uri)

    @property
    def prefix(self) -> str:
        """The key prefix with its slash, so that ``xcom`` never matches ``xcom-of-others/``."""
        return f"{self.uri.key}/"

    @property
    def marker(self) -> str:
        """What every reference to a blob below the base path contains, whatever its scheme and connection id."""
        return f"{self.uri.bucket}/{self.prefix}"

    @property
    def quarantine(self) -> BasePath:
        """Where blobs wait before they are deleted: beside the base path, so that no listing of it shows them."""
        return BasePath(replace(self.uri, key=f"{self.uri.key}-quarantine"))

    def contains(self, uri: BlobUri) -> bool:
        """Whether a blob lies below the base path (not: is the base path)."""
        return (
            uri.scheme == self.uri.scheme
            and uri.bucket == self.uri.bucket
            and uri.key.startswith(self.prefix)
            and len(uri.key) > len(self.prefix)
        )

    def claims(self, text: str) -> bool:
        """Whether a text names something below the base path, even if it cannot be parsed."""
        match = _URI.fullmatch(text)
        if match is None:
            return False
        scheme, authority, key = match.group(1).lower(), match.group(2), match.group(3) or ""
        place = f"{authority.rpartition('@')[2]}/{key}"
        return _SAME_SCHEME.get(scheme, scheme) == self.uri.scheme and place.startswith(self.marker)

    def blob(self, relative_key: str) -> BlobUri:
        """The address of a key given relative to the base path."""
        return BlobUri(self.uri.scheme, self.uri.bucket, self.prefix + relative_key, self.uri.conn_id)

    def __str__(self) -> str:
        return str(self.uri)
