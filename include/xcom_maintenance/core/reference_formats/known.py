"""The layouts of the XCom backends that exist in the field, each with the source that it was read from."""

from __future__ import annotations

from include.xcom_maintenance.core.reference_formats.layout import UUID, UUID4, Formats, layout

_PLACE = "(?P<dag_id>[^/]+)/(?P<run_id>[^/]+)/(?P<task_id>[^/]+)/"
#: The suffixes of the compressions that ``fsspec.compression`` registers: the stock backend appends one of these or
#: none. Whatever else stands beside a blob, such as ``<uuid>.tmp`` or ``<uuid>.csv``, somebody else wrote.
_COMPRESSED = r"(?:\.(?:bz2|gz|lz4|lzma|snappy|xz|zip|zst))?"

#: ``<dag>/<run>/<task>/<uuid4>[.<compression>]``: ``XComObjectStorageBackend.serialize_value`` of the common.io
#: provider, which appends the suffix that fsspec lists for the configured compression.
OBJECT_STORAGE = layout("XComObjectStorageBackend", f"{_PLACE}(?P<unique>{UUID4}){_COMPRESSED}")

#: ``<dag>/<run>/<task>/ti-<task instance id>/<quoted key>.json[.<compression>]``, or ``write-<uuid>/…`` for an XCom
#: that is written for another task: ``XComObjectStorageBackend.store_value`` on Airflow 3.4 and later (changelog of
#: common.io 1.11.0). A task that pushes again **overwrites** the path, and all keys of a task instance share its id, so
#: what counts is the id together with the name of the file. Where a path would be longer than 1,024 bytes the first
#: three are shortened: such a blob names no DAG that is known, and is left alone as foreign.
OBJECT_STORAGE_BY_TASK_INSTANCE = layout(
    "XComObjectStorageBackend (by task instance)",
    f"{_PLACE}(?:ti|write)-(?P<unique>{UUID})/(?P<file>[^/]+\\.json{_COMPRESSED})",
)

#: ``<dag>/<run>/<task>/<uuid4>.xcb``, the ids percent-encoded: this project's own backend (its module ``names``). A
#: very long id is cut and ends in a hash, by which it is compared with the ids that are known.
OWN = layout("xcom_blob_backend", f"{_PLACE}(?P<unique>{UUID4})\\.xcb", quoted=True)

#: ``s3_xcom_<uuid4>[.gz]`` and ``gcs_xcom_<uuid4>[.gz]``: the backends of astronomer-providers. The row holds the bare
#: key, and the key does not say whose it is.
BARE = layout("bare key", f"(?:s3|gcs|gs|azure|wasb)_xcom_(?P<unique>{UUID4})(?:\\.gz)?")

#: ``[<run>/<task>/]data_<uuid4>.<suffix>``: the custom backends of Astronomer's guides, whose rows hold
#: ``xcom_s3://<key>``. The key does not say which DAG it belongs to. The suffixes are those of the kinds of values that
#: the guides, and what was made after them, serialize.
GUIDES = layout(
    "Astronomer's guides",
    f"(?:[^/]+/[^/]+/)?data_(?P<unique>{UUID4})(?:\\.(?:json|csv|html|parquet|pkl|pickle|txt))?{_COMPRESSED}",
)

KNOWN = Formats((OWN, OBJECT_STORAGE, OBJECT_STORAGE_BY_TASK_INSTANCE, BARE, GUIDES))

_ANY_SUFFIX = r"(?:\.[a-z0-9]{1,8})?"
#: What earlier versions took for blobs and moved into quarantine, whatever its suffix. It may return from there, and
#: that is all that is done with it.
FORMERLY_KNOWN = (
    layout("any suffix", f"{_PLACE}(?P<unique>{UUID4}){_ANY_SUFFIX}"),
    layout("any suffix (by task instance)", f"{_PLACE}(?:ti|write)-(?P<unique>{UUID})/[^/]+\\.json{_ANY_SUFFIX}"),
)
