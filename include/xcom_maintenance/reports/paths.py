"""What reports and archives share: safe names of files, folders, and errors that name the setting."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from include.xcom_maintenance.core.blob_uri import BlobUri, InvalidBlobUri
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

_LONGEST_STEM = 200
_BUCKETS = frozenset({"s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "adl", "az", "wasb", "wasbs", "oss"})


def stem_of(run_id: str) -> str:
    """A run id as the name of a file: it leads to no other folder and is not too long."""
    # Airflow's default pattern for run ids allows no slash, but the pattern is a setting.
    stem = re.sub(r"[/\\]|^\.+", "_", run_id)
    if len(stem.encode()) > _LONGEST_STEM:  # file systems end at 255 bytes, suffixes included
        stem = f"{stem[:60]}~{hashlib.sha256(run_id.encode()).hexdigest()}"
    return stem


def make_folder(folder: ObjectStoragePath) -> None:
    """Make a folder, where there are folders."""
    # Buckets have none, and fsspec would create a bucket that is missing for a typing error.
    if folder.protocol not in _BUCKETS:
        folder.mkdir(parents=True, exist_ok=True)


def storage_path(text: str, *, setting: str) -> ObjectStoragePath:
    """A configured path.

    :param setting: the setting that holds it, such as ``report_path``.
    :raises ConfigurationError: if it is no path, or leads to another folder on every worker.
    """
    from airflow.sdk import ObjectStoragePath

    wrong = f"The {setting.replace('_', ' ')} {{}}cannot be used: {{}}"
    remedy = f"Set it to a path such as {_examples(setting)}"
    try:
        BlobUri.parse(text)
    except InvalidBlobUri as why:
        raise ConfigurationError(wrong.format("", why), setting=setting, remedy=remedy) from None
    try:
        return ObjectStoragePath(text)
    except Exception as error:  # noqa: BLE001 - as many kinds as fsspec knows file systems
        raise ConfigurationError(
            wrong.format(f"{text!r} ", type(error).__name__), setting=setting, remedy=remedy
        ) from None


@contextmanager
def path_errors(path: ObjectStoragePath, verb: str, *, setting: str) -> Iterator[None]:
    """Turn whatever a file system raises into a ConfigurationError about the setting that led there.

    :param verb: what cannot be done with the path, such as ``written``.
    """
    try:
        yield
    except MaintenanceError:
        raise
    except Exception as error:  # noqa: BLE001 - every file system that fsspec knows raises its own errors
        # What they say may hold credentials.
        remedy = f"Set it to an existing place that the workers can write to, such as {_examples(setting)}"
        if isinstance(error, ImportError):
            remedy = f"Install the package that supports {path.protocol}://, or set it to another place"
        elif "SSL" in type(error).__name__ or "Certificate" in type(error).__name__:
            # Airflow's file systems do not read verify of a Connection.
            remedy = "Name the file with the authority of the server in AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE"
        raise ConfigurationError(
            f"The {setting.replace('_', ' ')} {path} cannot be {verb}: {type(error).__name__}",
            setting=setting,
            remedy=remedy,
        ) from None


def _examples(setting: str) -> str:
    folder = {"report_path": "reports"}.get(setting, "archive")
    return f"file:///opt/airflow/{folder} or s3://conn_id@bucket/{folder}"
