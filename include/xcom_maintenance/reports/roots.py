"""Settings -> where reports and archives are kept."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from include.xcom_maintenance.core.blob_uri import BasePath, BlobUri
from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.reports.paths import storage_path
from include.xcom_maintenance.settings.common import CommonSettings

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


def report_root(settings: CommonSettings) -> ObjectStoragePath:
    """The folder of all reports.

    :raises ConfigurationError: if the report path is no path.
    """
    return _root(settings, settings.report_path or "", "report_path", "reports")


def archive_root(settings: CommonSettings) -> ObjectStoragePath | None:
    """The folder of all archives of deleted rows, or None if none are kept.

    :raises ConfigurationError: if the archive path is no path.
    """
    if settings.archive_path is None:
        return None
    return _root(settings, settings.archive_path, "archive_path", "archive")


def _root(settings: CommonSettings, text: str, setting: str, what: str) -> ObjectStoragePath:
    root = storage_path(text, setting=setting)
    if settings.blob_base_path and (where := _below(BlobUri.parse(text), settings.blob_base_path)):
        raise ConfigurationError(
            f"The {setting.replace('_', ' ')} {text!r} lies below {where}",
            setting=setting,
            remedy=f"Keep the {what} outside the blob base path",
        )
    return root


def _below(uri: BlobUri, base_path: str) -> str | None:
    """Where among the blobs an address lies; None if it does not."""
    try:
        base = BasePath.parse(base_path, setting="blob_base_path")
    except ConfigurationError:
        return None  # said elsewhere, in its own words
    places = {"the blob base path": base, "the quarantine beside the blob base path": base.quarantine}
    uri = _followed(replace(uri, key=uri.key.rstrip("/")))
    followed = {name: BasePath(_followed(place.uri)) for name, place in places.items()}
    return next((name for name, place in followed.items() if uri == place.uri or place.contains(uri)), None)


def _followed(uri: BlobUri) -> BlobUri:
    """Where a folder really is: the address of a link to it would not tell."""
    return replace(uri, key=os.path.realpath(f"/{uri.key}").strip("/")) if uri.scheme == "file" else uri
