"""The policy agrees with a naive reading of it, over random histories."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from include.xcom_maintenance.core.records import Run
from include.xcom_maintenance.core.retention import Reason, Rule, judge_runs

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
RULES = st.lists(
    st.builds(
        Rule,
        dag_ids=st.sampled_from([("*",), ("a",), ("a*",), ("b", "a_*")]),
        exclude_dag_ids=st.sampled_from([(), ("a",)]),
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


def keeps_row(run: Run, pushed: datetime, runs: list[Run], rules: list[Rule]) -> bool:
    """The policy as a person would say it, one row at a time."""
    import fnmatch

    rule = next(
        (
            rule
            for rule in rules
            if any(fnmatch.fnmatchcase(run.dag_id, g) for g in rule.dag_ids)
            and not any(fnmatch.fnmatchcase(run.dag_id, g) for g in rule.exclude_dag_ids)
        ),
        None,
    )
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


@given(RUNS, RULES, DAYS)
def test_the_plan_agrees_with_a_naive_reading_of_the_policy(
    described: list[tuple[str, int, str, int]], rules: list[Rule], row_age: int
) -> None:
    runs = [a_run(number, *fields) for number, fields in enumerate(described)]
    pushed = NOW - timedelta(row_age, hours=1)
    verdicts = list(judge_runs(in_order(runs), rules, now=NOW))
    assert [verdict.run for verdict in verdicts] == in_order(runs)
    for verdict in verdicts:
        kept = verdict.cutoff is None or pushed >= verdict.cutoff.cutoff
        assert kept == keeps_row(verdict.run, pushed, runs, rules), verdict


@given(RUNS, RULES)
def test_nothing_that_is_pushed_after_the_plan_ever_goes(
    described: list[tuple[str, int, str, int]], rules: list[Rule]
) -> None:
    runs = in_order([a_run(number, *fields) for number, fields in enumerate(described)])
    assert all(v.cutoff is None or v.cutoff.cutoff <= NOW for v in judge_runs(runs, rules, now=NOW))


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
        [verdict] = judge_runs([run], [rule], now=NOW)
        found[expected].append(verdict.reason)
    assert found == {reason: [reason] for reason in described}
    runs = in_order([a_run(n, "a", n, "success", 0) for n in range(5)])
    reasons = [v.reason for v in judge_runs(runs, [Rule(max_runs=3)], now=NOW)]
    assert reasons == [Reason.MIN_RUNS, Reason.TOO_OLD, Reason.TOO_OLD, Reason.TOO_MANY_RUNS, Reason.TOO_MANY_RUNS]
