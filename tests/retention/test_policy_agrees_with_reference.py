"""Whatever the history and the policy: what a cleanup leaves is what a naive reading of docs/settings.md leaves."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from tests.conftest import Database
from tests.support.cleanups import Cleanup
from tests.support.history import History
from tests.support.worlds import World, WorldRun, latest_values, rows_left, worlds, write

pytestmark = pytest.mark.slow

# -- random policies ----------------------------------------------------------------------


def _globs(*globs: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(globs), min_size=1, max_size=2, unique=True)


_rules = st.fixed_dictionaries(
    {},
    optional={
        "dag_ids": _globs("*", "a*", "?1", "[!a]*", "a1", "c"),
        "exclude_dag_ids": _globs("a2", "b*", "none"),
        "tags": _globs("m*", "etl", "m"),
        "exclude_tags": _globs("ml", "[me]"),
        "task_ids": _globs("load", "[lL]oad", "train_*", "*"),
        "exclude_task_ids": _globs("load", "?rain_x"),
        "keys": _globs("k", "m*", "*"),
        "exclude_keys": _globs("metrics", "[!k]*"),
        "max_age_days": st.sampled_from([None, 1, 3, 7, 20]),
        "max_runs": st.integers(1, 4),
        "min_runs": st.integers(0, 3),
        "keep_latest_value": st.booleans(),
        "hold": st.sampled_from([False, False, False, True]),
    },
)
_policies = st.fixed_dictionaries(
    {"retention": st.lists(_rules, min_size=1, max_size=4)},
    optional={
        "max_age_days": st.sampled_from([0.5, 2, 7, 15]),
        "max_runs": st.integers(1, 5),
        "min_runs": st.integers(0, 3),
    },
)
_batches = st.fixed_dictionaries(
    {"batch_rows": st.integers(1, 5), "shard_rows": st.integers(1, 6)}, optional={"batch_bytes": st.integers(1, 40)}
)

# -- the reference: row by row, as docs/settings.md says it ----------------------------------


def _any(name: str, globs: list[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _applies(rule: dict[str, Any], dag_id: str, tags: frozenset[str], task_id: str, key: str) -> bool:
    return (
        _any(dag_id, rule.get("dag_ids", ["*"]))
        and not _any(dag_id, rule.get("exclude_dag_ids", []))
        and ("tags" not in rule or any(_any(tag, rule["tags"]) for tag in tags))
        and not any(_any(tag, rule.get("exclude_tags", [])) for tag in tags)
        and _any(task_id, rule.get("task_ids", ["*"]))
        and not _any(task_id, rule.get("exclude_task_ids", []))
        and _any(key, rule.get("keys", ["*"]))
        and not _any(key, rule.get("exclude_keys", []))
    )


def _left(world: World, policy: dict[str, Any], now: datetime) -> tuple[set[Any], Counter[Any], Counter[Any]]:
    """What is left; how many rows go by (rule, reason); how many stay by rule."""
    defaults = {"max_age_days": 7, "max_runs": None, "min_runs": 1} | policy
    pulled = latest_values(world, now)
    left, going, staying = set(), Counter[Any](), Counter[Any]()
    for run in world.runs:
        tags = frozenset() if run.dag_id in world.deleted_dags else world.tags.get(run.dag_id, frozenset())
        newer = [
            other
            for other in world.runs
            if other.dag_id == run.dag_id
            and other.state in {"success", "failed"}
            and (-other.due_days, other.dag_run_id) > (-run.due_days, run.dag_run_id)
        ]
        for row in run.rows:
            place = (run.dag_run_id, row.task_id, row.map_index, row.key)
            rules = enumerate(policy["retention"], 1)
            found = next(((i, r) for i, r in rules if _applies(r, run.dag_id, tags, row.task_id, row.key)), None)
            reason = None
            if found is not None:
                limits = defaults | found[1]
                group = run.group(row)
                reason = _why_it_goes(run, min(other.age_days for other in group), limits, len(newer))
                places = {(run.dag_run_id, other.task_id, other.map_index, other.key) for other in group}
                if found[1].get("keep_latest_value") and places & pulled:
                    reason = None
            number = None if found is None else found[0]
            if reason is None:
                left.add(place)
                staying[number] += 1
            else:
                going[number, reason] += 1
    return left, going, staying


def _why_it_goes(run: WorldRun, age_days: float, limits: dict[str, Any], newer_runs: int) -> str | None:
    if not run.finished or limits.get("hold") or newer_runs < limits["min_runs"]:
        return None
    if limits["max_runs"] is not None and newer_runs >= limits["max_runs"]:
        return "beyond the newest max_runs runs"
    if limits["max_age_days"] is not None and age_days > limits["max_age_days"]:
        return "older than max_age_days"
    return None


# -- the test -----------------------------------------------------------------------------

_numbers = count(1)


@hypothesis_settings(
    max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
@given(worlds(), _policies, _batches)
def test_no_policy_takes_or_leaves_a_row_that_its_documentation_does_not(
    database: Database,
    history: History,
    tmp_path: Path,
    world: World,
    policy: dict[str, Any],
    batches: dict[str, Any],
) -> None:
    try:
        settings = Settings(mode="enforce", **policy, **batches)
    except ValidationError:
        assume(False)
    now = write(history.connection, world)

    if database.name not in _stores:
        _stores[database.name] = _Store(database)
    store = _stores[database.name]
    cleanup = Cleanup(lambda: store, tmp_path, settings, run_id=f"run_{next(_numbers)}")
    left, going, staying = _left(world, policy, now)
    report = cleanup.run()
    assert rows_left(history.connection) == left

    # The report told the truth, to the row.
    headline = report.headline
    assert headline["rows_deleted"] == headline["rows_to_delete"] == going.total()
    assert headline["rows_in_table"] == len(world.rows())
    assert headline["runs_kept"] + headline["runs_affected"] == len(world.runs)
    tables = {table.title: table for table in report.tables}
    planned: Counter[Any] = Counter()
    for _, rule, action, reason, _, rows, *_ in tables["The plan, by DAG and rule"].rows:
        planned[action, rule, str(reason)] += rows
    assert {(r, why): n for (action, r, why), n in planned.items() if action == "delete"} == going
    by_rule: Counter[Any] = Counter()
    for (action, rule, _), rows in planned.items():
        if action == "keep":
            by_rule[rule] += rows
    assert by_rule == staying
    assert sum(row[2] for row in tables["Why rows are kept"].rows) == staying.total()
    assert sum(row[4] for row in tables["Retention rules"].rows) == going.total()
    assert sum(row[5] for row in tables["Retention rules"].rows) == staying.total()


class _Store(PostgresMetadataStore):
    """One for all jobs of all examples, for speed; how it looks at unfinished tasks is chosen for it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.connect, setting="metadata_conn_id", lock_timeout=5, statement_timeout=60)
        self._found = super().check(may_delete=True, reads_references=False)

    def check(self, **_: Any) -> Any:
        return self._found

    def __exit__(self, *_: object) -> None:
        pass


_stores: dict[str, _Store] = {}
