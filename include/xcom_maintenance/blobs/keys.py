"""Keys in byte order: ranges of them, and what those have in common."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, takewhile

from include.xcom_maintenance.core.byte_order import in_byte_order


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


def by_folder(keys: Iterable[str], *, at_least: int) -> tuple[list[list[str]], list[str]]:
    """Keys in byte order, by the deepest folder in which so many of them lie together; and those without one."""
    waiting = sorted(keys, key=in_byte_order)
    folders: list[list[str]] = []
    scattered: list[str] = []
    at = 0
    while at < len(waiting):
        *parents, _ = waiting[at].split("/")
        together = 1
        for depth in range(len(parents), 0, -1):
            folder = "/".join(parents[:depth]) + "/"
            together = _first_in(folder, islice(waiting, at, None))
            if together >= at_least:
                folders.append(waiting[at : at + together])
                break
        else:
            scattered += waiting[at : at + 1]
            together = 1
        at += together
    return folders, scattered


def _first_in(folder: str, keys: Iterable[str]) -> int:
    """How many keys lie in a folder before the first that does not."""
    return sum(1 for _ in takewhile(lambda key: key.startswith(folder), keys))
