"""The data files of an S3 Inventory: gzipped CSV and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import IO, Any
from urllib.parse import unquote_plus

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.records import Blob

#: The names of the fields that are needed, in CSV and in Parquet.
REQUIRED = {"Key": "key", "Size": "size", "LastModifiedDate": "last_modified_date", "ETag": "e_tag"}
#: There if the inventory lists all versions.
_VERSIONS = ("is_latest", "is_delete_marker")
_ROWS = 10_000

#: Reads a data file: its whole objects, not their older versions, by their full keys.
Reader = Callable[[IO[bytes]], Iterator[Blob]]


def reader(file_format: str, schema: str, *, setting: str) -> Reader:
    """How to read the data files of an inventory.

    :param schema: as the manifest states it.
    :raises ConfigurationError: if the format is another one, if a needed field is not among its fields, or if the
        package that reads it is not installed.
    """
    if file_format == "CSV":
        columns = [column.strip() for column in schema.split(",")]
        _require(REQUIRED.keys() - set(columns), setting)
        return lambda file: _csv(file, columns)
    if file_format == "Parquet":
        declared = {word.rstrip(";") for word in schema.replace("(", " ").split()}
        _require({name for name, column in REQUIRED.items() if column not in declared}, setting)
        try:
            import pyarrow.parquet  # noqa: F401 - better said now than after the download
        except ImportError:
            raise ConfigurationError(
                "The S3 Inventory is in Parquet format, but pyarrow is not installed",
                setting=setting,
                remedy="Install pyarrow on the workers, or let S3 write the inventory as CSV",
            ) from None
        return _parquet
    raise ConfigurationError(
        f"The S3 Inventory has an unsupported format: {file_format}",
        setting=setting,
        remedy="Let S3 write the inventory as CSV or Parquet",
    )


def _require(missing: set[str], setting: str) -> None:
    if missing:
        raise ConfigurationError(
            f"The S3 Inventory lacks these fields: {', '.join(sorted(missing))}",
            setting=setting,
            remedy="Add the fields Size, LastModifiedDate and ETag to the inventory configuration",
        )


def _csv(file: IO[bytes], columns: Sequence[str]) -> Iterator[Blob]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with gzip.open(file) as unpacked:
        for values in csv.reader(io.TextIOWrapper(unpacked, encoding="utf-8", newline="")):
            row = dict(zip(columns, values, strict=True))
            if row.get("IsLatest", "true").lower() != "true" or row.get("IsDeleteMarker", "false").lower() == "true":
                continue
            modified = datetime.fromisoformat(row["LastModifiedDate"]) if row["LastModifiedDate"] else None
            # In CSV a space is a plus and a plus is %2B.
            yield Blob(unquote_plus(row["Key"], errors="strict"), int(row["Size"]), modified, row["ETag"] or None)


def _parquet(file: IO[bytes]) -> Iterator[Blob]:
    from pyarrow import parquet

    source = parquet.ParquetFile(file)
    wanted = {*REQUIRED.values(), *(set(_VERSIONS) & set(source.schema_arrow.names))}
    for batch in source.iter_batches(batch_size=_ROWS, columns=sorted(wanted)):
        rows: list[dict[str, Any]] = batch.to_pylist()
        for row in rows:
            if row.get("is_latest") is False or row.get("is_delete_marker"):
                continue
            modified: datetime | None = row["last_modified_date"]
            if modified is not None and modified.tzinfo is None:
                modified = modified.replace(tzinfo=UTC)
            yield Blob(row["key"], row["size"], modified, row["e_tag"])
