"""The settings: one validated whole, and where each value came from.

Precedence: trigger form, then the Airflow Variable ``xcom_maintenance`` (JSON), then ``include/xcom_maintenance.yaml``,
then the defaults below. ``docs/settings.md`` lists them for users.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from include.xcom_maintenance.core.blob_uri import CONNECTION_ID
from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.records import Scope
from include.xcom_maintenance.core.retention import Rule

VARIABLE = "xcom_maintenance"
MODES = ("report", "enforce")
_FORM = "trigger form"
DELETING_DAGS = frozenset({"xcom_cleanup", "xcom_orphan_reconciliation"})
FILE = Path(__file__).parent.parent / "xcom_maintenance.yaml"


def _no_bool(value: object) -> object:
    """``true`` is a number to Python, but nobody means one day by it."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _mode(value: object) -> object:
    """One mode for all DAGs, or a mode for each by its id; a DAG that is left out reports."""
    by_dag = value if isinstance(value, dict) else {"all": value}
    wrong = [mode for mode in by_dag.values() if mode not in MODES]
    if wrong:
        raise ValueError(f"must be 'report' or 'enforce', not {wrong[0]!r}")
    unknown = set(by_dag) - DELETING_DAGS - {"all"}
    if unknown:
        raise ValueError(
            f"no DAG {sorted(unknown)[0]!r} deletes anything; these do: {', '.join(sorted(DELETING_DAGS))}"
        )
    return value


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _comma_separated(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


_Days = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=36_500, allow_inf_nan=False)]
_Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
_Positive = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
#: Not below a tenth of a second: Postgres takes whole milliseconds, and zero for no limit.
_Seconds = Annotated[float, BeforeValidator(_no_bool), Field(ge=0.1, le=86_400, allow_inf_nan=False)]
#: For these null means the same as leaving them out: what Airflow itself is configured with.
_DERIVED = frozenset({"blob_base_path", "report_path"})
_Share = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=1)]
_NoGlobs = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_one_or_many)]
_Globs = Annotated[_NoGlobs, Field(min_length=1)]


def _connection_id(value: str) -> str:
    if not CONNECTION_ID.fullmatch(value):
        raise ValueError("must be the id of a Connection: letters, digits, '_', '-' and '.'")
    return value


def _place(value: str) -> str:
    """A path; what stands before an "@" must be a Connection, so that no secret gets into a report."""
    authority = value.partition("://")[2].split("/", 1)[0]
    before, at, _ = authority.rpartition("@")
    if at and before and not CONNECTION_ID.fullmatch(before):
        raise ValueError("has something before the '@' that is no id of a Connection; keys belong into a Connection")
    return value


def _class_path(value: str) -> str:
    parts = value.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError("must be the full path of a class, such as package.module.Notifier")
    return value


_ConnectionId = Annotated[str, AfterValidator(_connection_id)]
_Place = Annotated[str, AfterValidator(_place)]
#: Settings whose wrong value is not shown, since it may be a secret in the wrong place.
_NOT_SHOWN = frozenset(
    {
        *("metadata_conn_id", "blob_conn_id", "blob_base_path", "report_path", "archive_path", "archive"),
        *("notifier", "notifier_kwargs"),
    }
)
#: Not from the trigger form: whoever may start a run could have a worker import and send what they like.
_NOT_FOR_ONE_RUN = ("notifier", "notifier_kwargs")


