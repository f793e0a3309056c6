"""What a declared layout says about a blob's key: whose the blob is, and by which part of its name values mean it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from include.xcom_maintenance.core.records import Coordinates

#: The names by which values are searched, in lower case: a UUID of any version, or 32 hexadecimal digits.
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
HEX = "[0-9a-f]{32}"
UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"

#: What the pattern of a layout can name.
GROUPS = frozenset({"dag_id", "run_id", "task_id", "unique", "file"})
_UNIQUE = re.compile(f"{UUID}|{HEX}")


@dataclass(frozen=True, slots=True)
class BlobName:
    """What the key of a blob says."""

    #: The layout's name.
    layout: str
    #: None if the key does not say whose the blob is; such a blob is never an orphan unless the user says otherwise.
    coordinates: Coordinates | None
    #: A UUID or 32 hexadecimal digits, in lower case. A value in which it occurs may mean the blob.
    unique: str
    #: Of several blobs that share ``unique``: the name of the file after it. None if no two blobs share it.
    file: str | None = None
    #: Whether ids that are too long are cut in this layout, and end in a hash then.
    cuts: bool = False

    def is_of(self, owner: Coordinates, *, in_part: bool = False) -> bool:
        """Whether a backend wrote the blob for this task instance.

        :param in_part: whether it is enough that nothing in the key says otherwise, where it tells the DAG.
        """
        if self.coordinates is None:
            return False
        same = names if self.cuts else str.__eq__
        parts = zip(self.coordinates.parts, owner.parts, strict=True)
        return all(same(said, whole) or (in_part and not said) for said, whole in parts)

    def is_meant_by(self, after: str | None) -> bool:
        """Whether a value that holds the unique part means this blob, and not certainly another one that shares it.

        :param after: what comes after the unique part up to the next separator, from its slash on; None if nothing.
        """
        if self.file is None or after is None:
            return True
        other = after.removeprefix("/").lower()
        # What is cut off or has something appended may still be ours; only a whole other file is certainly not.
        return not _IS_A_FILE.search(other) or other.startswith(self.file.lower())


#: How a segment ends that was too long for a store and was cut: with a hash of the whole id.
_CUT = re.compile(r"(?s)(?P<head>.*)~(?P<hash>[0-9a-f]{24})")


def hash_of(segment: str) -> str | None:
    """The hash in an id that a quoted layout had to cut; None if it is whole, as far as can be seen."""
    found = _CUT.fullmatch(segment)
    return found["hash"] if found else None


def names(segment: str, whole: str) -> bool:
    """Whether an id, as a key of a quoted layout has it, is this one, or the beginning of it with its hash."""
    if segment == whole:
        return True
    digest = hash_of(segment)
    return digest is not None and hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:24] == digest


#: How the files end of which several share a unique part.
_IS_A_FILE = re.compile(r"\.json(\.[a-z0-9]{1,8})?$")


@dataclass(frozen=True, slots=True)
class Layout:
    """How one backend names its blobs, as a pattern for a whole key relative to the base path."""

    name: str
    #: With groups of ``GROUPS``: ``unique`` at least.
    pattern: re.Pattern[str]
    #: Whether the ids are percent-encoded in the key, and cut where they are too long.
    quoted: bool = False

    def read(self, key: str) -> BlobName | None:
        """What a key says, or None if it is not of this layout."""
        found = self.pattern.fullmatch(key) if key.isprintable() else None
        if found is None:
            return None
        groups = found.groupdict()
        unique = (groups.get("unique") or "").lower()
        place = {name: groups.get(name) or "" for name in ("dag_id", "run_id", "task_id")}
        if not _UNIQUE.fullmatch(unique) or {".", ".."} & set(place.values()):
            return None
        if self.quoted:
            place = {name: unquote(text) for name, text in place.items()}
        coordinates = Coordinates(**place) if place["dag_id"] else None
        return BlobName(self.name, coordinates, unique, groups.get("file"), self.quoted)


@dataclass(frozen=True, slots=True)
class Formats:
    """The layouts that a deployment knows; the first that matches a key decides."""

    layouts: tuple[Layout, ...]

    def read(self, key: str) -> BlobName | None:
        """What a key says, or None if it is of no known layout."""
        for layout in self.layouts:
            found = layout.read(key)
            if found is not None:
                return found
        return None

    def coordinates_of(self, key: str) -> Coordinates | None:
        """The task instance that a key belongs to; None if no layout knows it, or the key does not say."""
        found = self.read(key)
        return found.coordinates if found else None

    def belongs_to(self, key: str, owner: Coordinates, *, ignored_prefixes: tuple[str, ...] = ()) -> bool:
        """Whether a blob is one that a known backend wrote for this task instance.

        A row may hold the path of anything; only what a backend wrote for that very row goes when the row goes.
        """
        found = self.read(key)
        return found is not None and found.is_of(owner) and not key.startswith(ignored_prefixes)

    def may_dangle(self, key: str, owner: Coordinates, *, ignored_prefixes: tuple[str, ...] = ()) -> bool:
        """Whether a row of this task instance that holds this path, and nothing else, is broken without the blob.

        It is if a backend wrote the path. A path of another task, or of no known layout, is a user's own text.
        """
        found = self.read(key)
        return found is not None and found.is_of(owner, in_part=True) and not key.startswith(ignored_prefixes)

    def and_also(self, layouts: Iterable[Layout]) -> Formats:
        """These, and after them some more."""
        return Formats((*self.layouts, *layouts))


def layout(name: str, pattern: str, *, quoted: bool = False) -> Layout:
    """A layout by its pattern, in which every group is named.

    :raises ValueError: if it is none; the message says why.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as why:
        raise ValueError(f"the pattern of {name!r} is not a regular expression: {why}") from None
    unknown = set(compiled.groupindex) - GROUPS
    if unknown:
        raise ValueError(f"the pattern of {name!r} has a group {sorted(unknown)[0]!r}; allowed are {sorted(GROUPS)}")
    if "unique" not in compiled.groupindex:
        raise ValueError(
            f"the pattern of {name!r} has no group 'unique', such as (?P<unique>[0-9a-f-]{{36}}): the UUID or the 32 "
            "hexadecimal digits by which values mean the blob"
        )
    return Layout(name, compiled, quoted)
