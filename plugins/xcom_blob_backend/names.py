"""Names of blobs: unique, and safe in every store whatever the ids of the entry are.

``<dag_id>/<run_id>/<task_id>/<uuid4>.xcb``: the layout of Airflow's own object storage backend, so that what knows the
one knows the other. The unique part is random, so no push ever writes over what a row may still refer to.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from urllib.parse import quote

SUFFIX = ".xcb"
#: S3 and GCS take 1,024 bytes, Azure as many characters; a file system takes 255 bytes for each segment.
MAX_KEY_BYTES = 1024
_MAX_SEGMENT_BYTES = 250
_UNIQUE_BYTES = 36 + len(SUFFIX)
#: Of a segment that is cut: enough of a hash that two long ids never share a folder.
_HASH_CHARACTERS = 24
#: What `quote` leaves as it is beside letters, digits and "_.-~". All of it is harmless in URLs, in shells and in JSON.
_SAFE = ":+@=,"
_UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_NAME = re.compile(rf"([^/]+)/([^/]+)/([^/]+)/{_UUID4}{re.escape(SUFFIX)}")


def blob_name(dag_id: str | None, run_id: str | None, task_id: str | None, *, prefix_bytes: int) -> str:
    """A new name, relative to the base path.

    :param prefix_bytes: the length of the base path with its last slash, which counts towards the limit of a key.
    """
    return f"{folder(dag_id, run_id, task_id, prefix_bytes=prefix_bytes)}{uuid.uuid4()}{SUFFIX}"


def folder(dag_id: str | None, run_id: str | None, task_id: str | None, *, prefix_bytes: int) -> str:
    """Where the blobs of a task lie, relative to the base path, with the last slash."""
    limit = min(_MAX_SEGMENT_BYTES, (MAX_KEY_BYTES - prefix_bytes - _UNIQUE_BYTES - 3) // 3)
    ids = (dag_id or "NO_DAG_ID", run_id or "NO_RUN_ID", task_id or "NO_TASK_ID")
    return "".join(f"{_segment(text, limit)}/" for text in ids)


def is_blob_name(name: str) -> bool:
    """Whether this backend may have given this name (relative to the base path)."""
    found = _NAME.fullmatch(name)
    return found is not None and not {".", ".."} & set(found.groups())


def _segment(text: str, limit: int) -> str:
    """An id as one segment of a key: percent-encoded, never ``.`` or ``..``, cut to a limit in bytes."""
    safe = quote(text, safe=_SAFE, errors="surrogatepass")
    if not safe.strip("."):
        safe = safe.replace(".", "%2E")
    if len(safe) <= limit:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
    return f"{safe[: limit - _HASH_CHARACTERS - 1]}~{digest}"
