"""The policy agrees with a naive reading of it, over random histories."""

from __future__ import annotations

import fnmatch
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from include.xcom_maintenance.core.runs import Run, Scope, YoungerRuns
from include.xcom_maintenance.retention.policy import Part, Policy, Reason, Rule, RunVerdict, given_up

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = st.integers(0, 40)
RUNS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "a_b"]),
        DAYS,
        st.sampled_from(["success", "failed", "running", "queued", ""]),
        st.sampled_from([0, 0, 0, 1]),
    ),
    max_size=30,
)
TASKS, KEYS = ("t", "u", "train_1"), ("k", "return_value")
TAGS = {"a": ("ml",), "b": ("ml", "daily")}
SCOPES = st.builds(
    Scope,
    task_ids=st.sampled_from([("*",), ("t",), ("train_*", "u")]),
    exclude_task_ids=st.sampled_from([(), ("u",)]),
    keys=st.sampled_from([("*",), ("k",)]),
    exclude_keys=st.sampled_from([(), ("return_*",)]),
)
RULES = st.lists(
    st.builds(
        Rule,
        dag_ids=st.sampled_from([("*",), ("a",), ("a*",), ("b", "a_*")]),
        exclude_dag_ids=st.sampled_from([(), ("a",)]),
        tags=st.sampled_from([(), ("ml",), ("d*",)]),
        exclude_tags=st.sampled_from([(), ("daily",)]),
        scope=SCOPES,
        max_age=st.one_of(st.none(), st.builds(timedelta, DAYS)),
        max_runs=st.one_of(st.none(), st.integers(1, 4)),
        min_runs=st.integers(0, 3),
        hold=st.booleans(),
    ),
    max_size=4,
)


def a_run(number: int, dag_id: str, age: int, state: str, unfinished: int) -> Run:
    return Run(number, dag_id, f"r{number}", state, NOW - timedelta(age), unfinished)


def in_order(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: (run.dag_id, NOW - run.run_after, -run.dag_run_id))


def keeps_row(run: Run, task: str, key: str, pushed: datetime, runs: list[Run], rules: list[Rule]) -> bool:
    """The policy as a person would say it, one row at a time."""

    def one_of(name: str, globs: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(name, glob) for glob in globs)

    def applies(rule: Rule) -> bool:
        tags = TAGS.get(run.dag_id, ())
        return (
            one_of(run.dag_id, rule.dag_ids)
            and not one_of(run.dag_id, rule.exclude_dag_ids)
            and (not rule.tags or any(one_of(tag, rule.tags) for tag in tags))
            and not any(one_of(tag, rule.exclude_tags) for tag in tags)
            and one_of(task, rule.scope.task_ids)
            and not one_of(task, rule.scope.exclude_task_ids)
            and one_of(key, rule.scope.keys)
            and not one_of(key, rule.scope.exclude_keys)
        )

    rule = next(filter(applies, rules), None)
    if rule is None or rule.hold:
        return True
    if run.state not in ("success", "failed") or run.unfinished_tasks:
        return True
    newest = sorted(
        (other for other in runs if other.dag_id == run.dag_id and other.state in ("success", "failed")),
        key=lambda other: (other.run_after, other.dag_run_id),
        reverse=True,
    )
    if run in newest[: rule.min_runs]:
        return True
    too_old = rule.max_age is not None and pushed < NOW - rule.max_age
    too_many = rule.max_runs is not None and run not in newest[: rule.max_runs] and pushed < NOW
    return not (too_old or too_many)


def judged(runs: list[Run], rules: list[Rule]) -> list[RunVerdict]:
    verdicts = list(Policy(rules, now=NOW, tags=TAGS).judge(in_order(runs)))
    assert all(isinstance(verdict, RunVerdict) for verdict in verdicts)
    return verdicts  # type: ignore[return-value]


def takes(verdict: RunVerdict, task: str, key: str, pushed: datetime) -> bool:
    cuts = [part.cut for part in verdict.parts if part.cut is not None]
    speaking = [
        cut
        for cut in cuts
        if cut.selection is None
        or (
            cut.selection.scope.matches(task, key)
            and not any(scope.matches(task, key) for scope in cut.selection.before)
        )
    ]
    assert len(speaking) <= 1
    return any(pushed < cut.cutoff for cut in speaking)


@given(RUNS, RULES, DAYS)
def test_the_plan_agrees_with_a_naive_reading_of_the_policy(
    described: list[tuple[str, int, str, int]], rules: list[Rule], row_age: int
) -> None:
    runs = [a_run(number, *fields) for number, fields in enumerate(described)]
    pushed = NOW - timedelta(row_age, hours=1)
    verdicts = judged(runs, rules)
    assert [verdict.run for verdict in verdicts] == in_order(runs)
    for verdict in verdicts:
        for task, key in product(TASKS, KEYS):
            goes = takes(verdict, task, key, pushed)
            assert goes != keeps_row(verdict.run, task, key, pushed, runs, rules), (verdict, task, key)