class RetentionRule(BaseModel):
    """A retention rule as users write it; what it leaves out comes from the settings of the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dag_ids: _Globs = ("*",)
    exclude_dag_ids: _NoGlobs = ()
    tags: _NoGlobs = ()
    exclude_tags: _NoGlobs = ()
    task_ids: _Globs = ("*",)
    exclude_task_ids: _NoGlobs = ()
    keys: _Globs = ("*",)
    exclude_keys: _NoGlobs = ()
    #: An explicit null means that age takes nothing.
    max_age_days: _Days | None = None
    max_runs: _Positive | None = None
    min_runs: _Count | None = None
    keep_latest_value: bool = False
    hold: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> RetentionRule:
        limits = {"max_age_days", "max_runs", "min_runs", "keep_latest_value"} & self.model_fields_set
        if self.hold and limits:
            raise ValueError(f"hold keeps everything, so it contradicts {', '.join(sorted(limits))}")
        if not self.hold and self.max_runs is None and self.age_is_off:
            raise ValueError("max_age_days is null and max_runs is not set: use hold: true to keep everything")
        if self.max_runs is not None and (self.min_runs or 0) > self.max_runs:
            raise ValueError(f"min_runs ({self.min_runs}) is above max_runs ({self.max_runs})")
        return self

    @property
    def age_is_off(self) -> bool:
        return self.max_age_days is None and "max_age_days" in self.model_fields_set


class Settings(BaseModel):
    """Everything that can be configured. Times are days or seconds, sizes bytes, as the names say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: What is set for one run, in the trigger form, and nowhere else.
    FORM_ONLY: ClassVar[frozenset[str]] = frozenset()

    #: report changes nothing; enforce deletes. One for all DAGs, or by DAG id.
    mode: Annotated[str | dict[str, str], BeforeValidator(_mode)] = "report"
    #: A Postgres Connection to the metadata database: tasks cannot use Airflow's own.
    metadata_conn_id: _ConnectionId = "airflow_metadata_db"
    #: A schema revision that is not known to the bundle, and that the user vouches for.
    accept_schema_revision: str | None = None
    #: Where the XCom backend keeps its blobs; None: `[common.io] xcom_objectstorage_path`.
    blob_base_path: _Place | None = None
    #: The Connection to that store; None: the one in the base path, else the provider's default.
    blob_conn_id: _ConnectionId | None = None
    #: Any path that ObjectStoragePath takes; None: `xcom_maintenance_reports` in AIRFLOW_HOME.
    report_path: _Place | None = None
    #: Where deleted rows are archived: any path that ObjectStoragePath takes; None: they are not.
    archive_path: _Place | None = None

    max_age_days: _Days = 7
    max_runs: _Positive | None = None
    min_runs: _Count = 1
    retention: Annotated[tuple[RetentionRule, ...], Field(min_length=1)] = (RetentionRule(),)

    #: The largest batch: one short transaction.
    batch_rows: Annotated[_Positive, Field(le=10_000_000)] = 10_000
    batch_bytes: Annotated[_Positive, Field(le=2**40)] = 64 * 1024 * 1024
    #: A pause between batches, for the database's other users.
    batch_pause_seconds: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=3_600)] = 0
    lock_timeout_seconds: _Seconds = 5
    statement_timeout_seconds: _Seconds = 600

    #: How long a batch is tried again after a lost connection, a deadlock or a lock that was not granted.
    retry_seconds: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=3_600)] = 60
    #: The cleanup waits while more locks are waited for, or the slowest replica lags further behind; None: whatever.
    max_lock_waits: _Count | None = 10
    max_replication_lag_seconds: _Seconds | None = None
    #: Rows are deleted for so long; what is left goes on in the next run. None: until all is done.
    max_minutes: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=10_080)] | None = None
    #: A worker gets at least so many rows to delete, and so many work at a time.
    shard_rows: _Positive = 300_000
    max_shards: Annotated[_Positive, Field(le=1_000)] = 8
    #: VACUUM (ANALYZE) the table after rows were deleted.
    vacuum: bool = False

    #: Above these a cleanup asks first; None: no limit.
    max_delete_rows: _Positive | None = None
    max_delete_bytes: _Positive | None = None
    max_delete_share: _Share | None = None
    #: ask a person in the Airflow UI, approve unasked, or refuse.
    on_limit: Literal["ask", "approve", "refuse"] = "ask"
    #: How long an answer is waited for; then it is no.
    approval_timeout_hours: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=8_760)] = 24

    #: A blob younger than this is never an orphan: its row may still be on its way.
    grace_period_days: Annotated[float, BeforeValidator(_no_bool), Field(ge=1, le=36_500)] = 7
    #: Of the blobs; above this a reconciliation stops and changes nothing.
    max_orphan_share: _Share = 0.5

    #: How many lines the longest tables of a report have.
    top_entries: Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1_000)] = 20

    #: The class of a provider's notifier, which is told what needs a person; None: nobody is told.
    notifier: Annotated[str, AfterValidator(_class_path)] | None = None
    #: What the notifier is made with; never shown, since it may hold the address of a webhook.
    notifier_kwargs: dict[str, Any] = Field(default_factory=dict)
    #: A cleanup that has not enforced for this long says so; None: never.
    warn_not_enforced_days: _Days | None = 30

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.max_runs is not None and self.min_runs > self.max_runs:
            raise ValueError(f"min_runs ({self.min_runs}) is above max_runs ({self.max_runs})")
        rules = self.rules()
        for number, rule in enumerate(rules):
            if not rule.hold and rule.max_runs is not None and rule.min_runs > rule.max_runs:
                raise ValueError(
                    f"rule {number} of retention: min_runs ({rule.min_runs}) is above max_runs ({rule.max_runs})"
                )
            for earlier in range(number):
                if rules[earlier].covers(rule):
                    raise ValueError(
                        f"rule {earlier} of retention matches whatever rule {number} does, so rule {number} is never "
                        "tried: the first rule that matches decides, so put the narrower one first"
                    )
        return self

    def mode_of(self, dag_id: str) -> str:
        """The mode of a DAG: ``report`` or ``enforce``."""
        return self.mode.get(dag_id, "report") if isinstance(self.mode, dict) else self.mode

    def rules(self) -> tuple[Rule, ...]:
        """The retention rules, completed from the settings that they inherit."""
        return tuple(self._complete(rule) for rule in self.retention)

    def _complete(self, rule: RetentionRule) -> Rule:
        days = self.max_age_days if rule.max_age_days is None else rule.max_age_days
        return Rule(
            dag_ids=rule.dag_ids,
            exclude_dag_ids=rule.exclude_dag_ids,
            tags=rule.tags,
            exclude_tags=rule.exclude_tags,
            scope=Scope(rule.task_ids, rule.exclude_task_ids, rule.keys, rule.exclude_keys),
            max_age=None if rule.age_is_off else timedelta(days=days),
            max_runs=self.max_runs if rule.max_runs is None else rule.max_runs,
            min_runs=self.min_runs if rule.min_runs is None else rule.min_runs,
            keep_latest_value=rule.keep_latest_value,
            hold=rule.hold,
        )

    @property
    def grace_period(self) -> timedelta:
        return timedelta(days=self.grace_period_days)


_Choice = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_comma_separated)]


class RestoreSettings(Settings):
    """The settings of ``xcom_restore``, whose own ones are set for one run, in the trigger form, and nowhere else."""

    #: Also the mode: one that lets a cleanup delete says nothing about putting rows back.
    FORM_ONLY: ClassVar[frozenset[str]] = frozenset({"mode", "archive", "dag_ids", "run_ids", "task_ids"})

    #: A folder or a file of an archive; what is no address is taken below archive_path.
    archive: _Place | None = None
    #: Globs of what to restore; empty: everything.
    dag_ids: _Choice = ()
    run_ids: _Choice = ()
    task_ids: _Choice = ()

    def chooses(self, dag_id: str, run_id: str, task_id: str) -> bool:
        """Whether the rows of a task instance are among those to restore."""
        chosen = ((dag_id, self.dag_ids), (run_id, self.run_ids), (task_id, self.task_ids))
        return all(not globs or any(fnmatchcase(name, glob) for glob in globs) for name, globs in chosen)


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
