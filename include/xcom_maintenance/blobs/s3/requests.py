"""Single requests to S3, by keys relative to the base path, with errors for people."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from include.xcom_maintenance.blobs.etags import unquoted
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError, StoreUnavailable
from include.xcom_maintenance.core.records import Blob

if TYPE_CHECKING:
    from botocore.config import Config
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2RequestTypeDef

#: Requests under way at once; boto3's default pool holds ten connections.
THREADS = 8

_NOT_THERE = {"404", "NoSuchKey", "NotFound"}
_DENIED = {
    "403",
    "401",
    "AccessDenied",
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
}
#: What the store says, of a call or of one object in it, when it wants to be asked again later.
BUSY = {
    "500",
    "502",
    "503",
    "504",
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}


def patient(theirs: Config) -> Config:
    """The configuration of a client that sits out rate limits; what the Connection says (``config_kwargs``) wins.

    The standard mode waits longer each time, at random and up to 20 s, and tries whatever is worth trying again.
    """
    from botocore.config import Config

    return Config(retries={"mode": "standard", "total_max_attempts": 10}).merge(theirs)


def impatient(theirs: Config) -> Config:
    """The configuration of a client for deletes, which are verified again before they are tried again."""
    from botocore.config import Config

    return theirs.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}))


def _read_times_quickly(client: Any) -> None:
    """Let a client read the times of a listing without dateutil, which takes half the time of the whole listing.

    botocore has a place for that in its sessions only, and the hook makes those. Where this is not where botocore keeps
    it, all goes on as before.
    """
    from botocore.parsers import ResponseParserFactory

    endpoint = getattr(client, "_endpoint", None)
    if isinstance(getattr(endpoint, "_response_parser_factory", None), ResponseParserFactory):
        factory = ResponseParserFactory()
        factory.set_parser_defaults(timestamp_parser=_moment)
        endpoint._response_parser_factory = factory  # type: ignore[union-attr]


def _moment(text: Any) -> datetime:
    """A time as botocore understands it; the one form that S3 lists is read here."""
    if isinstance(text, str) and text.endswith("Z"):
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    from botocore.utils import parse_timestamp

    return parse_timestamp(text)


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing: sorted, and without gaps up to its last key."""

    blobs: list[Blob]
    #: How to ask for the next one; None if there is none.
    token: str | None


