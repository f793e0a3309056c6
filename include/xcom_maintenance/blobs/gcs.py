"""Blobs in Google Cloud Storage, through a client that the provider's hook has set up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from include.xcom_maintenance.blobs.keys import in_range
from include.xcom_maintenance.blobs.one_by_one import OneByOneStore
from include.xcom_maintenance.blobs.port import DeleteResult
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError
from include.xcom_maintenance.core.records import Blob


class GcsBlobStore(OneByOneStore):
    """The blobs below ``gs://bucket/prefix``. The version of a blob is its generation, which every write changes.

    The client retries rate limits and broken connections by itself, with growing pauses, for two minutes.

    :param client: a ``google.cloud.storage.Client``.
    :param setting: the setting that named the base path, for errors.
    :param page_size: of a listing; None for the server's own.
    """

    #: Generations are times in microseconds.
    wrong_version = "1"

    def __init__(self, client: Any, base: BasePath, *, setting: str, page_size: int | None = None) -> None:
        super().__init__(base, setting=setting)
        self._client = client
        self._bucket = client.bucket(base.uri.bucket)
        self._page_size = page_size

    def check(self) -> None:
        with self._errors():
            next(iter(self._client.list_blobs(self._bucket, prefix=self.base.prefix, max_results=1)), None)

    def list(self, *, after: str | None = None, before: str | None = None) -> Iterator[Blob]:
        prefix = self.base.prefix
        with self._errors():
            found = self._client.list_blobs(
                self._bucket,
                prefix=prefix,
                start_offset=prefix + after if after else None,
                end_offset=prefix + before if before else None,
                page_size=self._page_size,
                fields="kind,items(name,size,updated,generation),nextPageToken",
            )
            for item in found:
                key = item.name.removeprefix(prefix)
                if in_range(key, after, before):
                    yield _blob(key, item)

    def _head(self, key: str) -> Blob | None:
        with self._errors():
            found = self._bucket.get_blob(self.base.prefix + key)
        return _blob(key, found) if found is not None else None

    def _delete_if(self, key: str, version: str | None) -> DeleteResult:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        try:
            self._bucket.delete_blob(self.base.prefix + key, if_generation_match=int(version) if version else None)
        except NotFound:
            return DeleteResult.GONE
        except PreconditionFailed:
            return DeleteResult.CHANGED
        return DeleteResult.DELETED

    def _failure(self, error: Exception) -> str | None:
        from google.api_core.exceptions import GoogleAPICallError

        return type(error).__name__ if isinstance(error, GoogleAPICallError) else None

    def copy_to(self, blob: Blob, *, target: BasePath, key: str) -> bool:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        if (target.uri.scheme, target.uri.bucket) != (self.base.uri.scheme, self.base.uri.bucket):
            raise ValueError(f"{target} is in another bucket than {self.base}")
        source, copy = self._bucket.blob(self.base.prefix + blob.key), self._bucket.blob(target.prefix + key)
        generation = int(blob.version) if blob.version else None
        with self._errors():
            token: str | None = None
            try:
                while True:  # large objects are copied in several calls
                    token, _, _ = copy.rewrite(source, token=token, if_source_generation_match=generation)
                    if token is None:
                        break
            except (NotFound, PreconditionFailed):
                return False
            copied = self._bucket.get_blob(target.prefix + key)
        # If the source is still what it was, so was what was copied, whether conditions hold or not.
        return self._head(blob.key) == blob and copied is not None and copied.size == blob.size

    def get(self, key: str) -> bytes | None:
        from google.api_core.exceptions import NotFound

        with self._errors():
            try:
                return bytes(self._bucket.blob(self.base.prefix + key).download_as_bytes())
            except NotFound:
                return None

    def put(self, key: str, content: bytes) -> None:
        with self._errors():
            self._bucket.blob(self.base.prefix + key).upload_from_string(content)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, Unauthorized
        from google.auth.exceptions import GoogleAuthError, TransportError
        from requests.exceptions import RequestException

        try:
            yield
        except MaintenanceError:
            raise
        except NotFound:
            raise ConfigurationError(
                f"The bucket {self.base.uri.bucket!r} of the blob base path does not exist",
                setting=self._setting,
                remedy="Correct the base path, or create the bucket",
            ) from None
        except TransportError as error:
            raise self._unreachable(error) from None
        except (Forbidden, Unauthorized, GoogleAuthError) as error:
            raise ConfigurationError(
                f"The blob base path {self.base} cannot be used: {type(error).__name__}",
                setting=self._setting,
                remedy="Check the connection that the base path names (or blob_conn_id) and its rights: listing, "
                "reading and, to enforce, creating and deleting objects",
            ) from None
        # A body that was lost or cut short on the way is no JSON, or is taken for something else.
        except (GoogleAPIError, RequestException, AttributeError, TypeError, ValueError) as error:
            raise self._unreachable(error) from None


def _blob(key: str, found: Any) -> Blob:
    # Of a change of the metadata alone the younger time counts: it errs on the side of keeping.
    return Blob(key, int(found.size or 0), found.updated, str(found.generation) if found.generation else None)
