"""The object store: one request to write a blob, one to read it. By obstore, one Rust core for every store."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from xcom_blob_backend.config import BasePath, settings
from xcom_blob_backend.errors import BackendNotConfigured, BlobMissing, StoreFailed
from xcom_blob_backend.native import Library, library

if TYPE_CHECKING:
    from xcom_blob_backend.access import Access

#: Above that a blob is written in parts; a store takes 5 GB at once, but a lost connection should not cost that much.
_ONE_REQUEST_BYTES = 256 * 2**20
#: What S3 and Google, and Azure, say where not only the blob is missing.
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
#: What they say where only the blob is. Another page that comes with a 404 is of a server that is no store.
_NO_BLOB = ("NoSuchKey", "BlobNotFound")
#: What Python raised when it was asked for credentials; obstore makes text of it.
_OF_THE_PROVIDER = {
    "credential provider: FileNotFoundError": "a file of the credentials cannot be read: ",
    "credential provider: PermissionError": "a file of the credentials cannot be read: ",
    "Failed to read token file": "a file of the credentials cannot be read: ",
    "Unable to open service account file": "a file of the credentials cannot be read: ",
}
#: Of the library for TLS that obstore uses.
_OF_TLS = ("certificate", "InvalidCertificate", "UnknownIssuer", "HandshakeFailure", "tls handshake")


class Store:
    """The blobs below one base path."""

    def __init__(self, base: BasePath) -> None:
        self.base = base
        self._trust, self._proxy = "the certificates of the system", ""
        with self._errors("opening", str(base)):
            self._library = library()
            self._store, found = _open(base, self._library)
        if found is not None:
            self._trust, self._proxy = found.trust, found.proxy

    def put(self, name: str, data: bytes) -> None:
        """Write a blob.

        :raises StoreFailed: if it cannot be written.
        """
        with self._errors("writing", self.base.uri(name)):
            self._library.put(self._store, name, data, use_multipart=len(data) > _ONE_REQUEST_BYTES)

    def get(self, name: str) -> bytes:
        """Read a blob.

        :raises BlobMissing: if it is not there.
        :raises StoreFailed: if it cannot be read.
        """
        with self._errors("reading", self.base.uri(name)):
            return bytes(self._library.get(self._store, name).bytes().to_bytes())

    def start(self, name: str, size: int) -> bytes:
        """The first bytes of a blob: ``size``, or all that it has.

        :raises BlobMissing: if it is not there.
        :raises StoreFailed: if it cannot be read.
        """
        try:
            with self._errors("reading", self.base.uri(name)):
                return bytes(self._library.get_range(self._store, name, start=0, end=size).to_bytes())
        except StoreFailed as why:
            if "range" not in str(why).lower():
                raise
            return self.get(name)[:size]  # an empty object has no first byte; and not every store knows ranges

    def delete(self, name: str) -> None:
        """Delete a blob; nothing if it is not there.

        :raises StoreFailed: if it cannot be deleted.
        """
        try:
            with self._errors("deleting", self.base.uri(name)):
                self._library.delete(self._store, name)
        except BlobMissing:
            pass

    @contextmanager
    def _errors(self, doing: str, where: str) -> Iterator[None]:
        """obstore's errors as this backend's, without the debug output that they carry."""
        try:
            yield
        except ImportError as why:
            raise BackendNotConfigured(f"{doing} {where} needs the package {why.name}: install it") from None
        except FileNotFoundError as why:
            if doing == "opening" or not _store_said(why):
                raise BackendNotConfigured(
                    f"[xcom_blob_backend] path: {doing} {where} failed: {_reason(why)}"
                ) from None
            if any(code in str(why) for code in _NO_BUCKET):
                raise StoreFailed(f"{doing} {where} failed: there is no such bucket") from None
            if doing == "writing" or _is_strange(why):
                raise StoreFailed(f"{doing} {where} failed: {_reason(why)}") from None
            raise BlobMissing(f"{where} is missing: the row refers to it, but it is not in the store") from None
        except Exception as why:
            if not type(why).__module__.startswith("obstore") and not isinstance(why, OSError):
                raise
            text = str(why)
            kind = next((kind for name, kind in _OF_THE_PROVIDER.items() if name in text), None)
            if kind is not None or (doing == "opening" and self.base.scheme != "file"):
                raise BackendNotConfigured(
                    f"[xcom_blob_backend] path: {doing} {where} failed: {kind or ''}{_reason(why)}"
                ) from None
            if any(word in text for word in _OF_TLS):
                raise StoreFailed(
                    f"{doing} {where} failed: TLS: the certificate of the server, or of the proxy, is not trusted. "
                    f"Trusted here: {self._trust}; see verify (extra) of the Connection, AWS_CA_BUNDLE, "
                    f"REQUESTS_CA_BUNDLE and SSL_CERT_FILE ({_tls_reason(text) or _reason(why)})"
                ) from None
            through = f" (proxy: {self._proxy})" if self._proxy else ""
            raise StoreFailed(f"{doing} {where} failed: {_reason(why)}{through}") from None


def store_for(base: BasePath) -> Store:
    """The store of a base path, made once in each process: one that was forked does not touch what it inherited."""
    return _store_for(base, os.getpid())


@functools.lru_cache(maxsize=16)
def _store_for(base: BasePath, _process: int) -> Store:
    return Store(base)


def _tls_reason(text: str) -> str:
    """What the library for TLS says, of the debug output."""
    found = re.search(r"(?:invalid peer certificate|InvalidCertificate|AlertReceived)[^\n]{0,120}", text)
    return found[0].strip() if found else ""


def _store_said(why: FileNotFoundError) -> bool:
    """Whether it is of an object; one that Python raises has a number, and is of a file of the configuration."""
    return why.errno is None


def _is_strange(why: FileNotFoundError) -> bool:
    """Whether the answer has a text that does not say that there is no such object, as of a wrong endpoint."""
    text = _told(why).partition("404 Not Found:")[2].strip()
    return bool(text) and not any(code in text for code in _NO_BLOB)


def _reason(error: Exception) -> str:
    """An error in a line, without obstore's debug output and without queries of URLs, which may hold a signature."""
    return re.sub(r"\s+", " ", re.sub(r"\?[^\s\"'<>)]+", "?...", _told(error))).strip()[:500]


