"""Blobs in S3 and what speaks its API, through a boto3 client that the provider's hook has set up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from include.xcom_maintenance.blobs.port import DeleteResult, Deletion
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError, StoreUnavailable
from include.xcom_maintenance.core.records import Blob

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import DeleteTypeDef, ObjectIdentifierTypeDef

#: The most that one DeleteObjects call takes.
_BATCH = 1_000
#: Head requests under way at once; boto3's default pool holds ten connections.
_THREADS = 8

_NOT_THERE = {"404", "NoSuchKey", "NotFound"}
_DENIED = {
    "403",
    "401",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
}


class S3BlobStore:
    """The blobs below ``s3://bucket/prefix``.

    :param client: a boto3 S3 client.
    :param setting: the setting that named the base path, for errors.
    """

    def __init__(self, client: S3Client, base: BasePath, *, setting: str) -> None:
        self._client = client
        self._bucket = base.uri.bucket
        self._setting = setting
        self.base = base

    def check(self) -> None:
        with self._errors():
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self.base.prefix, MaxKeys=1)

    def list(self) -> Iterator[Blob]:
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self.base.prefix)
            for page in pages:
                for item in page.get("Contents", ()):
                    yield Blob(
                        key=item["Key"].removeprefix(self.base.prefix),
                        size=item["Size"],
                        last_modified=item.get("LastModified"),
                        version=_unquoted(item.get("ETag")),
                    )

    def head(self, keys: Sequence[str]) -> Iterator[Blob]:
        with self._errors(), ThreadPoolExecutor(_THREADS) as threads:
            yield from filter(None, threads.map(self._head, keys))

    def _head(self, key: str) -> Blob | None:
        from botocore.exceptions import ClientError

        try:
            found = self._client.head_object(Bucket=self._bucket, Key=self.base.prefix + key)
        except ClientError as error:
            if error.response["Error"]["Code"] in _NOT_THERE:
                return None
            raise
        return Blob(
            key=key,
            size=found["ContentLength"],
            last_modified=found.get("LastModified"),
            version=_unquoted(found.get("ETag")),
        )

    def delete_unchanged(self, blobs: Iterable[Blob]) -> Iterator[Deletion]:
        stream = iter(blobs)
        while batch := list(islice(stream, _BATCH)):
            now = {blob.key: blob for blob in self.head([blob.key for blob in batch])}
            unchanged = []
            for blob in batch:
                if blob.key not in now:
                    yield Deletion(blob, DeleteResult.GONE)
                elif _stamp(now[blob.key]) != _stamp(blob):
                    yield Deletion(blob, DeleteResult.CHANGED)
                else:
                    unchanged.append(blob)
            if unchanged:
                yield from self._delete(unchanged)

    def _delete(self, blobs: Sequence[Blob]) -> Iterator[Deletion]:
        objects: list[ObjectIdentifierTypeDef] = []
        for blob in blobs:
            named: ObjectIdentifierTypeDef = {"Key": self.base.prefix + blob.key}
            if blob.version:
                named["ETag"] = f'"{blob.version}"'
            objects.append(named)
        request: DeleteTypeDef = {"Objects": objects, "Quiet": True}
        with self._errors():
            answer = self._client.delete_objects(Bucket=self._bucket, Delete=request)
        failed = {error["Key"]: error for error in answer.get("Errors", ())}
        for blob in blobs:
            error = failed.get(self.base.prefix + blob.key)
            if error is None:
                yield Deletion(blob, DeleteResult.DELETED)
            elif error.get("Code") == "PreconditionFailed":
                yield Deletion(blob, DeleteResult.CHANGED)
            else:
                yield Deletion(blob, DeleteResult.FAILED, error.get("Code", "unknown error"))

    def get(self, key: str) -> bytes | None:
        from botocore.exceptions import ClientError

        with self._errors():
            try:
                return self._client.get_object(Bucket=self._bucket, Key=self.base.prefix + key)["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] in _NOT_THERE:
                    return None
                raise

    def put(self, key: str, content: bytes) -> None:
        with self._errors():
            self._client.put_object(Bucket=self._bucket, Key=self.base.prefix + key, Body=content)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        wrong = partial(ConfigurationError, setting=self._setting)
        try:
            yield
        except MaintenanceError:
            raise
        except ClientError as error:
            code = error.response["Error"].get("Code", "unknown error")
            if code == "NoSuchBucket":
                raise wrong(
                    f"The bucket {self._bucket!r} of the blob base path does not exist",
                    remedy="Correct the base path, or create the bucket",
                ) from None
            if code in _DENIED:
                raise wrong(
                    f"The blob base path {self.base} cannot be used: the store answered {code}",
                    remedy="Check the connection that the base path names (or blob_conn_id) and its rights: listing, "
                    "reading and, to enforce, deleting",
                ) from None
            raise StoreUnavailable(
                f"The object store answered {code} below {self.base}",
                setting=self._setting,
                remedy="What is done is done and in the report; a re-run goes on",
            ) from None
        except NoCredentialsError:
            raise wrong(
                f"There are no credentials for the blob base path {self.base}",
                remedy="Name a connection in the base path (s3://conn_id@bucket/prefix) or in blob_conn_id",
            ) from None
        except BotoCoreError as error:
            raise StoreUnavailable(
                f"The object store of {self.base} cannot be reached: {type(error).__name__}",
                setting=self._setting,
                remedy="Check the endpoint of the connection and the network of the workers",
            ) from None


def _unquoted(etag: str | None) -> str | None:
    """Some servers quote ETags in heads and not in listings."""
    return etag.strip('"') if etag else None


def _stamp(blob: Blob) -> tuple[object, ...]:
    """What must be the same for a blob to be unchanged; listings tell fractions of a second, heads do not."""
    modified = blob.last_modified.replace(microsecond=0) if blob.last_modified else None
    return blob.size, blob.version, modified