@given(RUNS, RULES)
def test_a_rule_that_another_covers_never_decides(
    described: list[tuple[str, int, str, int]], rules: list[Rule]
) -> None:
    policy = Policy(rules, now=NOW, tags=TAGS)
    covered = {j for i, rule in enumerate(rules) for j in range(i + 1, len(rules)) if rule.covers(rules[j])}
    for dag_id, task, key in product(("a", "b", "a_b"), TASKS, KEYS):
        bits = sum(1 << i for i, scope in enumerate(policy.scopes) if scope.matches(task, key))
        link = policy.link(dag_id, bits)
        assert link is None or link.position not in covered


@given(RUNS, RULES)
def test_nothing_that_is_pushed_after_the_plan_ever_goes(
    described: list[tuple[str, int, str, int]], rules: list[Rule]
) -> None:
    runs = [a_run(number, *fields) for number, fields in enumerate(described)]
    parts = [part for verdict in judged(runs, rules) for part in verdict.parts]
    assert all(part.cut is None or part.cut.cutoff <= NOW for part in parts)


@given(RUNS, RULES)
def test_runs_beyond_the_horizon_lose_nothing_and_count_among_the_newest(
    described: list[tuple[str, int, str, int]], rules: list[Rule]
) -> None:
    runs = in_order([a_run(number, *fields) for number, fields in enumerate(described)])
    policy = Policy(rules, now=NOW, tags=TAGS)
    horizon = policy.horizon
    if horizon is None:
        return
    young = [run for run in runs if run.run_after >= horizon]
    mixed: list[Run | YoungerRuns] = []
    for dag_id in sorted({run.dag_id for run in runs}):
        states = [run.state in ("success", "failed") for run in young if run.dag_id == dag_id]
        mixed.append(YoungerRuns(dag_id, sum(states), len(states) - sum(states)))
        mixed += [run for run in runs if run.dag_id == dag_id and run not in young]
    found = {v.run.dag_run_id: v.parts for v in policy.judge(mixed) if isinstance(v, RunVerdict)}
    for verdict in judged(runs, rules):
        parts = found.get(verdict.run.dag_run_id)
        if parts is not None:
            assert parts == verdict.parts
        else:  # its rows were pushed after it was created
            created = verdict.run.run_after
            assert all(part.cut is None or part.cut.cutoff <= created for part in verdict.parts)


@given(RUNS, RULES)
def test_nothing_of_what_is_given_up_is_missing_or_another(
    history: list[tuple[str, int, str, int]], rules: list[Rule]
) -> None:
    verdicts = judged(in_order([a_run(n, *run) for n, run in enumerate(history)]), rules)
    parts: list[Part] = []
    given = given_up(iter(verdicts), parts)
    found = [
        (dag_run_id, given.cuts[which], id(parts[which]))
        for dag_run_id, which in zip(given.dag_run_ids, given.which, strict=True)
    ]
    expected = [(v.run.dag_run_id, part.cut, id(part)) for v in verdicts for part in v.parts if part.cut is not None]
    assert Counter(found) == Counter(expected)


def test_every_verdict_says_why() -> None:
    described: dict[str, tuple[Rule, Run]] = {
        Reason.HOLD: (Rule(hold=True), a_run(1, "a", 30, "success", 0)),
        Reason.UNFINISHED_RUN: (Rule(), a_run(1, "a", 30, "running", 0)),
        Reason.UNFINISHED_TASK: (Rule(), a_run(1, "a", 30, "success", 2)),
        Reason.MIN_RUNS: (Rule(), a_run(1, "a", 30, "failed", 0)),
        Reason.TOO_OLD: (Rule(min_runs=0), a_run(1, "a", 30, "failed", 0)),
        Reason.WITHIN_MAX_RUNS: (Rule(min_runs=0, max_runs=3, max_age=None), a_run(1, "a", 30, "failed", 0)),
        Reason.NO_RULE: (Rule(dag_ids=("b",)), a_run(1, "a", 30, "failed", 0)),
    }
    found = defaultdict(list)
    for expected, (rule, run) in described.items():
        [verdict] = judged([run], [rule])
        found[expected] += [part.reason for part in verdict.parts]
    assert found == {reason: [reason] for reason in described}
    runs = [a_run(n, "a", n, "success", 0) for n in range(5)]
    reasons = [part.reason for v in judged(runs, [Rule(max_runs=3)]) for part in v.parts]
    assert reasons == [Reason.MIN_RUNS, Reason.TOO_OLD, Reason.TOO_OLD, Reason.TOO_MANY_RUNS, Reason.TOO_MANY_RUNS]