class S3Requests:
    """
    :param client: a boto3 S3 client.
    :param setting: the setting that named the base path, for errors.
    :param page_size: of a listing; None for the server's own, which is 1,000 nearly everywhere.
    """

    def __init__(self, client: S3Client, base: BasePath, *, setting: str, page_size: int | None = None) -> None:
        self.client = client
        _read_times_quickly(client)
        self.base = base
        self.bucket = base.uri.bucket
        self._setting = setting
        self._page_size = page_size

    def page(
        self, *, token: str | None = None, start_after: str | None = None, prefix: str = "", limit: int | None = None
    ) -> Page:
        """One page, from a token on, or of what sorts after a key.

        :param prefix: only keys that begin so; servers on top of a file system read less then.
        :raises StoreUnavailable: if the answer does not say whether it is the last one: a body that was lost on the way
            would else pass for the end of the listing.
        """
        request: ListObjectsV2RequestTypeDef = {"Bucket": self.bucket, "Prefix": self.base.prefix + prefix}
        if token is not None:
            request["ContinuationToken"] = token
        elif start_after:
            request["StartAfter"] = self.base.prefix + start_after
        if limits := [most for most in (limit, self._page_size) if most]:
            request["MaxKeys"] = min(limits)
        with self.errors():
            answer: dict[str, Any] = {**self.client.list_objects_v2(**request)}
        following = answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
        if "IsTruncated" not in answer or (answer["IsTruncated"] and following in {None, "", token}):
            raise StoreUnavailable(
                f"The listing of {self.base} broke off: the store returned no continuation token",
                setting=self._setting,
                remedy="Another run starts it again",
            )
        return Page([self._listed(item) for item in answer.get("Contents", ())], following)

    def _listed(self, item: dict[str, Any]) -> Blob:
        return Blob(
            key=item["Key"].removeprefix(self.base.prefix),
            size=item["Size"],
            last_modified=item.get("LastModified"),
            version=unquoted(item.get("ETag")),
        )

    def put(self, name: str, content: bytes) -> None:
        """Write a small object, with botocore's own errors.

        With a checksum, whatever the Connection says of those: a bucket with Object Lock asks for it.

        :param name: its whole key.
        """
        checksum = base64.b64encode(hashlib.sha256(content).digest()).decode()
        self.client.put_object(Bucket=self.bucket, Key=name, Body=content, ChecksumSHA256=checksum)

    def heads(self, keys: Iterable[str]) -> Iterator[Blob]:
        """Those of ``keys`` that exist."""
        with ThreadPoolExecutor(THREADS) as threads:
            yield from filter(None, threads.map(self.head, keys))

    def head(self, key: str, *, base: BasePath | None = None) -> Blob | None:
        """An object below the base path or another one of the same bucket; None if there is none."""
        from botocore.exceptions import ClientError

        with self.errors():
            try:
                found = self.client.head_object(Bucket=self.bucket, Key=(base or self.base).prefix + key)
            except ClientError as error:
                if error.response["Error"]["Code"] in _NOT_THERE:
                    return None
                raise
        return Blob(
            key=key,
            size=found["ContentLength"],
            last_modified=found.get("LastModified"),
            version=unquoted(found.get("ETag")),
        )

    def is_unchanged(self, seen: Blob, now: Blob) -> bool:
        """Whether an object that was seen in a listing, or by a head, is still what it was; ``now`` is either, too.

        Some servers know two times of an object: rclone lists that of its file, and answers a head with the one at
        which the writing began. So where nothing but the time differs, the object is looked up both ways. One that was
        written again has a later time in either.
        """
        if _stamp(seen) == _stamp(now):
            return True
        if (seen.size, seen.version) != (now.size, now.version):
            return False
        ways = [self.head(seen.key), *self.page(prefix=seen.key, limit=1).blobs]
        return any(found is not None and found.key == seen.key and _stamp(found) == _stamp(seen) for found in ways)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what boto3 raises into an error that names the setting and the remedy."""
        with translated(f"blob base path {self.base}", bucket=self.bucket, setting=self._setting):
            yield


@contextmanager
def translated(what: str, *, bucket: str, setting: str) -> Iterator[None]:
    """Turn what boto3 raises into an error of ours.

    :param what: lies there, such as ``blob base path s3://bucket/xcom``.
    :param setting: that named it.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ProxyConnectionError,
        SSLError,
    )
    from botocore.parsers import ResponseParserError

    wrong = partial(ConfigurationError, setting=setting)
    try:
        yield
    except MaintenanceError:
        raise
    except ClientError as error:
        code = code_of(error)
        if code == "NoSuchBucket":
            raise wrong(
                f"The bucket {bucket!r} of the {what} does not exist",
                remedy="Correct the URL, or create the bucket",
            ) from None
        if code in _DENIED:
            raise wrong(
                f"The {what} cannot be used: the store returned {code} ({error.operation_name})",
                remedy="Check the connection that the address names (or blob_conn_id) and its rights: listing, reading "
                "and, to enforce, writing and deleting",
            ) from None
        raise StoreUnavailable(
            f"The object store returned {code} ({what})",
            setting=setting,
            remedy="Work done so far is kept and in the report; another run continues from there",
        ) from None
    except NoCredentialsError:
        raise wrong(
            f"There are no credentials for the {what}",
            remedy="Name a connection in the URL (s3://conn_id@bucket/prefix) or in blob_conn_id",
        ) from None
    except SSLError as error:
        if "CERTIFICATE" not in str(error).upper():
            raise StoreUnavailable(
                f"TLS: the connection to the object store broke off ({what})",
                setting=setting,
                remedy="Check whether the endpoint of the connection, and the proxy, speak TLS there",
            ) from None
        raise wrong(
            f"TLS: the certificate of the server, or of the proxy, is not trusted ({what})",
            remedy="Name a file with the authority in verify (extra) of the connection, or in AWS_CA_BUNDLE, "
            "REQUESTS_CA_BUNDLE or SSL_CERT_FILE",
        ) from None
    except ProxyConnectionError:
        raise StoreUnavailable(
            f"The proxy before the object store cannot be reached ({what})",
            setting=setting,
            remedy="Check config_kwargs.proxies of the connection, or HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
        ) from None
    except (BotoCoreError, ResponseParserError) as error:
        raise StoreUnavailable(
            f"The object store cannot be reached ({what}): {type(error).__name__}",
            setting=setting,
            remedy="Check the connection's endpoint, its proxies and the network of the workers",
        ) from None


def code_of(error: Any) -> str:
    """What the store said; some servers give a status and no code."""
    answer = error.response
    return str(answer["Error"].get("Code") or answer.get("ResponseMetadata", {}).get("HTTPStatusCode", "unknown error"))


def is_missing(code: str) -> bool:
    return code in _NOT_THERE


def _stamp(blob: Blob) -> tuple[object, ...]:
    """What tells whether an object was written again; listings tell fractions of a second, heads do not."""
    modified = blob.last_modified.replace(microsecond=0) if blob.last_modified else None
    return blob.size, blob.version, modified
