"""The listing of a large bucket from its S3 Inventory, which S3 writes daily or weekly, instead of LIST calls.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html says how it is laid out. It is out
of date when it is read: blobs that are younger are not in it, and what has changed since is seen when each candidate is
looked up again just before it is deleted.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from include.xcom_maintenance.blobs.inventory.files import Reader, reader
from include.xcom_maintenance.blobs.keys import in_range
from include.xcom_maintenance.blobs.port import BlobStore, Deletion, Uploads
from include.xcom_maintenance.blobs.s3.requests import code_of, is_missing, translated
from include.xcom_maintenance.blobs.sorting import sorted_by_key
from include.xcom_maintenance.core.blob_uri import BasePath, BlobUri, InvalidBlobUri
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError, StoreUnavailable
from include.xcom_maintenance.core.records import Blob

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SETTING = "inventory_manifest"
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}-\d{2}Z/")
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Manifest:
    bucket: str
    key: str
    created: datetime
    source_bucket: str
    read: Reader
    #: Key and MD5 in hexadecimal of each data file.
    files: tuple[tuple[str, str], ...]


class InventoriedBlobStore:
    """A blob store whose listing comes from an S3 Inventory; everything else is done in the store itself.

    :param live: the store.
    :param client: a boto3 client for the bucket in which the inventory lies.
    :param address: of a ``manifest.json``, or of the folder with the dated folders, of which the newest that is
        complete is taken.
    """

    def __init__(self, live: BlobStore, client: S3Client, address: BlobUri) -> None:
        self.live = live
        self.base = live.base
        self._client = client
        self._address = address
        self._manifest: _Manifest | None = None

    def check(self) -> None:
        self.live.check()
        self._opened()

    @property
    def listed_at(self) -> datetime:
        """When S3 began to write the inventory: blobs written after that may be missing from it."""
        return self._opened().created

    def list(self, *, after: str | None = None, before: str | None = None) -> Iterator[Blob]:
        seen = 0

        def ours() -> Iterator[Blob]:
            nonlocal seen
            for blob in self._read(self._opened()):
                if not blob.key.startswith(self.base.prefix) or blob.key == self.base.prefix:
                    continue
                seen += 1
                relative = blob.key.removeprefix(self.base.prefix)
                if in_range(relative, after, before):
                    yield blob._replace(key=relative)

        yield from sorted_by_key(ours())
        if not seen and next(self.live.list(), None) is not None:
            raise _wrong(
                f"The S3 Inventory of {self._opened().created:%Y-%m-%d %H:%M} UTC holds nothing below {self.base}, "
                "where there are blobs",
                "Let the inventory cover the base path (its filter may be for another prefix); wait for the next one",
            )

    # -- the manifest ---------------------------------------------------------------------------

    def _opened(self) -> _Manifest:
        if self._manifest is None:
            self._manifest = self._open()
        return self._manifest

    def _open(self) -> _Manifest:
        key = self._address.key
        if not key.endswith("manifest.json"):
            key = self._newest(key.rstrip("/") + "/")
        content = self._get(key)
        checksum = self._get(key.removesuffix("json") + "checksum")
        if content is None or checksum is None:
            raise _wrong(
                f"There is no manifest.json with a manifest.checksum at s3://{self._address.bucket}/{key}",
                "Set it to the manifest.json of a finished inventory, or to the folder with the dated folders",
            )
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != checksum.decode(errors="replace").strip():
            raise _broken(f"s3://{self._address.bucket}/{key} does not match its manifest.checksum")
        try:
            manifest = self._understood(key, json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _wrong(
                f"s3://{self._address.bucket}/{key} is not an S3 Inventory manifest: {type(error).__name__}",
                "Set it to the manifest.json that S3 wrote",
            ) from None
        if manifest.source_bucket != self.base.uri.bucket:
            raise _wrong(
                f"The S3 Inventory is of the bucket {manifest.source_bucket!r}, and the blobs are in "
                f"{self.base.uri.bucket!r}",
                "Set it to an inventory of the bucket of the blob base path",
            )
        return manifest

    def _understood(self, key: str, content: dict[str, Any]) -> _Manifest:
        return _Manifest(
            bucket=self._address.bucket,
            key=key,
            created=datetime.fromtimestamp(int(content["creationTimestamp"]) / 1000, UTC),
            source_bucket=content["sourceBucket"],
            read=reader(content["fileFormat"], content["fileSchema"], setting=_SETTING),
            files=tuple((file["key"], file["MD5checksum"].lower()) for file in content["files"]),
        )

    def _newest(self, folder: str) -> str:
        """The manifest of the newest dated folder that S3 has finished: it writes the checksum last."""
        dated: list[str] = []
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._address.bucket, Prefix=folder, Delimiter="/"
            )
            for page in pages:
                found = (entry["Prefix"].removeprefix(folder) for entry in page.get("CommonPrefixes", ()))
                dated += filter(_DATED.fullmatch, found)
        for name in sorted(dated, reverse=True):
            if self._get(f"{folder}{name}manifest.checksum") is not None:
                return f"{folder}{name}manifest.json"
        raise _wrong(
            f"There is no finished inventory in s3://{self._address.bucket}/{folder}",
            "Set it to the folder with the dated folders; its last part is the name of the inventory configuration",
        )

    # -- the data files -------------------------------------------------------------------------

    def _read(self, manifest: _Manifest) -> Iterator[Blob]:
        for key, checksum in manifest.files:
            with tempfile.TemporaryFile() as file:
                # The whole of it first, so that nothing is concluded from a file that is damaged or cut short.
                if self._download(manifest.bucket, key, into=file) != checksum:
                    raise _broken(f"s3://{manifest.bucket}/{key} does not match its manifest")
                try:
                    yield from manifest.read(file)
                except MaintenanceError:
                    raise
                except (ValueError, KeyError, EOFError, OSError, csv.Error, zlib.error) as error:
                    raise _broken(f"s3://{manifest.bucket}/{key} cannot be read: {type(error).__name__}") from None

    def _download(self, bucket: str, key: str, *, into: IO[bytes]) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        with self._errors():
            for chunk in self._client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(_CHUNK):
                digest.update(chunk)
                into.write(chunk)
        into.seek(0)
        return digest.hexdigest()

    def _get(self, key: str) -> bytes | None:
        from botocore.exceptions import ClientError

        with self._errors():
            try:
                return self._client.get_object(Bucket=self._address.bucket, Key=key)["Body"].read()
            except ClientError as error:
                if is_missing(code_of(error)):
                    return None
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with translated(f"S3 Inventory at {self._address}", bucket=self._address.bucket, setting=_SETTING):
            yield

    # -- everything else ------------------------------------------------------------------------

    def head(self, keys: Sequence[str]) -> Iterator[Blob]:
        return self.live.head(keys)

    def honours_conditions(self) -> bool:
        return self.live.honours_conditions()

    def unfinished_uploads(self) -> Uploads | None:
        return self.live.unfinished_uploads()

    def deletes_only_unchanged(self) -> bool:
        return self.live.deletes_only_unchanged()

    def delete_unchanged(self, blobs: Iterable[Blob]) -> Iterator[Deletion]:
        return self.live.delete_unchanged(blobs)

    def copy_to(self, blob: Blob, *, target: BasePath, key: str) -> bool:
        return self.live.copy_to(blob, target=target, key=key)

    def get(self, key: str) -> bytes | None:
        return self.live.get(key)

    def put(self, key: str, content: bytes) -> None:
        self.live.put(key, content)


def inventory_address(text: str) -> BlobUri:
    """A configured address of an inventory.

    :raises ConfigurationError: if it is none.
    """
    try:
        address = BlobUri.parse(text.strip().rstrip("/"))
    except InvalidBlobUri as why:
        raise _wrong(f"The URL of the S3 Inventory cannot be used: {why}", _EXAMPLE) from None
    if address.scheme != "s3" or not address.key:
        raise _wrong("The URL of the S3 Inventory has no folder in the bucket", _EXAMPLE)
    return address


_EXAMPLE = "Set it to a URL such as s3://inventory-bucket/prefix/source-bucket/configuration-name"


def _wrong(problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(problem, setting=_SETTING, remedy=remedy)


def _broken(problem: str) -> StoreUnavailable:
    return StoreUnavailable(problem, setting=_SETTING, remedy="Wait for the next inventory, or use an older one")
