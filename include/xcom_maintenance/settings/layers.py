"""Sources of settings merged into one validated whole; what is wrong is said with its source and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.settings.common import CommonSettings

FORM = "trigger form"
_S_co = TypeVar("_S_co", bound=CommonSettings, covariant=True)
_S = TypeVar("_S", bound=CommonSettings)


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings: what it sets, and its name for people."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Resolved(Generic[_S_co]):
    """The settings in force, and where each came from."""

    settings: _S_co
    sources: Mapping[str, str]

    def described(self) -> dict[str, dict[str, Any]]:
        """For the report: setting -> value and source."""
        values = self.settings.described()
        return {name: {"value": value, "source": self.sources.get(name, "default")} for name, value in values.items()}


def resolve(layers: Sequence[Layer], kind: type[_S]) -> Resolved[_S]:
    """Merge the layers, the strongest first, and validate the result as a whole.

    A setting that one layer sets replaces that of a weaker one; lists are not joined.

    :param kind: the settings of the DAG.
    :raises ConfigurationError: naming every setting that is wrong, where it came from, and what is allowed.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    derived = _declared(kind, "DERIVED")
    for layer in layers:
        known = [name for name in kind.model_fields if layer.name == FORM or name not in kind.FORM_ONLY]
        for name, value in layer.values.items():
            if name not in known:
                raise ConfigurationError(
                    f"Unknown setting {name!r} in the {layer.name}",
                    setting=name,
                    remedy=_did_you_mean(name, known) + "Known settings: " + ", ".join(known),
                )
            if name == "mode" and kind.OWN_MODE and layer.name != FORM:
                continue
            if name not in values and not (value is None and name in derived):
                values[name], sources[name] = value, layer.name
    try:
        return Resolved(kind.model_validate(values), sources)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        if any(problem["loc"][:1] == ("retention",) and len(problem["loc"]) > 1 for problem in problems):
            # A rule that is wrong by itself is left out of the count, which is not worth a second complaint.
            problems = [problem for problem in problems if problem["loc"] != ("retention",)]
        names = list(dict.fromkeys(str(p["loc"][0]) if p["loc"] else "min_runs, max_runs, retention" for p in problems))
        raise ConfigurationError(
            "; ".join(_problem(problem, sources, _declared(kind, "NOT_SHOWN")) for problem in problems),
            setting=", ".join(names),
            remedy=_remedy(kind, names[0]),
        ) from None


#: What to say instead of pydantic's words for Python's types.
_MESSAGES = {
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be a rule: an object with settings by name",
    "string_type": "must be a string",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "extra_forbidden": "is not a setting of a rule",
    "too_short": "needs at least one rule",
}


def _problem(problem: Any, sources: Mapping[str, str], not_shown: frozenset[str]) -> str:
    message = _MESSAGES.get(problem["type"], str(problem["msg"]).removeprefix("Value error, "))
    if problem["type"] == "too_short" and problem["loc"] != ("retention",):
        message = "must not be empty"
    if not problem["loc"]:  # about several settings at once
        return message
    path = _path(problem["loc"])
    given = problem.get("input")
    shown = isinstance(given, int | float | str) and problem["loc"][0] not in not_shown
    return f"{path} from the {sources.get(str(problem['loc'][0]), 'default')}: {message}" + (
        f" (given: {given!r})" if shown else ""
    )


def _path(location: Sequence[str | int]) -> str:
    """Where a wrong value stands: ``retention, rule 2, max_age_days``. Rules and items are numbered from 1."""
    item = "rule" if location[0] == "retention" else "item"
    return ", ".join(f"{item} {part + 1}" if isinstance(part, int) else part for part in location)


def _remedy(kind: type[CommonSettings], name: str) -> str:
    hints = [vars(base).get("HINTS", {}) for base in kind.__mro__]
    return next((found[name] for found in hints if name in found), f"Correct {name}, or remove it to use the default")


def _declared(kind: type[CommonSettings], what: str) -> frozenset[str]:
    """What all classes that some settings are put together from declare about their own."""
    return frozenset().union(*(vars(base).get(what, ()) for base in kind.__mro__))


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}? " if close else ""
