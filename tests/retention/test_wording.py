"""Rules as people see them: numbered from 1, and in the words of their settings."""

from __future__ import annotations

from datetime import timedelta

import pytest

from include.xcom_maintenance.core.runs import Scope
from include.xcom_maintenance.retention.policy import Rule
from include.xcom_maintenance.retention.wording import applies_to, limits_of, rule_number


@pytest.mark.parametrize(
    ("rule", "where", "limits"),
    [
        (Rule(), "dag_ids: *", "max_age_days: 7, min_runs: 1"),
        (Rule(("etl_*",), max_age=timedelta(hours=36)), "dag_ids: etl_*", "max_age_days: 1.5, min_runs: 1"),
        (Rule(("a", "b"), ("c",), hold=True), "dag_ids: [a, b], exclude_dag_ids: c", "hold: true"),
        (
            Rule(tags=("ml",), exclude_tags=("x", "y"), max_age=None, max_runs=3, min_runs=2),
            "dag_ids: *, tags: ml, exclude_tags: [x, y]",
            "max_age_days: null, max_runs: 3, min_runs: 2",
        ),
        (
            Rule(scope=Scope(("t",), ("u",), ("*", "k"), ("m",)), keep_latest_value=True),
            "dag_ids: *, task_ids: t, exclude_task_ids: u, exclude_keys: m",
            "max_age_days: 7, min_runs: 1, keep_latest_value: true",
        ),
    ],
)
def test_a_rule_is_quoted_as_its_settings_are_written(rule: Rule, where: str, limits: str) -> None:
    assert (applies_to(rule), limits_of(rule)) == (where, limits)


def test_rules_are_numbered_from_one() -> None:
    assert [rule_number(position) for position in (0, 1, None)] == [1, 2, None]
