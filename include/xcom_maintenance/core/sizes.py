"""The size bands that an XCom value falls into."""

from __future__ import annotations

from dataclasses import dataclass

KB = 1024
MB = 1024 * KB


@dataclass(frozen=True, slots=True)
class Band:
    """A half-open range of stored bytes: ``lower <= size < upper``; no upper bound if None."""

    name: str
    lower: int
    upper: int | None


#: 48 KB is where Astronomer's guidance moves values out of the database; 10 MB is where a push becomes a hazard.
BANDS = (
    Band("below 1 KB", 0, KB),
    Band("1-10 KB", KB, 10 * KB),
    Band("10-48 KB", 10 * KB, 48 * KB),
    Band("above 48 KB", 48 * KB, 10 * MB),
    Band("above 10 MB", 10 * MB, None),
)


def human_bytes(size: float) -> str:
    """A size for people, in powers of 1024: ``1.5 MB``."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if abs(size) < KB:
            return f"{int(size)} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= KB
    return f"{size:.1f} TB"
