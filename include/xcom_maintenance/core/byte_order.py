"""The order in which stores list keys."""

from __future__ import annotations


def in_byte_order(key: str) -> str:
    """A text that sorts as the key does in byte order, and is equal to that of no other key.

    Python compares texts by code points, which is the same but for what was no UTF-8 and stands in them as surrogates.
    """
    return key if key.isascii() else key.encode(errors="surrogateescape").decode("latin-1")