def _told(error: Exception) -> str:
    """The text of an error of obstore without its debug output."""
    return str(error).split("\n\nDebug source:")[0]


def _open(base: BasePath, native: Library) -> tuple[Any, Access | None]:
    stores = native.stores
    if base.scheme == "file":
        return stores["file"](f"/{base.prefix}", mkdir=True), None
    from xcom_blob_backend.credentials import access

    found = access(base.scheme, base.conn_id)
    limits = settings()
    client = {
        "timeout": timedelta(seconds=limits.request_timeout),
        "connect_timeout": timedelta(seconds=min(5.0, limits.request_timeout)),
        **found.client,
    }
    if base.scheme == "s3":
        # A bucket that keeps its objects for a time by itself (Object Lock) takes none without a checksum.
        found.config.setdefault("checksum_algorithm", "sha256")
    retries = {"max_retries": 10, "retry_timeout": timedelta(seconds=limits.retry_timeout)}
    if found.config.get("virtual_hosted_style_request") and "endpoint" in found.config:
        # For endpoints other than AWS's own, obstore wants the bucket to be in it already.
        scheme, _, host = found.config["endpoint"].partition("://")
        found.config["endpoint"] = f"{scheme}://{base.bucket}.{host}"
    options: dict[str, Any] = {"prefix": base.prefix, "config": found.config, "client_options": client}
    if found.provider is not None:
        options["credential_provider"] = found.provider
    try:
        return stores[base.scheme](base.bucket, retry_config=retries, **options), found
    except Exception as why:  # told by its text: after a fork the library, and so the class, can be another
        if not isinstance(why, ValueError) and "builder error" not in str(why):
            raise
        # Of all options, certificates and proxies are those that obstore does not name.
        through = f" and the proxy of {found.proxy}" if found.proxy else ""
        raise BackendNotConfigured(
            f"[xcom_blob_backend] path: no client can be made with {found.trust}{through}: {_reason(why)}"
        ) from None
