"""Keys of entries: Airflow stores some of them under another name than a task says.

Its client puts a key into a URL as it stands (``XComOperations`` in ``airflow/sdk/api/client.py``), and the server
decodes that: ``100%25`` becomes ``100%`` in the row, ``a/b%2Fc`` becomes ``a/b/c``, ``a#b`` and ``a?b`` become ``a``.
"""

from __future__ import annotations

import functools
import re
from typing import Any
from urllib.parse import unquote

#: What a URL understands, or changes: all other keys stay as they are.
_UNDERSTOOD = re.compile(r"[%?#]|(?:^|/)\.\.?(?:/|$)")
#: What neither a URL nor the database takes.
_IMPOSSIBLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
#: Of the column.
_MOST_CHARACTERS = 512


def key_of_row(key: str) -> str:
    """The key that the row of an entry has; empty for one that Airflow cannot store."""
    if not _UNDERSTOOD.search(key) or _airflow_quotes():
        return key
    segments: list[str] = []
    for segment in re.split(r"[?#]", key, maxsplit=1)[0].split("/"):
        if segment == ".." and not segments:
            return ""  # that leads out of the task
        if segment == "..":
            segments.pop()
        elif segment != ".":
            segments.append(segment)
    return unquote("/".join(segments))


def what_is_wrong(key: str) -> str:
    """Why Airflow cannot store a value under this key; empty if it can."""
    if key.isascii() and key.isidentifier() and len(key) <= _MOST_CHARACTERS:
        return ""
    if _IMPOSSIBLE.search(key):
        return "it has a control character or a lone surrogate in it"
    row = key_of_row(key)
    if not row:
        return "it is empty"
    if _IMPOSSIBLE.search(row):
        return "it has a control character in it"
    return f"it has more than {_MOST_CHARACTERS} characters" if len(row) > _MOST_CHARACTERS else ""


def is_same_entry(written: str, asked: str) -> bool:
    """Whether a value that was written under a key is the one that is asked for.

    Either may be the spelling of a task or that of the row. Two spellings of tasks are the same only if they are equal:
    ``a#1`` and ``a#2`` share a row, and the value of the one is not that of the other.
    """
    return written == asked or key_of_row(written) == asked or written == key_of_row(asked)


@functools.cache
def _airflow_quotes() -> bool:
    """Whether the client of this version of Airflow quotes keys, so that rows have them as tasks say them."""

    class Recorder:
        path = ""

        def post(self, path: str, **_: Any) -> None:
            self.path = path

    recorder = Recorder()
    try:
        from airflow.sdk.api.client import XComOperations

        XComOperations(recorder).set("d", "r", "t", "%25", None)
    except Exception:  # noqa: BLE001 - a client that is made otherwise says nothing
        return False
    return recorder.path.endswith("%2525")
