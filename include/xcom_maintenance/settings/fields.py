"""The kinds of values that settings have, and what is wrong with a value."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from include.xcom_maintenance.core.blob_uri import CONNECTION_ID

MODES = ("report", "enforce")
DELETING_DAGS = frozenset({"xcom_cleanup", "xcom_orphan_reconciliation"})


def no_bool(value: object) -> object:
    """``true`` is a number to Python, but nobody means one day by it."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def mode_for_dags(value: object) -> object:
    """One mode for all DAGs, or a mode for each by its id; a DAG that is left out reports."""
    by_dag = value if isinstance(value, dict) else {"all": value}
    wrong = [mode for mode in by_dag.values() if mode not in MODES]
    if wrong:
        raise ValueError(f"must be 'report' or 'enforce', not {wrong[0]!r}")
    unknown = set(by_dag) - DELETING_DAGS - {"all"}
    if unknown:
        raise ValueError(
            f"{sorted(unknown)[0]!r} has no configurable mode; use one of: {', '.join(sorted(DELETING_DAGS))}"
        )
    return value


def one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def comma_separated(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Days = Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=36_500, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(no_bool), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(no_bool), Field(ge=1)]
#: Not below a tenth of a second: Postgres takes whole milliseconds, and zero for no limit.
Seconds = Annotated[float, BeforeValidator(no_bool), Field(ge=0.1, le=86_400, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=1)]
NoGlobs = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(one_or_many)]
Globs = Annotated[NoGlobs, Field(min_length=1)]
Choice = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(comma_separated)]


def connection_id(value: str) -> str:
    if not CONNECTION_ID.fullmatch(value):
        raise ValueError("must be a Connection id: letters, digits, '_', '-' and '.'")
    return value


def place(value: str) -> str:
    """A path; what stands before an "@" must be a Connection, so that no secret gets into a report."""
    authority = value.partition("://")[2].split("/", 1)[0]
    before, at, _ = authority.rpartition("@")
    if at and before and not CONNECTION_ID.fullmatch(before):
        raise ValueError("has something other than a Connection id before the '@'; credentials belong in a Connection")
    return value


def class_path(value: str) -> str:
    parts = value.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError("must be the full path of a class, such as package.module.Notifier")
    return value


ConnectionId = Annotated[str, AfterValidator(connection_id)]
Place = Annotated[str, AfterValidator(place)]
