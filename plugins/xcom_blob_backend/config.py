"""The section ``[xcom_blob_backend]`` of Airflow's configuration, read once in each process."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

from xcom_blob_backend.errors import BackendNotConfigured

SECTION = "xcom_blob_backend"
#: From here on a push is warned about: the size band in which tasks begin to time out.
WARN_BYTES = 10 * 2**20

_SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfs", "file": "file"}
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/]*)(?:/(.*))?", re.DOTALL)
_CONNECTION_ID = re.compile(r"[\w.\-]+")
#: More would leave no room for names below a base path: a key has 1,024 bytes.
_MAX_PREFIX_BYTES = 512


class BasePath(NamedTuple):
    """A place in which blobs lie: ``scheme://[conn_id@]bucket/prefix``."""

    scheme: str
    bucket: str
    #: Without slashes at its ends.
    prefix: str
    conn_id: str | None

    @classmethod
    def parse(cls, text: str, *, setting: str) -> BasePath:
        """Parse a configured path.

        :raises BackendNotConfigured: if it is of no known store, or the root of a bucket or of the file system.
        """
        found = _URI.fullmatch(text.strip())
        scheme = _SCHEMES.get(found[1].lower()) if found else None
        if found is None or scheme is None:
            raise BackendNotConfigured(
                f"{setting}: {text!r} is not of the form scheme://conn_id@bucket/prefix, where scheme is s3, gs, "
                "abfs or file"
            )
        conn_id, _, bucket = found[2].rpartition("@")
        prefix = (found[3] or "").strip("/")
        if conn_id and not _CONNECTION_ID.fullmatch(conn_id):
            raise BackendNotConfigured(f"{setting}: the part before the '@' is not a Connection id")
        if scheme == "file":
            # ObjectStoragePath writes file:///x, file://x and file://conn@/x for the same path.
            prefix, bucket = (f"{bucket}/{prefix}" if bucket else prefix), ""
        elif not bucket:
            raise BackendNotConfigured(f"{setting}: {text!r} names no bucket")
        if not prefix or {"", ".", ".."} & set(prefix.split("/")):
            raise BackendNotConfigured(
                f"{setting}: {text!r} has an empty, '.' or '..' part. Give XComs a dedicated prefix in a bucket, "
                "such as s3://my-bucket/airflow/xcom"
            )
        if len(prefix.encode()) > _MAX_PREFIX_BYTES or not prefix.isprintable() or {'"', "\\"} & set(prefix):
            raise BackendNotConfigured(
                f"{setting}: the prefix is longer than {_MAX_PREFIX_BYTES} bytes, or has a quotation mark, a backslash "
                "or a character that cannot be printed"
            )
        return cls(scheme, bucket, prefix, conn_id or None)

    def uri(self, name: str) -> str:
        """The address of a blob, given by its name relative to this path, as Airflow writes it."""
        conn = f"{self.conn_id}@" if self.conn_id else ""
        return f"{self.scheme}://{conn}{self.bucket}/{self.prefix}/{name}"

    def name_of(self, uri: str) -> str | None:
        """The name of a blob relative to this path, whatever its scheme's spelling and Connection; None if outside."""
        found = _URI.fullmatch(uri)
        if found is None or _SCHEMES.get(found[1].lower()) != self.scheme:
            return None
        bucket, key = found[2].rpartition("@")[2], found[3] or ""
        if self.scheme == "file":
            bucket, key = "", (f"{bucket}/{key}" if bucket else key)
        inside = bucket == self.bucket and key.startswith(f"{self.prefix}/")
        name = key[len(self.prefix) + 1 :]
        return name if inside and not {"", ".", ".."} & set(name.split("/")) else None

    @property
    def prefix_bytes(self) -> int:
        return len(self.prefix.encode()) + 1

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}"


