"""A plan above a limit: who is asked, and that nothing happens which nobody has approved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from include.xcom_maintenance.core.errors import ConfigurationError, StoreUnavailable
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from include.xcom_maintenance.reports.report import Approval
from tests.support.bucket import Bucket
from tests.support.bundle import Bundle
from tests.support.history import History

CLEANUP = "xcom_cleanup"
#: One row more than this goes by the history below.
LARGE: dict[str, Any] = {"mode": "enforce", "max_delete_rows": 1}


@pytest.fixture
def old(history: History) -> list[tuple[str, str]]:
    """Two old runs that go, and younger ones that stay; the runs that go."""
    runs = [history.run("a", age) for age in (30, 20, 5, 1)]
    for run, age in zip(runs, (30, 20, 5, 1), strict=True):
        history.xcom(run, age_days=age)
    return [("a", run.run_id) for run in runs[:2]]


def left(history: History, old: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [run for run in old if run in history.left()]


def report(bundle: Bundle, run_id: str = "r") -> dict[str, Any]:
    path = Path(bundle.report_path.removeprefix("file://"), CLEANUP, f"{run_id}.json")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


@dataclass
class Told:
    """What the notifier was told."""

    path: Path

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.path.read_text().splitlines()]


def told(bundle: Bundle, tmp_path: Path) -> Told:
    """Configure a notifier; returns what it will have been told."""
    assert isinstance(bundle.variable, dict)
    path = tmp_path / "told.jsonl"
    path.touch()
    bundle.variable |= {"notifier": "tests.support.notifier.ToFile", "notifier_kwargs": {"path": str(path)}}
    return Told(path)


# -- the answer ------------------------------------------------------------------------------------------------------


def test_an_approved_plan_is_carried_out(bundle: Bundle, history: History, old: list[tuple[str, str]]) -> None:
    outcome = bundle.run(CLEANUP, answer=Approval.GIVEN, **LARGE).succeeded()
    assert left(history, old) == []
    assert len(history.rows()) == 2
    assert (outcome.report["status"], outcome.report["approval"]) == ("enforced", "approved by somebody")
    assert "**Approval.** approved by somebody." in outcome.markdown


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Approval.REJECTED, "rejected by somebody"),
        (Approval.TIMED_OUT, "rejected: no answer in time"),
    ],
)
def test_a_plan_that_nobody_approved_changes_nothing_and_is_no_failure(
    bundle: Bundle, history: History, old: list[tuple[str, str]], answer: Approval, said: str
) -> None:
    outcome = bundle.run(CLEANUP, answer=answer, **LARGE).succeeded()
    assert left(history, old) == old
    assert (outcome.report["status"], outcome.report["approval"]) == ("rejected", said)
    assert "REJECTED: nothing was changed" in outcome.markdown
    assert not outcome.path(".pending").exists()


def test_the_question_shows_what_goes_and_why(bundle: Bundle, old: list[tuple[str, str]]) -> None:
    planned = bundle.task(CLEANUP, "plan", run_id="r", **LARGE)
    question = bundle.answer(CLEANUP, "r", planned, Approval.REJECTED, **LARGE)
    subject, body = question.split("\n", 1)
    assert subject.startswith("Delete 2 XCom rows (")
    assert body.startswith("# xcom_cleanup: waiting for approval; nothing has been changed yet")
    for words in ("max_delete_rows", "older than max_age_days", "| a |"):
        assert words in body
    assert "## Settings" not in body


def test_the_question_is_short_however_many_dags_there_are(bundle: Bundle, history: History) -> None:
    for number in range(60):
        history.xcom(history.run(f"dag_{number}_{'x' * 200}", 30), age_days=30)
        history.run(f"dag_{number}_{'x' * 200}", 1)
    planned = bundle.task(CLEANUP, "plan", run_id="r", **LARGE)
    question = bundle.answer(CLEANUP, "r", planned, Approval.REJECTED, **LARGE)
    assert len(question) < 30_000


# -- on_limit --------------------------------------------------------------------------------------------------------


def test_for_unattended_use_a_large_plan_can_be_carried_out_unasked(
    bundle: Bundle, history: History, old: list[tuple[str, str]]
) -> None:
    bundle.variable = {"on_limit": "approve"}
    outcome = bundle.run(CLEANUP, **LARGE).succeeded()
    assert left(history, old) == []
    assert outcome.report["approval"] == "not required: on_limit is approve"
    assert outcome.report["objections"][0]["setting"] == "max_delete_rows"


def test_for_unattended_use_a_large_plan_can_be_refused(
    bundle: Bundle, history: History, old: list[tuple[str, str]]
) -> None:
    bundle.variable = {"on_limit": "refuse"}
    outcome = bundle.run(CLEANUP, **LARGE)
    assert isinstance(outcome.error, AirflowFailException)
    assert outcome.report["status"] == "refused"
    assert left(history, old) == old


@pytest.mark.parametrize("on_limit", ["ask", "approve"])
def test_an_implausible_plan_is_refused_and_nobody_can_approve_it(
    bundle: Bundle, bucket: Bucket, history: History, old: list[tuple[str, str]], on_limit: str
) -> None:
    bucket.put("xcom/.xcom-maintenance-owner.json", b'{"owner": "7000000000000000000/production"}')
    outcome = bundle.run(CLEANUP, on_limit=on_limit, **LARGE)
    assert isinstance(outcome.error, AirflowFailException)
    assert (outcome.report["status"], outcome.report["approval"]) == ("refused", None)
    assert left(history, old) == old


def test_a_report_asks_nobody(bundle: Bundle, old: list[tuple[str, str]]) -> None:
    outcome = bundle.run(CLEANUP, max_delete_rows=1).succeeded()
    assert (outcome.report["status"], outcome.report["approval"]) == ("reported", None)
    assert outcome.report["objections"][0]["setting"] == "max_delete_rows"


# -- while it waits --------------------------------------------------------------------------------------------------


def test_a_mode_set_back_to_report_while_waiting_stops_an_approved_plan(
    bundle: Bundle, history: History, old: list[tuple[str, str]]
) -> None:
    planned = bundle.task(CLEANUP, "plan", run_id="r", **LARGE)
    bundle.answer(CLEANUP, "r", planned, Approval.GIVEN, **LARGE)
    with pytest.raises(AirflowSkipException):
        bundle.apply(planned, run_id="r", mode="report", max_delete_rows=1)
    assert left(history, old) == old
    assert report(bundle)["status"] == "reported"
    assert any("changed back to report" in warning for warning in report(bundle)["warnings"])


@pytest.mark.parametrize(("max_age_days", "stays"), [(25, 1), (40, 2), (2, 0)])
def test_an_approved_plan_follows_a_tighter_policy_and_never_a_looser_one(
    bundle: Bundle, history: History, old: list[tuple[str, str]], max_age_days: int, stays: int
) -> None:
    planned = bundle.task(CLEANUP, "plan", run_id="r", **LARGE)
    bundle.answer(CLEANUP, "r", planned, Approval.GIVEN, **LARGE)
    bundle.apply(planned, run_id="r", max_age_days=max_age_days, **LARGE)
    assert len(left(history, old)) == stays
    assert len(history.rows()) == 2 + stays


def test_an_answer_to_a_plan_that_was_overwritten_carries_nothing_out(
    bundle: Bundle, history: History, old: list[tuple[str, str]]
) -> None:
    """By a second Airflow with the same report path and run ids."""
    planned = bundle.task(CLEANUP, "plan", run_id="r", **LARGE)
    bundle.task(CLEANUP, "plan", run_id="r", **LARGE)
    with pytest.raises(ConfigurationError, match="overwritten"):
        bundle.answer(CLEANUP, "r", planned, Approval.GIVEN, **LARGE)
    with pytest.raises(AirflowFailException, match="overwritten"):
        bundle.apply(planned, run_id="r", **LARGE)
    assert left(history, old) == old


def test_the_notifier_is_told_once_that_somebody_is_waited_for(
    bundle: Bundle, tmp_path: Path, old: list[tuple[str, str]]
) -> None:
    lines = told(bundle, tmp_path)
    bundle.run(CLEANUP, answer=Approval.GIVEN, **LARGE).succeeded()
    assert lines.events() == ["waiting_approval"]


# -- what was cleared, and what failed ---------------------------------------------------------------------------------


def test_nobody_is_asked_twice_about_a_plan_that_was_approved(
    bundle: Bundle, history: History, old: list[tuple[str, str]]
) -> None:
    """Its rows may be gone; a report that "waits for approval; nothing has been changed" would be wrong."""
    planned = bundle.task(CLEANUP, "plan", run_id="r", **LARGE)
    bundle.answer(CLEANUP, "r", planned, Approval.GIVEN, **LARGE)
    bundle.apply(planned, run_id="r", **LARGE)
    before = report(bundle)
    assert bundle.answer(CLEANUP, "r", planned, Approval.REJECTED, **LARGE) == ""
    assert report(bundle) == before


def test_a_rejected_plan_can_be_asked_about_again(bundle: Bundle, history: History, old: list[tuple[str, str]]) -> None:
    planned = bundle.task(CLEANUP, "plan", run_id="r", **LARGE)
    bundle.answer(CLEANUP, "r", planned, Approval.TIMED_OUT, **LARGE)
    assert bundle.answer(CLEANUP, "r", planned, Approval.GIVEN, **LARGE)
    bundle.apply(planned, run_id="r", **LARGE)
    assert left(history, old) == []
    assert report(bundle)["approval"] == "approved by somebody"


def test_a_finished_run_whose_tasks_are_cleared_deletes_nothing_more(
    bundle: Bundle, history: History, old: list[tuple[str, str]]
) -> None:
    planned = bundle.task(CLEANUP, "plan", run_id="r", **LARGE)
    bundle.answer(CLEANUP, "r", planned, Approval.GIVEN, **LARGE)
    first = bundle.apply(planned, run_id="r", max_minutes=0.05, **LARGE)
    rows = history.rows()
    [shard] = bundle.task(CLEANUP, "share_out", planned, run_id="r", **LARGE)
    shard["deadline"] = "2026-01-01T00:00:00+00:00"  # as of long ago
    bundle.task(CLEANUP, "delete_rows", planned, shard, run_id="r", **LARGE)
    again = bundle.task(CLEANUP, "finish", planned, [shard], run_id="r", **LARGE)
    assert history.rows() == rows
    for name in ("rows_deleted", "bytes_deleted", "rows_left"):
        assert again[name] == first[name]
    assert again["rows_left"] == 0
    assert not any("left for the next run" in warning for warning in report(bundle)["warnings"])


def fails(bundle: Bundle, task_id: str, error: BaseException) -> None:
    """What Airflow does when a task has failed for good."""
    from include.xcom_maintenance.flow import callbacks

    run = SimpleNamespace(dag_id=CLEANUP, run_id="r", task_id=task_id, conf={})
    with bundle.configured():
        callbacks.on_failure({"ti": run, "exception": error, "params": {}})


def test_a_question_that_failed_is_no_approval(
    bundle: Bundle, history: History, old: list[tuple[str, str]], tmp_path: Path
) -> None:
    lines = told(bundle, tmp_path)
    planned = bundle.task(CLEANUP, "plan", run_id="r", **LARGE)
    fails(bundle, "approve", RuntimeError())
    with pytest.raises(AirflowFailException, match="approve or share_out") as raised:
        bundle.task(CLEANUP, "finish", planned, None, run_id="r", **LARGE)
    fails(bundle, "finish", raised.value)
    assert lines.events() == ["failure"]
    assert report(bundle)["status"] == "failed"
    assert left(history, old) == old


def test_a_run_whose_plan_failed_is_told_once_and_not_green(bundle: Bundle, tmp_path: Path) -> None:
    lines = told(bundle, tmp_path)
    outcome = bundle.run(CLEANUP, run_id="r", metadata_conn_id="nowhere", **LARGE)
    assert outcome.error is not None
    fails(bundle, "plan", outcome.error)
    with pytest.raises(AirflowFailException, match="There is no plan") as raised:
        bundle.task(CLEANUP, "finish", None, None, run_id="r", metadata_conn_id="nowhere", **LARGE)
    fails(bundle, "finish", raised.value)
    assert lines.events() == ["failure"]
    assert "nowhere" in report(bundle)["error"]["message"]


def test_a_share_that_fails_makes_the_run_red_and_the_others_are_counted(
    bundle: Bundle, history: History, old: list[tuple[str, str]], tmp_path: Path
) -> None:
    from tests.support.bundle import dags

    assert dags()[CLEANUP].get_task("delete_rows").partial_kwargs["on_failure_callback"] in (None, [], ())
    lines = told(bundle, tmp_path)
    conf = {"mode": "enforce", "shard_rows": 1, "batch_rows": 1}
    planned = bundle.task(CLEANUP, "plan", run_id="r", **conf)
    one, two = shards = bundle.task(CLEANUP, "share_out", planned, run_id="r", **conf)

    def unavailable(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("The connection was lost", setting="metadata_conn_id", remedy="Wait")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresMetadataStore, "delete", unavailable)
        with pytest.raises(StoreUnavailable):
            bundle.task(CLEANUP, "delete_rows", planned, one, run_id="r", **conf)
    bundle.task(CLEANUP, "delete_rows", planned, two, run_id="r", **conf)
    with pytest.raises(AirflowFailException, match=r"1 of 2 tasks .* The connection was lost") as raised:
        bundle.task(CLEANUP, "finish", planned, shards, run_id="r", **conf)
    fails(bundle, "finish", raised.value)
    assert lines.events() == ["failure"]
    assert (report(bundle)["status"], report(bundle)["headline"]["rows_deleted"]) == ("failed", 1)
    assert len(left(history, old)) == 1

    bundle.task(CLEANUP, "delete_rows", planned, one, run_id="r", **conf)
    assert bundle.task(CLEANUP, "finish", planned, shards, run_id="r", **conf)["rows_deleted"] == 2
    assert (report(bundle)["status"], report(bundle)["error"]) == ("enforced", None)
    assert left(history, old) == []
