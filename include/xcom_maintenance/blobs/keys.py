"""Keys in byte order: ranges of them, and what those have in common."""

from __future__ import annotations


def in_range(key: str, after: str | None, before: str | None) -> bool:
    """Whether a key lies from ``after`` on and before ``before``, in byte order, which is that of code points."""
    return (after is None or key >= after) and (before is None or key < before)


def shared_prefix(first: str, last: str) -> str:
    """What two keys begin with, and with them all that sort between."""
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((place for place, (one, other) in pairs if one != other), min(len(first), len(last)))]


def just_before(key: str) -> str:
    """A key before this one, with hardly anything in between: S3's StartAfter leaves out the key that it names."""
    last = key[-1:]
    # Printable ASCII on both sides, since not every server takes every character here.
    return key[:-1] + (f"{chr(ord(last) - 1)}~" if "!" < last <= "~" else "")
