"""Blobs in Azure Blob Storage, through a client that the provider's hook has set up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from include.xcom_maintenance.blobs.etags import unquoted
from include.xcom_maintenance.blobs.keys import in_range, shared_prefix
from include.xcom_maintenance.blobs.one_by_one import OneByOneStore
from include.xcom_maintenance.blobs.port import DeleteResult, Deletion
from include.xcom_maintenance.blobs.sorting import sorted_by_key
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError
from include.xcom_maintenance.core.records import Blob

#: Copies inside an account are nearly always done when the request returns.
_COPY_SECONDS = 600


class AzureBlobStore(OneByOneStore):
    """The blobs below ``abfs://container/prefix``. The version of a blob is its ETag, which every write changes.

    The client retries rate limits and broken connections by itself, with growing pauses.

    :param service: an ``azure.storage.blob.BlobServiceClient``.
    :param setting: the setting that named the base path, for errors.
    :param page_size: of a listing; None for the server's own, which is 5,000.
    """

    wrong_version = "0x8D0000000000000"

    def __init__(self, service: Any, base: BasePath, *, setting: str, page_size: int | None = None) -> None:
        super().__init__(base, setting=setting)
        self._container = service.get_container_client(base.uri.bucket)
        self._page_size = page_size

    def check(self) -> None:
        with self._errors():
            next(iter(self._container.list_blobs(name_starts_with=self.base.prefix, results_per_page=1)), None)

    def list(self, *, after: str | None = None, before: str | None = None) -> Iterator[Blob]:
        # With a hierarchical namespace folders sort before everything else, and no document promises the order of
        # characters beyond ASCII. So Azure's own order is not relied upon.
        yield from sorted_by_key(blob for blob in self._listed(after, before) if in_range(blob.key, after, before))

    def _listed(self, after: str | None, before: str | None) -> Iterator[Blob]:
        prefix = self.base.prefix
        narrow = shared_prefix(after, before) if after and before else ""
        with self._errors():
            pages = self._container.list_blobs(
                name_starts_with=prefix + narrow, include=["metadata"], results_per_page=self._page_size
            ).by_page()
            for page in pages:
                for item in page:
                    # With a hierarchical namespace folders are listed too, as blobs with this mark.
                    if (item.metadata or {}).get("hdi_isfolder") != "true":
                        yield _blob(item.name.removeprefix(prefix), item)

    def _head(self, key: str) -> Blob | None:
        from azure.core.exceptions import ResourceNotFoundError

        if not _is_addressable(key):
            return None
        with self._errors():
            try:
                found = self._container.get_blob_client(self.base.prefix + key).get_blob_properties()
            except ResourceNotFoundError as error:
                if error.error_code == "ContainerNotFound":
                    raise
                return None
        return None if (found.metadata or {}).get("hdi_isfolder") == "true" else _blob(key, found)

    def _delete(self, blob: Blob) -> Deletion:
        if not _is_addressable(blob.key):
            return Deletion(blob, DeleteResult.FAILED, "its name has a '.' or '..' segment, which clients resolve")
        return super()._delete(blob)

    def _delete_if(self, key: str, version: str | None) -> DeleteResult:
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError

        try:
            self._container.delete_blob(self.base.prefix + key, **_if_match(version))
        except ResourceNotFoundError:
            return DeleteResult.GONE
        except ResourceModifiedError:  # Azurite says so of one that is gone, too
            return DeleteResult.CHANGED
        return DeleteResult.DELETED

    def _failure(self, error: Exception) -> str | None:
        from azure.core.exceptions import HttpResponseError

        return str(error.error_code or error.status_code) if isinstance(error, HttpResponseError) else None

    def copy_to(self, blob: Blob, *, target: BasePath, key: str) -> bool:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError

        if (target.uri.scheme, target.uri.bucket) != (self.base.uri.scheme, self.base.uri.bucket):
            raise ValueError(f"{target} is in another container than {self.base}")
        if not _is_addressable(blob.key):
            return False
        source = self._container.get_blob_client(self.base.prefix + blob.key)
        copy = self._container.get_blob_client(target.prefix + key)
        condition: dict[str, Any] = {}
        if blob.version:
            condition = {
                "source_etag": f'"{blob.version}"',
                "source_match_condition": MatchConditions.IfNotModified,
            }
        with self._errors():
            try:
                copy.start_copy_from_url(self._signed(source.url), **condition)
            except (ResourceNotFoundError, ResourceModifiedError):
                return False
            deadline = time.monotonic() + _COPY_SECONDS
            while (found := copy.get_blob_properties()).copy.status == "pending":
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.5)
        # If the source is still what it was, so was what was copied, whether conditions hold or not.
        return found.copy.status == "success" and found.size == blob.size and self._head(blob.key) == blob

    def _signed(self, url: str) -> str:
        """The address of a source for a copy; of the client's credentials only a SAS has to be in it."""
        signature = getattr(self._container.credential, "signature", None)
        return f"{url}?{signature.lstrip('?')}" if isinstance(signature, str) and "?" not in url else url

    def get(self, key: str) -> bytes | None:
        from azure.core.exceptions import ResourceNotFoundError

        with self._errors():
            try:
                return bytes(self._container.download_blob(self.base.prefix + key).readall())
            except ResourceNotFoundError as error:
                if error.error_code == "ContainerNotFound":
                    raise
                return None

    def put(self, key: str, content: bytes) -> None:
        with self._errors():
            self._container.upload_blob(self.base.prefix + key, content, overwrite=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from azure.core.exceptions import (
            AzureError,
            ClientAuthenticationError,
            HttpResponseError,
            ResourceNotFoundError,
        )

        try:
            yield
        except MaintenanceError:
            raise
        except ResourceNotFoundError:
            raise ConfigurationError(
                f"The container {self.base.uri.bucket!r} of the blob base path does not exist",
                setting=self._setting,
                remedy="Correct the base path, or create the container",
            ) from None
        except (AzureError, AttributeError, TypeError, ValueError) as error:
            # Of a body that was lost on the way the client makes an AttributeError.
            status = error.status_code if isinstance(error, HttpResponseError) else None
            if isinstance(error, ClientAuthenticationError) or status in {401, 403}:
                said = getattr(error, "error_code", None) or status or type(error).__name__
                raise ConfigurationError(
                    f"The blob base path {self.base} cannot be used: the store returned {said}",
                    setting=self._setting,
                    remedy="Check the connection that the base path names (or blob_conn_id) and its rights: listing, "
                    "reading and, to enforce, writing and deleting",
                ) from None
            raise self._unreachable(error) from None


def _blob(key: str, found: Any) -> Blob:
    return Blob(key, int(found.size), found.last_modified, unquoted(found.etag))


def _is_addressable(key: str) -> bool:
    """Azure allows ``a/../b``, and clients make ``b`` of it: another blob."""
    return not {".", ".."} & set(key.split("/"))


def _if_match(etag: str | None) -> dict[str, Any]:
    from azure.core import MatchConditions

    return {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified} if etag else {}