class Settings(NamedTuple):
    """The settings, checked. ``docs/backend.md`` says what each does."""

    base: BasePath
    #: Former base paths: read, never written.
    also_read: tuple[BasePath, ...]
    #: Where Airflow's own object storage backend keeps its values, if it is configured: read, never written.
    stock: BasePath | None
    threshold: int
    compression: str
    compression_level: int | None
    #: ``id:key`` pairs, see :class:`xcom_blob_backend.crypto.Keys`; empty if nothing is encrypted.
    encryption_keys: str
    encrypt_inline: bool
    max_value_bytes: int
    request_timeout: float
    retry_timeout: float

    def __repr__(self) -> str:
        """Without the keys."""
        return f"Settings(base={self.base}, threshold={self.threshold}, compression={self.compression})"


def is_configured() -> bool:
    """Whether there is a path; all else may still be wrong."""
    return bool(_get("path", ""))


@functools.lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process.

    :raises BackendNotConfigured: if one is missing or cannot be used.
    """
    path = _get("path", "")
    if not path:
        raise BackendNotConfigured(
            f"[{SECTION}] path is not set (AIRFLOW__XCOM_BLOB_BACKEND__PATH). Set it to where large values go, such as "
            "s3://my_aws@my-bucket/airflow/xcom"
        )
    from xcom_blob_backend.codec import NAMES

    compression = _get("compression", "zstd").lower()
    if compression not in NAMES:
        raise BackendNotConfigured(f"[{SECTION}] compression: {compression!r} is not one of {', '.join(NAMES)}")
    keys = _encryption_keys()
    encrypt_inline = _boolean("encrypt_inline")
    if encrypt_inline and not keys:
        raise BackendNotConfigured(f"[{SECTION}] encrypt_inline is set, but there are no encryption_keys")
    return Settings(
        base=BasePath.parse(path, setting=f"[{SECTION}] path"),
        also_read=tuple(
            BasePath.parse(each, setting=f"[{SECTION}] also_read")
            for each in re.split(r"[,\s]+", _get("also_read", ""))
            if each
        ),
        stock=_stock_path(),
        threshold=_number("threshold", 48 * 1024),
        compression=compression,
        compression_level=_number("compression_level", 0) if _get("compression_level", "") else None,
        encryption_keys=keys,
        encrypt_inline=encrypt_inline,
        max_value_bytes=_number("max_value_bytes", 0),
        request_timeout=_number("request_timeout_seconds", 60),
        retry_timeout=_number("retry_timeout_seconds", 120),
    )


def _stock_path() -> BasePath | None:
    """That of Airflow's own object storage backend; None if it is not set, or of a store that this one cannot read."""
    try:
        return BasePath.parse(
            _conf().get("common.io", "xcom_objectstorage_path", fallback=None) or "",
            setting="[common.io] xcom_objectstorage_path",
        )
    except BackendNotConfigured:
        return None


def _encryption_keys() -> str:
    """The keys as text, from the setting itself or from the file that it names."""
    keys, file = _get("encryption_keys", ""), _get("encryption_keys_file", "")
    if keys and file:
        raise BackendNotConfigured(f"[{SECTION}] encryption_keys and encryption_keys_file are both set")
    if file:
        try:
            keys = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as why:
            raise BackendNotConfigured(
                f"[{SECTION}] encryption_keys_file cannot be read ({type(why).__name__}): {file}"
            ) from None
        if not keys:
            raise BackendNotConfigured(f"[{SECTION}] encryption_keys_file is empty: {file}")
    return keys


def _conf() -> Any:
    try:
        from airflow.sdk.configuration import conf
    except ImportError:  # Airflow before 3.2
        from airflow.configuration import conf
    return conf


def _get(name: str, default: str) -> str:
    return str(_conf().get(SECTION, name, fallback=None) or default).strip()


def _number(name: str, default: int) -> int:
    text = _get(name, str(default))
    try:
        number = int(text.replace("_", ""))
    except ValueError:
        number = -1
    if number < 0 and not (name == "compression_level" and re.fullmatch(r"-\d+", text)):
        raise BackendNotConfigured(f"[{SECTION}] {name}: {text!r} must be a whole number of at least 0")
    return number


def _boolean(name: str) -> bool:
    text = _get(name, "false").lower()
    if text not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise BackendNotConfigured(f"[{SECTION}] {name}: {text!r} must be true or false")
    return text in {"true", "1", "yes", "on"}
