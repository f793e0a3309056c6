"""Globs of tasks and keys as conditions of Postgres."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from include.xcom_maintenance.core.runs import Scope


def scope_condition(scope: Scope, name: str, parameters: dict[str, Any]) -> str:
    """Whether the row ``x`` lies in a scope; its patterns join ``parameters`` under names that begin with ``name``."""
    conditions: list[str] = []
    for column, globs, operator in (
        ("task_id", scope.task_ids, "~"),
        ("task_id", scope.exclude_task_ids, "!~"),
        ("key", scope.keys, "~"),
        ("key", scope.exclude_keys, "!~"),
    ):
        if globs and not (operator == "~" and "*" in globs):
            parameter = f"{name}_{len(conditions)}"
            parameters[parameter] = regular_expression(globs)
            conditions.append(f"x.{column} {operator} %({parameter})s")
    return f"({' AND '.join(conditions) or 'true'})"


def regular_expression(globs: Sequence[str]) -> str:
    """Postgres' regular expression for names that match one of some globs, as ``fnmatch.fnmatchcase`` reads them."""
    return f"^(?:{'|'.join(''.join(_pieces(glob)) for glob in globs)})$"


def _pieces(glob: str) -> Iterator[str]:
    at = 0
    while at < len(glob):
        character = glob[at]
        at += 1
        if character == "*":
            yield ".*"
        elif character == "?":
            yield "."
        elif character == "[" and (end := glob.find("]", at + 1 + (glob[at : at + 1] == "!"))) > 0:
            yield _set(glob[at:end])
            at = end + 1
        else:
            yield _literal(character)


def _set(inner: str) -> str:
    """What stands between the brackets of a glob, as one of the characters that it allows."""
    items: list[str] = []
    # Python drops a range that runs backwards before it looks whether the set begins with "!".
    while inner[1:2] == "-" and len(inner) > 2 and inner[0] > inner[2]:
        inner = inner[3:]
    negated = inner.startswith("!")
    at = int(negated)
    while at < len(inner):
        if inner[at + 1 : at + 2] == "-" and at + 2 < len(inner):
            low, high = inner[at], inner[at + 2]
            items += [f"{_literal(low)}-{_literal(high)}"] if low <= high else []
            at += 3
        else:
            items.append(_literal(inner[at]))
            at += 1
    if not items:  # only ranges that run backwards
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{''.join(items)}]"


def _literal(character: str) -> str:
    """A character by its number, which means nothing but itself anywhere in a regular expression."""
    return f"\\U{ord(character):08x}"
