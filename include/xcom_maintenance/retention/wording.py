"""Retention rules for people: numbered from 1, and quoted as users write them in their settings."""

from __future__ import annotations

from datetime import timedelta

from include.xcom_maintenance.retention.policy import Rule


def rule_number(position: int | None) -> int | None:
    """The number that people see, from the position, which counts from 0."""
    return None if position is None else position + 1


def applies_to(rule: Rule) -> str:
    """Which rows a rule matches: ``dag_ids: etl_*, keys: [a, b]``."""
    scope = rule.scope
    globs = {
        "exclude_dag_ids": rule.exclude_dag_ids,
        "tags": rule.tags,
        "exclude_tags": rule.exclude_tags,
        "task_ids": () if "*" in scope.task_ids else scope.task_ids,
        "exclude_task_ids": scope.exclude_task_ids,
        "keys": () if "*" in scope.keys else scope.keys,
        "exclude_keys": scope.exclude_keys,
    }
    parts = [_globs("dag_ids", rule.dag_ids), *(_globs(name, found) for name, found in globs.items() if found)]
    return ", ".join(parts)


def limits_of(rule: Rule) -> str:
    """What a rule keeps and deletes, with what it inherits: ``max_age_days: 14, min_runs: 1``."""
    if rule.hold:
        return "hold: true"
    age = "null" if rule.max_age is None else f"{rule.max_age / timedelta(days=1):g}"
    parts = [f"max_age_days: {age}"]
    if rule.max_runs is not None:
        parts.append(f"max_runs: {rule.max_runs}")
    parts.append(f"min_runs: {rule.min_runs}")
    if rule.keep_latest_value:
        parts.append("keep_latest_value: true")
    return ", ".join(parts)


def _globs(name: str, globs: tuple[str, ...]) -> str:
    return f"{name}: {globs[0]}" if len(globs) == 1 else f"{name}: [{', '.join(globs)}]"
