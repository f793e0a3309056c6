"""Blobs in S3 and what speaks its API, through a boto3 client that the provider's hook has set up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from include.xcom_maintenance.blobs.keys import in_range, just_before
from include.xcom_maintenance.blobs.port import Deletion, Uploads
from include.xcom_maintenance.blobs.s3.delete import Conditions, S3Deletion
from include.xcom_maintenance.blobs.s3.requests import S3Requests, code_of, is_missing
from include.xcom_maintenance.blobs.s3.uploads import unfinished_uploads
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import Blob

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: The most that CopyObject takes; boto3 copies what is larger in parts.
_LARGEST_COPY = 5 * 1024**3


class S3BlobStore:
    """The blobs below ``s3://bucket/prefix``.

    :param client: a boto3 S3 client, see ``patient``.
    :param setting: the setting that named the base path, for errors.
    :param deleting_client: for deletes, see ``impatient``; None if ``client`` does.
    :param page_size: of a listing; None for the server's own, which is 1,000 nearly everywhere.
    """

    def __init__(
        self,
        client: S3Client,
        base: BasePath,
        *,
        setting: str,
        deleting_client: S3Client | None = None,
        page_size: int | None = None,
    ) -> None:
        self.base = base
        self._client = client
        self._bucket = base.uri.bucket
        self._requests = S3Requests(client, base, setting=setting, page_size=page_size)
        self._deletion = S3Deletion(self._requests, deleting_client or client)

    def check(self) -> None:
        self._requests.page(limit=1)

    def list(self, *, after: str | None = None, before: str | None = None) -> Iterator[Blob]:
        page_of = self._requests.page
        # One page ahead: the store looks for the next while this one is compared.
        ahead = ThreadPoolExecutor(1)
        try:
            coming = ahead.submit(page_of, start_after=just_before(after) if after else None)
            while True:
                page = coming.result()
                is_last = page.token is None or (
                    before is not None and page.blobs and not in_range(page.blobs[-1].key, None, before)
                )
                if not is_last:
                    coming = ahead.submit(page_of, token=page.token)
                for blob in page.blobs:
                    if in_range(blob.key, after, before):
                        yield blob
                if is_last:
                    return
        finally:
            # Nobody waits for a page that is not wanted any more.
            ahead.shutdown(wait=False, cancel_futures=True)

    def head(self, keys: Sequence[str]) -> Iterator[Blob]:
        yield from self._requests.heads(keys)

    def honours_conditions(self) -> bool:
        return self._deletion.conditions is not Conditions.NOWHERE

    def unfinished_uploads(self) -> Uploads:
        return unfinished_uploads(self._requests)

    def deletes_only_unchanged(self) -> bool:
        return self.honours_conditions()

    def delete_unchanged(self, blobs: Iterable[Blob]) -> Iterator[Deletion]:
        yield from self._deletion.delete_unchanged(blobs)

    def copy_to(self, blob: Blob, *, target: BasePath, key: str) -> bool:
        from botocore.exceptions import ClientError

        if (target.uri.scheme, target.uri.bucket) != (self.base.uri.scheme, self._bucket):
            raise ValueError(f"{target} is in another bucket than {self.base}")
        place: Any = {
            "Bucket": self._bucket,
            "Key": target.prefix + key,
            "CopySource": {"Bucket": self._bucket, "Key": self.base.prefix + blob.key},
        }
        condition: Any = {"CopySourceIfMatch": f'"{blob.version}"'} if blob.version else {}
        with self._requests.errors():
            try:
                if blob.size <= _LARGEST_COPY:
                    self._client.copy_object(**place, **condition)
                else:
                    self._client.copy(**place, ExtraArgs=condition)
            except ClientError as error:
                if is_missing(code_of(error)) or code_of(error) in {"PreconditionFailed", "412"}:
                    return False
                raise
        # Not every server honours the condition. If the source is still what it was, so was what was copied; the other
        # way round it is told from the source only, since ETags of copies differ for parts and with some encryption.
        now, copy = self._requests.head(blob.key), self._requests.head(key, base=target)
        unchanged = now is not None and self._requests.is_unchanged(blob, now)
        return unchanged and copy is not None and copy.size == blob.size

    def get(self, key: str) -> bytes | None:
        from botocore.exceptions import ClientError

        with self._requests.errors():
            try:
                return self._client.get_object(Bucket=self._bucket, Key=self.base.prefix + key)["Body"].read()
            except ClientError as error:
                if is_missing(code_of(error)):
                    return None
                raise

    def put(self, key: str, content: bytes) -> None:
        with self._requests.errors():
            self._requests.put(self.base.prefix + key, content)
