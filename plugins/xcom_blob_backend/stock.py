"""Values that Airflow's ``XComObjectStorageBackend`` wrote: a path in the row, and JSON in a file, maybe compressed."""

from __future__ import annotations

import io
import json
import re
from typing import Any

from xcom_blob_backend.errors import BackendNotConfigured, BlobDamaged

_SUFFIX = r"(\.[a-z0-9]{1,8})?"
#: ``<dag>/<run>/<task>/<uuid4>[.<suffix>]``
_UNIQUE = re.compile(r"[^/]+/[^/]+/[^/]+/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}" + _SUFFIX)
#: ``<anything>/<name>.json[.<suffix>]``: newer versions of the provider.
_NAMED = re.compile(r"(?:[^/]+/)+[^/]+\.json" + _SUFFIX)
#: Of the compressions that fsspec knows, whether their libraries are installed here or not.
_COMPRESSED = {".bz2", ".gz", ".lz4", ".lzma", ".snappy", ".xz", ".zip", ".zst"}


def is_name(name: str, *, of_its_own: bool) -> bool:
    """Whether that backend may have given this name.

    :param name: relative to a base path.
    :param of_its_own: whether it is the base path that this backend is configured with. Elsewhere only a name that is
        unique counts: any other may be somebody's file. So is one with a suffix of no compression, such as ``.csv``.
    """
    found = _UNIQUE.fullmatch(name) or (_NAMED.fullmatch(name) if of_its_own else None)
    return found is not None and (found[1] is None or found[1] in _COMPRESSED or _codec(found[1]) is not None)


def decode(data: bytes, name: str, where: str) -> Any:
    """The value in such a file; its compression follows from the name, as fsspec has it.

    :raises BlobDamaged: if the file cannot be read. (That backend would return its path.)
    """
    from airflow.utils.json import XComDecoder
    from fsspec.compression import compr

    found = _UNIQUE.fullmatch(name) or _NAMED.fullmatch(name)
    suffix = found[1] if found else None
    codec = _codec(suffix) if suffix else None
    if suffix and codec is None:
        raise BackendNotConfigured(f"{where} is compressed ({suffix}) with a library that is not installed")
    try:
        text = compr[codec](io.BytesIO(data), mode="rb").read() if codec else data
        return json.loads(text, cls=XComDecoder)
    except (OSError, EOFError, ValueError, RuntimeError) as why:
        raise BlobDamaged(
            f"{where} is damaged: {type(why).__name__} when reading it as {codec or 'plain'} JSON"
        ) from None


def _codec(suffix: str) -> str | None:
    """The compression that fsspec has for a suffix; None if it is of none, or of one that is not installed."""
    import fsspec.compression  # noqa: F401 - it tells fsspec of them
    from fsspec.utils import infer_compression

    found: str | None = infer_compression(f"x{suffix}")
    return found
