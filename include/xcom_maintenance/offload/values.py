"""Which values must stay in their rows, and whether two JSON texts hold the same. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from include.xcom_maintenance.core.reference_formats.layout import HEX, UUID

#: The threshold of a backend if none is configured: where Astronomer's guidance moves values out of the database.
DEFAULT_THRESHOLD = 48 * 1024
#: Of a serialized object.
_CLASS, _DATA = "__classname__", "__data__"


#: A name as blobs have it, in a path or behind a word: a value that holds one counts as a reference to that blob, which
#: nobody would see any more if the value itself were in a blob. A UUID that stands alone is an id of something else.
_NAMES_A_BLOB = re.compile(rf"(?:[/\\_-]|%2f)(?:{UUID}|{HEX})|(?:{UUID}|{HEX})(?:[/\\.]|%2f)", re.IGNORECASE)


def may_name_a_blob(text: str, *bases: str) -> bool:
    """Whether a value may be what keeps other blobs from being orphans.

    :param text: the value as JSON.
    :param bases: base paths, without scheme and Connection.
    """
    return any(base in text for base in bases) or _NAMES_A_BLOB.search(text) is not None


def same_value(text: str, other: str) -> bool:
    """Whether two JSON texts hold the same, types of numbers included; the order of keys, which JSONB loses, aside."""
    try:
        return _canonical(text) == _canonical(other)
    except (ValueError, RecursionError):  # NaN and infinity, which are no JSON
        return False


def same_order(text: str, other: str) -> bool:
    """Whether the dicts in two JSON texts that hold the same have their keys in the same order.

    That of a serialized object, and of what it was made of, means nothing: it is read by names.
    """
    return _same_order(json.loads(text), json.loads(other))


def _same_order(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return all(map(_same_order, found, wanted))
    if not isinstance(wanted, dict):
        return True
    if _CLASS in wanted and _DATA in wanted:
        found, wanted = found[_DATA], wanted[_DATA]
        if not isinstance(wanted, dict):
            return _same_order(found, wanted)
    elif list(found) != list(wanted):
        return False
    return all(_same_order(found[key], value) for key, value in wanted.items())


def _canonical(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True)
