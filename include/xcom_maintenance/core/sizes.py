"""The size bands that an XCom value falls into, what each calls for, and the thresholds that a backend may have."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

KB = 1024
MB = 1024 * KB
GB = 1024 * MB

#: Where classes of sizes begin. Bands and thresholds are sums over classes, so that one pass serves both.
CUTS = (0, KB, 10 * KB, 48 * KB, 256 * KB, MB, 10 * MB)
#: The class of a value that is NULL.
NULL_CLASS = -1
#: Thresholds of a backend that an audit compares: values of this size and above would leave the database.
THRESHOLDS = (KB, 10 * KB, 48 * KB, 256 * KB, MB)
#: A string inside of a JSONB value has no more bytes than this (JENTRY_OFFLENMASK in Postgres' jsonb.h).
JSONB_STRING_LIMIT = 268_435_455


@dataclass(frozen=True, slots=True)
class Band:
    """A half-open range of sizes in bytes, ``lower <= size < upper``, and what to do with values in it."""

    name: str
    lower: int
    #: No upper bound if None.
    upper: int | None
    advice: str


#: 48 KB is where Astronomer's guidance moves values out of the database; 10 MB is where a push becomes a hazard.
BANDS = (
    Band("below 1 KB", 0, KB, "ideal"),
    Band("1-10 KB", KB, 10 * KB, "good: keep them in the database"),
    Band("10-48 KB", 10 * KB, 48 * KB, "acceptable: keep them in the database, compressed"),
    Band("48 KB-10 MB", 48 * KB, 10 * MB, "use an object-storage backend"),
    Band("above 10 MB", 10 * MB, None, "push a path instead of the value"),
)


def class_of(size: int) -> int:
    """The class that a size belongs to: the position of the last cut that is not above it."""
    return bisect_right(CUTS, size) - 1


def at_least(by_class: Mapping[int, float], lower: int, upper: int | None = None) -> float:
    """What classes add up to from one cut up to another.

    :param by_class: class -> rows, or bytes.
    :param lower: one of ``CUTS``.
    :param upper: another, or None for no bound.
    """
    first, end = CUTS.index(lower), len(CUTS) if upper is None else CUTS.index(upper)
    return sum(amount for number, amount in by_class.items() if first <= number < end)


def human_bytes(size: float) -> str:
    """A size for people, in powers of 1024: ``1.5 MB``."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if abs(size) < KB:
            return f"{int(size)} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= KB
    return f"{size:.1f} TB"
