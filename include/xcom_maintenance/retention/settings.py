"""The retention rules as configured. The cleanup applies them; the audit and the restore only read them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from include.xcom_maintenance.core.runs import Scope
from include.xcom_maintenance.retention.policy import Rule
from include.xcom_maintenance.retention.wording import applies_to
from include.xcom_maintenance.settings.common import CommonSettings
from include.xcom_maintenance.settings.fields import Count, Days, Globs, NoGlobs, Positive


class RetentionRule(BaseModel):
    """A retention rule as users write it. What it leaves out is inherited from the settings of the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dag_ids: Globs = ("*",)
    exclude_dag_ids: NoGlobs = ()
    tags: NoGlobs = ()
    exclude_tags: NoGlobs = ()
    task_ids: Globs = ("*",)
    exclude_task_ids: NoGlobs = ()
    keys: Globs = ("*",)
    exclude_keys: NoGlobs = ()
    #: An explicit null: no row is deleted for its age.
    max_age_days: Days | None = None
    max_runs: Positive | None = None
    min_runs: Count | None = None
    keep_latest_value: bool = False
    hold: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> RetentionRule:
        limits = {"max_age_days", "max_runs", "min_runs", "keep_latest_value"} & self.model_fields_set
        if self.hold and limits:
            raise ValueError(f"hold keeps everything, so it cannot be combined with {', '.join(sorted(limits))}")
        if not self.hold and self.max_runs is None and self.age_is_off:
            raise ValueError(
                "with max_age_days null and no max_runs the rule deletes nothing: use hold: true to keep everything"
            )
        if self.max_runs is not None and (self.min_runs or 0) > self.max_runs:
            raise ValueError(f"min_runs ({self.min_runs}) is above max_runs ({self.max_runs})")
        return self

    @property
    def age_is_off(self) -> bool:
        return self.max_age_days is None and "max_age_days" in self.model_fields_set


class RetentionSettings(CommonSettings):
    """The rules, and the settings that they inherit."""

    HINTS: ClassVar[dict[str, str]] = {
        "retention": "Write a list of rules, such as retention: [{dag_ids: ['*'], max_age_days: 7}]",
        "max_age_days": "Use a number of days above zero, such as 7",
        "stuck_after_days": "Use a number of days above zero, such as 30; max_age_days, for the age of each rule; or "
        "null, for never",
    }

    max_age_days: Days = 7
    max_runs: Positive | None = None
    min_runs: Count = 1
    #: Of a run that is over, unfinished tasks without a sign of life for so long protect nothing; None: they always do.
    #: By default as long as the rule's age, or where age takes nothing, as the general one.
    stuck_after_days: Days | Literal["max_age_days"] | None = "max_age_days"
    retention: Annotated[tuple[RetentionRule, ...], Field(min_length=1)] = (RetentionRule(),)

    @model_validator(mode="after")
    def _consistent(self) -> RetentionSettings:
        if self.max_runs is not None and self.min_runs > self.max_runs:
            raise ValueError(f"min_runs ({self.min_runs}) is above max_runs ({self.max_runs})")
        rules = self.rules()
        for number, rule in enumerate(rules, 1):
            if not rule.hold and rule.max_runs is not None and rule.min_runs > rule.max_runs:
                raise ValueError(
                    f"rule {number} of retention: min_runs ({rule.min_runs}) is above max_runs ({rule.max_runs})"
                )
            for earlier, other in enumerate(rules[: number - 1], 1):
                if other.covers(rule):
                    raise ValueError(
                        f"rule {earlier} of retention ({applies_to(other)}) matches everything that rule {number} "
                        f"({applies_to(rule)}) does, so rule {number} is never tried: the first rule that matches a "
                        "row decides, so put the narrower rule first"
                    )
        return self

    def rules(self) -> tuple[Rule, ...]:
        """The retention rules, with what they inherit filled in."""
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
            stuck_after=self._stuck_after(days),
        )

    def _stuck_after(self, days: float) -> timedelta | None:
        if self.stuck_after_days is None:
            return None
        return timedelta(days=days if self.stuck_after_days == "max_age_days" else float(self.stuck_after_days))

    def described(self) -> dict[str, Any]:
        return {**super().described(), "retention": [_described(rule) for rule in self.rules()]}


def _described(rule: Rule) -> dict[str, Any]:
    """A rule with everything that it inherits, by the names of its settings."""
    fields = asdict(rule)
    age, stuck = fields.pop("max_age"), fields.pop("stuck_after")
    fields |= fields.pop("scope")
    days = {"max_age_days": age, "stuck_after_days": stuck}
    return {**fields, **{name: None if span is None else span / timedelta(days=1) for name, span in days.items()}}
