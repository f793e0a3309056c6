"""Inventories of a bucket, as S3 writes them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
from pyarrow import parquet

from include.xcom_maintenance.blobs.inventory.store import InventoriedBlobStore, inventory_address
from include.xcom_maintenance.blobs.s3.store import S3BlobStore
from include.xcom_maintenance.core.blob_uri import BasePath
from local_stack.s3 import MotoS3, RcloneS3

FIELDS = [
    "Bucket",
    "Key",
    "VersionId",
    "IsLatest",
    "IsDeleteMarker",
    "Size",
    "LastModifiedDate",
    "ETag",
    "StorageClass",
]
PARQUET_SCHEMA = (
    "message s3.inventory {  required binary bucket (UTF8);  required binary key (UTF8);  optional binary version_id "
    "(UTF8);  optional boolean is_latest;  optional boolean is_delete_marker;  optional int64 size;  optional int64 "
    "last_modified_date (TIMESTAMP(MILLIS,true));  optional binary e_tag (UTF8);  "
    "optional binary storage_class (UTF8);}"
)


@dataclass
class Inventory:
    """Writes inventories of one bucket into another, as S3 does."""

    server: MotoS3 | RcloneS3
    file_format: str = "CSV"
    bucket: str = field(default_factory=lambda: f"blobs-{uuid.uuid4().hex[:12]}")

    def __post_init__(self) -> None:
        self.client = self.server.client()
        self.destination = f"{self.bucket}-inventory"
        self.folder = f"some/prefix/{self.bucket}/weekly"
        for bucket in {self.bucket, self.destination} - {b["Name"] for b in self.client.list_buckets()["Buckets"]}:
            self.client.create_bucket(Bucket=bucket)
        self.base = BasePath.parse(f"s3://{self.bucket}/xcom", setting="blob_base_path")
        self.live = S3BlobStore(self.client, self.base, setting="blob_base_path")

    def fill(self, keys: list[str], prefix: str = "xcom/") -> None:
        for key in keys:
            self.client.put_object(Bucket=self.bucket, Key=prefix + key, Body=key.encode())

    def rows(self) -> list[dict[str, Any]]:
        """The bucket as it is, in no order, with an older version and a delete marker."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        common = {"Bucket": self.bucket, "VersionId": "v2", "StorageClass": "STANDARD"}
        rows: list[dict[str, Any]] = [
            {
                **common,
                "Key": item["Key"],
                "IsLatest": True,
                "IsDeleteMarker": False,
                "Size": item["Size"],
                "LastModifiedDate": item["LastModified"],
                "ETag": item["ETag"].strip('"'),
            }
            for page in pages
            for item in page.get("Contents", [])
        ]
        old = datetime(2020, 1, 1, tzinfo=UTC)
        for key, latest, marker in (("xcom/d/r/t/00", False, False), ("xcom/deleted/r/t/1", True, True)):
            figures = {"Size": None if marker else 7, "ETag": None if marker else "0" * 32, "LastModifiedDate": old}
            rows.append({**common, "Key": key, "IsLatest": latest, "IsDeleteMarker": marker, **figures})
        random.Random(1).shuffle(rows)
        return rows

    def write(self, *, day: int = 1, finished: bool = True, **changes: Any) -> str:
        """Write an inventory of now in three files; returns the key of its manifest."""
        rows = self.rows()
        files = []
        for part in range(3):
            data = (self._csv if self.file_format == "CSV" else self._parquet)(rows[part::3])
            key = f"{self.folder}/data/{uuid.uuid4()}"
            self.client.put_object(Bucket=self.destination, Key=key, Body=data)
            files.append({"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()})
        manifest = {
            "sourceBucket": self.bucket,
            "destinationBucket": f"arn:aws:s3:::{self.destination}",
            "version": "2016-11-30",
            "creationTimestamp": str(int(datetime(2026, 1, day, tzinfo=UTC).timestamp() * 1000)),
            "fileFormat": self.file_format,
            "fileSchema": ", ".join(FIELDS) if self.file_format == "CSV" else PARQUET_SCHEMA,
            "files": files,
            **changes,
        }
        content = json.dumps(manifest).encode()
        key = f"{self.folder}/2026-01-{day:02}T01-00Z/manifest"
        self.client.put_object(Bucket=self.destination, Key=f"{key}.json", Body=content)
        if finished:
            checksum = hashlib.md5(content).hexdigest()
            self.client.put_object(Bucket=self.destination, Key=f"{key}.checksum", Body=f"{checksum}\n".encode())
        return f"{key}.json"

    def _csv(self, rows: list[dict[str, Any]]) -> bytes:
        text = io.StringIO()
        lines = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for row in rows:
            moment = row["LastModifiedDate"].strftime("%Y-%m-%dT%H:%M:%S.000Z")
            said = {**row, "Key": quote_plus(row["Key"], safe="/"), "LastModifiedDate": moment}
            said |= {name: str(said[name]).lower() for name in ("IsLatest", "IsDeleteMarker")}
            lines.writerow(["" if said[name] is None else said[name] for name in FIELDS])
        return gzip.compress(text.getvalue().encode())

    def _parquet(self, rows: list[dict[str, Any]]) -> bytes:
        names = ["bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "last_modified_date", "e_tag"]
        types = [pa.string()] * 3 + [pa.bool_()] * 2 + [pa.int64(), pa.timestamp("ms", "UTC"), pa.string()]
        columns = [[row[name] for row in rows] for name in FIELDS[: len(names)]]
        table = pa.table({name: pa.array(c, t) for name, c, t in zip(names, columns, types, strict=True)})
        sink = io.BytesIO()
        parquet.write_table(table, sink)
        return sink.getvalue()

    def open(self, address: str | None = None) -> InventoriedBlobStore:
        parsed = inventory_address(address or f"s3://{self.destination}/{self.folder}/")
        return InventoriedBlobStore(self.live, self.client, parsed)
