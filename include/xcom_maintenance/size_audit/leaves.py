"""The strings in a JSON value, and their paths, written so that no part of the value shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

#: Deeper nesting than anybody writes on purpose.
_DEEPEST = 64
#: Airflow's serializer wraps objects: these hold what was wrapped, and the others say what it was.
_WRAPPED = frozenset({"__data__", "__var"})
_ABOUT_THE_WRAPPING = frozenset({"__classname__", "__version__", "__type"})
#: What a key chosen by a programmer looks like; names, tokens and addresses that are data stay out of the path.
_NAME = re.compile(r"[A-Za-z_@$][A-Za-z0-9_.\- ]{0,39}")
_MANY_DIGITS = 4
_LONG = 16
#: Anything shorter is part of a secret by chance.
_PART = 4


@dataclass(frozen=True, slots=True)
class Leaf:
    """A text, or the name of a field, and the fields that lead to it; None stands for any index of a list."""

    fields: tuple[str | None, ...]
    text: str
    #: Whether it is the name of a field itself.
    is_name: bool = False
    #: Whether a name on the way to it says that it is sensitive.
    sensitive: bool = False


def leaves(value: Any, *, is_sensitive: Callable[[str], bool], sensitive: bool = False) -> Iterator[Leaf]:
    """Every string in a value; strings that hold JSON are searched, too.

    :param is_sensitive: whether a name says that what it names is a secret.
    :param sensitive: whether the name of the whole value does.
    """
    stack: list[tuple[Any, tuple[str | None, ...], bool, int]] = [(value, (), sensitive, 0)]
    while stack:
        found, fields, hidden, depth = stack.pop()
        if depth > _DEEPEST:
            continue
        if isinstance(found, str):
            inner = _json_in(found)
            if inner is None:
                yield Leaf(fields, found, sensitive=hidden)
            else:
                stack.append((inner, fields, hidden, depth + 1))
        elif isinstance(found, dict):
            for name, held in found.items():
                if name in _WRAPPED:
                    stack.append((held, fields, hidden, depth + 1))
                elif name not in _ABOUT_THE_WRAPPING:
                    yield Leaf((*fields, name), name, is_name=True)
                    stack.append((held, (*fields, name), hidden or is_sensitive(name), depth + 1))
        elif isinstance(found, list):
            stack.extend((item, (*fields, None), hidden, depth + 1) for item in found)


def _json_in(text: str) -> Any:
    """The object, list or string that a string holds as JSON, else None."""
    if len(text) < 2 or (text[0], text[-1]) not in {("{", "}"), ("[", "]"), ('"', '"')}:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list | str) else None


def path_of(fields: Collection[str | None], secrets: Collection[str]) -> str:
    """A JSON path, such as ``$.connections[*].password``; a field whose name may be data is a ``*``.

    :param secrets: texts of the same value that must not show.
    """
    return "$" + "".join("[*]" if field is None else f".{_shown(field, secrets)}" for field in fields)


def _shown(name: str, secrets: Collection[str]) -> str:
    lowered = name.lower()
    looks_chosen = _NAME.fullmatch(name) and not (
        len(name) >= _LONG and sum(character.isdigit() for character in name) >= _MANY_DIGITS
    )
    told = any(
        (len(name) >= _PART and lowered in secret.lower()) or secret.lower() in lowered for secret in secrets if secret
    )
    return name if looks_chosen and not told else "*"
