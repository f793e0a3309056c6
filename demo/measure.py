"""What is in the table and in the bucket, by SQL and a listing of the demo's own.

Nothing of the bundle is used here: the demo measures what the bundle says about itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg import sql

from demo.history import WORKLOAD
from demo.stack import BUCKET, DATABASE, PREFIX, Stack

_REFERENCE = re.compile(rf"s3://(?:[^/@]+@)?{re.escape(BUCKET)}/(?P<key>{re.escape(PREFIX)}.+)")

#: (dag_id, run_id, task_id, map_index, key): what identifies an XCom row to a person.
RowId = tuple[str, str, str, int, str]


@dataclass(frozen=True)
class Row:
    """An XCom row: how much it takes, a digest of its content, when it was pushed, and the blob it refers to."""

    size: int
    digest: str
    pushed: datetime
    blob: str | None


@dataclass(frozen=True)
class Blob:
    """An object in the bucket."""

    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True)
class Snapshot:
    """All rows of the workload and all objects of the bucket at one moment."""

    rows: dict[RowId, Row]
    archived: frozenset[str]
    objects: dict[str, Blob]

    @property
    def blobs(self) -> dict[str, Blob]:
        """The objects where the backend puts the workload's blobs; other things may lie beside them."""
        folders = tuple(f"{PREFIX}{dag_id}/" for dag_id in WORKLOAD)
        return {key: blob for key, blob in self.objects.items() if key.startswith(folders)}

    @property
    def row_bytes(self) -> int:
        return sum(row.size for row in self.rows.values())

    @property
    def blob_bytes(self) -> int:
        return sum(blob.size for blob in self.blobs.values())

    @property
    def references(self) -> dict[RowId, str]:
        return {row_id: row.blob for row_id, row in self.rows.items() if row.blob is not None}

    @property
    def dangling(self) -> dict[RowId, str]:
        """Rows whose blob is gone."""
        return {row_id: key for row_id, key in self.references.items() if key not in self.objects}

    @property
    def orphans(self) -> dict[str, Blob]:
        """Blobs to which neither a row nor an archived row refers."""
        wanted = self.archived | set(self.references.values())
        return {key: blob for key, blob in self.blobs.items() if key not in wanted}

    def orphans_older_than(self, age: timedelta) -> dict[str, Blob]:
        limit = datetime.now(UTC) - age
        return {key: blob for key, blob in self.orphans.items() if blob.modified < limit}


def take_snapshot(stack: Stack) -> Snapshot:
    with stack.postgres.connect(DATABASE) as connection:
        rows = {
            (dag_id, run_id, task_id, map_index, key): Row(size, digest, pushed, blob_key(text))
            for dag_id, run_id, task_id, map_index, key, size, digest, pushed, text in connection.execute(
                "SELECT dag_id, run_id, task_id, map_index, key, coalesce(pg_column_size(value), 0),"
                " md5(xcom::text), timestamp,"
                " CASE WHEN jsonb_typeof(value) = 'string' THEN value #>> '{}' END"
                " FROM xcom WHERE dag_id = ANY(%s)",
                [list(WORKLOAD)],
            )
        }
        archived: set[str] = set()
        for (table,) in connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_name LIKE '\\_airflow\\_deleted\\_\\_xcom%'"
        ).fetchall():
            query = "SELECT value #>> '{{}}' FROM {} WHERE jsonb_typeof(value) = 'string'"
            found = connection.execute(sql.SQL(query).format(sql.Identifier(table)))
            archived.update(key for (text,) in found if (key := blob_key(text)))
    return Snapshot(rows, frozenset(archived), _objects(stack))


def blob_key(text: str | None) -> str | None:
    """The key that a stored value refers to, if it is a reference."""
    match = _REFERENCE.fullmatch(text or "")
    return match["key"] if match else None


def _objects(stack: Stack) -> dict[str, Blob]:
    pages = stack.s3.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {
        found["Key"]: Blob(found["Size"], found["ETag"], found["LastModified"])
        for page in pages
        for found in page.get("Contents", [])
    }
