"""Where settings come from, and what is wrong with them, in words that name the source and the remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.retention import Rule
from include.xcom_maintenance.settings.model import Settings

VARIABLE = "xcom_maintenance"
FILE = Path(__file__).parents[2] / "xcom_maintenance.yaml"
_FORM = "trigger form"
#: For these null means the same as leaving them out: what Airflow itself is configured with.
_DERIVED = frozenset({"blob_base_path", "report_path", "heartbeat_timeout_seconds"})
#: Settings whose wrong value is not shown, since it may be a secret in the wrong place.
_NOT_SHOWN = frozenset(
    {
        *("metadata_conn_id", "blob_conn_id", "blob_base_path", "report_path", "archive_path", "archive"),
        *("notifier", "notifier_kwargs"),
    }
)
#: Not from the trigger form: whoever may start a run could have a worker import and send what they like.
_NOT_FOR_ONE_RUN = ("notifier", "notifier_kwargs")


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings: what it sets, and its name for people."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings in force, and where each came from."""

    settings: Settings
    sources: Mapping[str, str]

    def described(self) -> dict[str, dict[str, Any]]:
        """For the report: setting -> value and source."""
        values = self.settings.model_dump(mode="json")
        values["retention"] = [_described(rule) for rule in self.settings.rules()]
        values["notifier_kwargs"] = sorted(values["notifier_kwargs"])
        return {name: {"value": value, "source": self.sources.get(name, "default")} for name, value in values.items()}


def _described(rule: Rule) -> dict[str, Any]:
    """A rule with everything that it inherits, in the words in which it is written."""
    fields = asdict(rule)
    age = fields.pop("max_age")
    fields |= fields.pop("scope")
    return {**fields, "max_age_days": None if age is None else age / timedelta(days=1)}


def form_layer(params: Mapping[str, Any]) -> Layer:
    """What the trigger form sets; a field left empty means "as configured".

    :raises ConfigurationError: if it sets what cannot be set for one run.
    """
    for name in _NOT_FOR_ONE_RUN:
        if params.get(name):
            raise ConfigurationError(
                f"{name} cannot be set for one run",
                setting=name,
                remedy=f"Set it in the Variable {VARIABLE} or in include/{FILE.name}",
            )
    return Layer(_FORM, {k: v for k, v in params.items() if v is not None and v != ""})


def variable_layer(text: str | None) -> Layer:
    """What the Airflow Variable sets.

    :raises ConfigurationError: if it is no JSON object.
    """
    source = f"Variable {VARIABLE}"
    if text is None or not text.strip():
        return Layer(source, {})
    try:
        values = json.loads(text)
    except ValueError as why:
        raise ConfigurationError(
            f"The Airflow Variable {VARIABLE!r} is not JSON: {why}",
            setting=source,
            remedy='Write an object, such as {"max_age_days": 14}',
        ) from None
    return Layer(source, _an_object(values, source))


def file_layer(path: Path = FILE) -> Layer:
    """What the policy file sets; no file and an empty file set nothing.

    :raises ConfigurationError: if it is no YAML mapping.
    """
    import yaml

    source = f"include/{path.name}"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        values = None
    except (yaml.YAMLError, UnicodeDecodeError) as why:
        line = (
            f" at line {why.problem_mark.line + 1}"
            if isinstance(why, yaml.MarkedYAMLError) and why.problem_mark
            else ""
        )
        raise ConfigurationError(
            f"The policy file {source} is not YAML{line}", setting=source, remedy="Correct the file"
        ) from None
    return Layer(source, _an_object(values if values is not None else {}, source))


def _an_object(values: object, source: str) -> Mapping[str, Any]:
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigurationError(
            f"{source} does not hold settings by name",
            setting=source,
            remedy="Write an object, such as {'max_age_days': 14}",
        )
    return values


def resolve(layers: Sequence[Layer], kind: type[Settings] = Settings) -> Resolved:
    """Merge the layers, the strongest first, and validate the result as a whole.

    A setting that one layer sets replaces that of a weaker one; lists are not joined.

    :param kind: the settings of a DAG that has some of its own.
    :raises ConfigurationError: naming every setting that is wrong, where it came from, and what is allowed.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        known = list((kind if layer.name == _FORM else Settings).model_fields)
        for name, value in layer.values.items():
            if name not in known:
                raise ConfigurationError(
                    f"There is no setting {name!r}, which the {layer.name} sets",
                    setting=name,
                    remedy=_did_you_mean(name, known) + "Known settings: " + ", ".join(known),
                )
            if name in kind.FORM_ONLY and layer.name != _FORM:
                continue
            if name not in values and not (value is None and name in _DERIVED):
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
            "; ".join(_problem(problem, sources) for problem in problems),
            setting=", ".join(names),
            remedy=_remedy(names[0]),
        ) from None


#: What to say instead of pydantic's words for Python's types.
_MESSAGES = {
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be a rule, which is an object of settings by name",
    "string_type": "must be a text",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "extra_forbidden": "there is no such setting in a rule",
    "too_short": "a policy needs at least one rule",
}


def _problem(problem: Any, sources: Mapping[str, str]) -> str:
    message = _MESSAGES.get(problem["type"], str(problem["msg"]).removeprefix("Value error, "))
    if problem["type"] == "too_short" and problem["loc"] != ("retention",):
        message = "must not be empty"
    if not problem["loc"]:  # about several settings at once
        return message
    path = ".".join(str(part) for part in problem["loc"])
    given = problem.get("input")
    shown = isinstance(given, int | float | str) and problem["loc"][0] not in _NOT_SHOWN
    return f"{path} from the {sources.get(str(problem['loc'][0]), 'default')}: {message}" + (
        f" (given: {given!r})" if shown else ""
    )


def _remedy(name: str) -> str:
    hints = {
        "retention": "Write a list of rules, such as retention: [{dag_ids: ['*'], max_age_days: 7}]",
        "mode": "Use report, which changes nothing, or enforce",
        "max_age_days": "Use a number of days above zero, such as 7",
        "grace_period_days": "Use a number of days, at least 1",
    }
    return hints.get(name, f"Correct {name}, or leave it out for its default")


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}? " if close else ""
