"""Compression. Each library is imported when it is first needed."""

from __future__ import annotations

import importlib
import zlib
from typing import Any

from xcom_blob_backend.errors import BackendNotConfigured, BlobDamaged

NONE = "none"
#: Codec -> the module it needs, and the package that brings it.
_NEEDS = {"zstd": ("zstandard", "zstandard"), "gzip": ("gzip", ""), "lz4": ("lz4.frame", "lz4")}
NAMES = (*_NEEDS, NONE)
#: Below that a frame is hardly smaller than what is in it.
_MIN_BYTES = 128
#: Compression pays if it saves at least this share.
_MIN_SAVING = 0.05


def compress(data: bytes, codec: str, level: int | None) -> tuple[str, bytes]:
    """The codec that was used and what it made of the data; ``none`` and the data itself where it does not pay.

    :raises BackendNotConfigured: if the library is not installed.
    """
    if codec == NONE or len(data) < _MIN_BYTES:
        return NONE, data
    library = _library(codec)
    if codec == "zstd":
        packed = library.ZstdCompressor(level=3 if level is None else level).compress(data)
    elif codec == "gzip":
        packed = library.compress(data, compresslevel=6 if level is None else level, mtime=0)
    else:
        packed = library.compress(data, compression_level=0 if level is None else level)
    return (codec, packed) if len(packed) <= len(data) * (1 - _MIN_SAVING) else (NONE, data)


def decompress(payload: bytes | memoryview, codec: str, raw_bytes: int, where: str) -> bytes | memoryview:
    """What was compressed.

    :param raw_bytes: how long it must be.
    :raises BlobDamaged: if it is not, or cannot be decompressed.
    """
    if codec == NONE:
        data: bytes | memoryview = payload
    else:
        library = _library(codec)
        try:
            if codec == "zstd":
                data = library.ZstdDecompressor().decompress(payload, max_output_size=raw_bytes)
            else:
                data = library.decompress(payload)
        except (OSError, EOFError, ValueError, RuntimeError, zlib.error, getattr(library, "ZstdError", OSError)) as why:
            raise BlobDamaged(f"{where} is damaged: {codec} cannot decompress it ({why})") from None
    if len(data) != raw_bytes:
        raise BlobDamaged(f"{where} is damaged: it holds {len(data)} bytes instead of {raw_bytes}")
    return data


def _library(codec: str) -> Any:
    if codec not in _NEEDS:
        raise BackendNotConfigured(f"The compression {codec!r} is not one of {', '.join(NAMES)}")
    module, package = _NEEDS[codec]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise BackendNotConfigured(
            f"The compression {codec!r} needs the package {package}: install it, or set [xcom_blob_backend] compression"
        ) from None
