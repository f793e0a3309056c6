"""Deleting from S3 what is unchanged: verified just before, on condition of its ETag where the store honours that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any

from include.xcom_maintenance.blobs.canary import (
    ATTEMPTS,
    CANARY,
    CANARY_PREFIX,
    LEFT,
    canary_key,
    honours_conditions,
    pause,
)
from include.xcom_maintenance.blobs.keys import by_folder, just_before, shared_prefix
from include.xcom_maintenance.blobs.port import DeleteResult, Deletion
from include.xcom_maintenance.blobs.s3.requests import BUSY, THREADS, S3Requests, code_of, is_missing
from include.xcom_maintenance.core.byte_order import in_byte_order
from include.xcom_maintenance.core.records import Blob

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: The most that one DeleteObjects call takes.
_BATCH = 1_000
#: A page of a listing costs about as much as this many heads, eight at a time.
_WORTH_A_PAGE = 16
#: Keys that are looked up one by one where a page covered fewer than that, before a page is tried again.
_HEADS = 100
_WRONG_ETAG = "0" * 32
_REFUSED = {"PreconditionFailed", "412"}


class Conditions(Enum):
    """Where the store was seen to honour the condition that an object still has a certain ETag."""

    IN_BATCHES = "in DeleteObjects"
    ONE_BY_ONE = "in DeleteObject"
    NOWHERE = "nowhere"


#: The code of what the store said of one object; None if it deleted it.
_Answers = dict[str, str | None]


class S3Deletion:
    """
    :param client: does not retry by itself, for what was verified a while ago may have been written again since.
    """

    def __init__(self, requests: S3Requests, client: S3Client) -> None:
        self._requests = requests
        self._client = client
        self._conditions: Conditions | None = None

    # -- which conditions hold ------------------------------------------------------------------

    @property
    def conditions(self) -> Conditions:
        """Found out with a canary when it is first asked.

        :raises ConfigurationError: if the canary may not be written, read or deleted.
        """
        if self._conditions is None:
            self._conditions = self._probe()
        return self._conditions

    def _probe(self) -> Conditions:
        requests = self._requests
        found = requests.page(prefix=CANARY_PREFIX, limit=_HEADS).blobs
        left = next((blob.key for blob in found if blob.size == len(LEFT)), None)
        if left is not None:
            # Where that is denied still, nothing is written: a bucket that keeps versions would keep each.
            with requests.errors():
                requests.client.delete_object(Bucket=requests.bucket, Key=requests.base.prefix + left)
        key = left or canary_key()
        try:
            for conditions in (Conditions.IN_BATCHES, Conditions.ONE_BY_ONE):
                if self._honoured(key, conditions):
                    return conditions
            return Conditions.NOWHERE
        finally:
            self._remove(requests.base.prefix + key)

    def _remove(self, name: str) -> None:
        """Delete a canary and, where the bucket keeps versions, all of its versions, as far as the rights go.

        :param name: its whole key.
        """
        client, bucket = self._requests.client, self._requests.bucket
        with self._requests.errors():
            try:
                answer = client.delete_object(Bucket=bucket, Key=name)
            except Exception:
                # For the next probe to take its name, see LEFT. What failed is raised all the same.
                with suppress(Exception):
                    self._requests.put(name, LEFT)
                raise
        if answer.get("VersionId"):
            # Needs s3:ListBucketVersions and s3:DeleteObjectVersion. It is only tidy, so nothing fails for it.
            with suppress(Exception):
                found: dict[str, Any] = {**client.list_object_versions(Bucket=bucket, Prefix=name)}
                for version in [*found.get("Versions", ()), *found.get("DeleteMarkers", ())]:
                    client.delete_object(Bucket=bucket, Key=name, VersionId=version["VersionId"])

    def _honoured(self, key: str, conditions: Conditions) -> bool:
        from botocore.exceptions import ClientError

        requests = self._requests

        def put() -> str | None:
            requests.put(requests.base.prefix + key, CANARY)
            found = requests.head(key)
            return found.version if found else None

        def refused(etag: str) -> bool:
            answer: str | None = None
            for attempt in range(1, ATTEMPTS + 1):
                canary = Blob(key, len(CANARY), None, etag)
                try:
                    answer = self._ask([canary], conditions, last_attempt=attempt == ATTEMPTS)[key]
                except ClientError as error:
                    if code_of(error) in BUSY:
                        raise
                    return False  # such as a server that cannot read a request with a condition in it
                if answer not in BUSY:
                    break
                pause(attempt)
            return answer in _REFUSED

        with requests.errors():
            return honours_conditions(
                put=put, refused=refused, is_there=lambda: requests.head(key) is not None, wrong=_WRONG_ETAG
            )

    # -- verify, then delete --------------------------------------------------------------------

    def delete_unchanged(self, blobs: Iterable[Blob]) -> Iterator[Deletion]:
        stream = iter(blobs)
        while batch := list(islice(stream, _BATCH)):
            yield from self._delete_patiently(batch)

    def _delete_patiently(self, batch: Sequence[Blob]) -> Iterator[Deletion]:
        """Try until each has an answer. Whatever has to be tried again is verified again first."""
        waiting, asked, attempt = {blob.key: blob for blob in batch}, set[str](), 0
        while waiting:
            attempt += 1
            now = self._look_up(waiting)
            # A listing may spell a name in another way than it was written: composed, or without control characters.
            unlisted = [key for key in waiting if key not in now and not (key.isascii() and key.isprintable())]
            now.update((blob.key, blob) for blob in self._requests.heads(unlisted))
            doomed = []
            for key, blob in list(waiting.items()):
                if key not in now:
                    # An answer may have been lost on the way; what we asked for and is gone, we have deleted.
                    yield Deletion(blob, DeleteResult.DELETED if key in asked else DeleteResult.GONE)
                elif not self._requests.is_unchanged(blob, now[key]):
                    yield Deletion(blob, DeleteResult.CHANGED)
                else:
                    doomed.append(blob)
                    continue
                del waiting[key]
            if not doomed:
                return
            conditions = self.conditions
            asked.update(blob.key for blob in doomed)
            with self._requests.errors():
                answers = self._ask(doomed, conditions, last_attempt=attempt == ATTEMPTS)
            for key, answer in answers.items():
                if answer not in BUSY or attempt == ATTEMPTS:
                    yield _concluded(waiting.pop(key), answer)
            if waiting:
                pause(attempt)

    def _look_up(self, keys: Iterable[str]) -> dict[str, Blob]:
        """What is there now: from pages of the listing where the keys lie close together, else one by one."""
        folders, scattered = by_folder(keys, at_least=_WORTH_A_PAGE)
        found: dict[str, Blob] = {}
        with ThreadPoolExecutor(THREADS) as threads:
            for there, left in threads.map(self._look_into, folders):
                found |= there
                scattered += left
        waiting = sorted(scattered, key=in_byte_order)
        while waiting:
            there, covered = self._look_at_page(waiting)
            found |= there
            del waiting[:covered]
            if covered < _WORTH_A_PAGE:
                found.update((blob.key, blob) for blob in self._requests.heads(waiting[:_HEADS]))
                del waiting[:_HEADS]
        return found

    def _look_into(self, keys: list[str]) -> tuple[dict[str, Blob], list[str]]:
        """What is there of keys in one folder, and those that lie among too many others for pages to be worth it."""
        found: dict[str, Blob] = {}
        covered = _WORTH_A_PAGE
        while keys and covered >= _WORTH_A_PAGE:
            there, covered = self._look_at_page(keys)
            found |= there
            keys = keys[covered:]
        return found, keys

    def _look_at_page(self, keys: Sequence[str]) -> tuple[dict[str, Blob], int]:
        """What one page says of some keys in byte order, and of how many, from the first on, it says anything."""
        # No more than what may be about these keys: what comes after them takes its time, too.
        page = self._requests.page(
            start_after=just_before(keys[0]),
            prefix=shared_prefix(keys[0], keys[-1]),
            limit=min(len(keys) + len(keys) // 4 + _WORTH_A_PAGE, _BATCH),
        )
        covered = len(keys)
        if page.token is not None:
            end = in_byte_order(page.blobs[-1].key) if page.blobs else ""
            covered = sum(in_byte_order(key) <= end for key in keys)
        wanted = set(keys[:covered])
        return {blob.key: blob for blob in page.blobs if blob.key in wanted}, covered

    # -- asking ---------------------------------------------------------------------------------

    def _ask(self, blobs: Sequence[Blob], conditions: Conditions, *, last_attempt: bool) -> _Answers:
        """What the store says of each; what it leaves open, such as by breaking the connection, counts as busy."""
        from botocore.exceptions import ClientError, HTTPClientError
        from botocore.exceptions import ConnectionError as NotConnected
        from botocore.parsers import ResponseParserError

        try:
            if conditions is Conditions.ONE_BY_ONE:
                with ThreadPoolExecutor(THREADS) as threads:
                    keys = [blob.key for blob in blobs]
                    return dict(zip(keys, threads.map(self._delete_one, blobs), strict=True))
            return self._delete_batch(blobs, with_etag=conditions is Conditions.IN_BATCHES)
        except ClientError as error:
            if code_of(error) not in BUSY or last_attempt:
                raise
        except (NotConnected, HTTPClientError, ResponseParserError):
            if last_attempt:
                raise
        return dict.fromkeys((blob.key for blob in blobs), "ServiceUnavailable")

    def _delete_batch(self, blobs: Sequence[Blob], *, with_etag: bool) -> _Answers:
        prefix = self._requests.base.prefix
        objects: list[Any] = [{"Key": prefix + blob.key} for blob in blobs]
        if with_etag:
            for named, blob in zip(objects, blobs, strict=True):
                named.update({"ETag": f'"{blob.version}"'} if blob.version else {})
        # Not quiet: a body that was lost on the way would else read as if all had been deleted.
        answer = self._client.delete_objects(Bucket=self._requests.bucket, Delete={"Objects": objects})
        said: dict[str, str | None] = {entry["Key"]: None for entry in answer.get("Deleted", ())}
        said |= {entry["Key"]: entry.get("Code") or "unknown error" for entry in answer.get("Errors", ())}
        return {blob.key: said.get(prefix + blob.key, "ServiceUnavailable") for blob in blobs}

    def _delete_one(self, blob: Blob) -> str | None:
        from botocore.exceptions import ClientError

        condition: Any = {"IfMatch": f'"{blob.version}"'} if blob.version else {}
        try:
            self._client.delete_object(
                Bucket=self._requests.bucket, Key=self._requests.base.prefix + blob.key, **condition
            )
        except ClientError as error:
            return code_of(error)
        return None


def _concluded(blob: Blob, answer: str | None) -> Deletion:
    if answer is None:
        return Deletion(blob, DeleteResult.DELETED)
    if answer in _REFUSED:
        return Deletion(blob, DeleteResult.CHANGED)
    if is_missing(answer):
        return Deletion(blob, DeleteResult.GONE)
    return Deletion(blob, DeleteResult.FAILED, answer)
