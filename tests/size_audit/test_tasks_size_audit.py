"""``xcom_size_audit``: its figures agree with a table that the test knows, and what it says follows from them."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.xcom_maintenance.core.sizes import BANDS, KB, THRESHOLDS
from include.xcom_maintenance.size_audit import audit as size_audit
from include.xcom_maintenance.size_audit.growth import day_number, day_of
from include.xcom_maintenance.size_audit.results import ProbeResult, SecretFinding, SecretScan
from local_stack.s3 import MotoS3
from tests.support.bucket import Bucket
from tests.support.bundle import Bundle, Outcome, dags
from tests.support.history import NOW, History, days_ago

AUDIT = "xcom_size_audit"


def noise(size: int, seed: int = 1) -> str:
    """A text that hardly compresses."""
    return random.Random(seed).randbytes(size // 2).hex()


def lines(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """The scorecard by metric."""
    return {line["metric"]: line for line in outcome.report["details"]["scorecard"]}


def cells(outcome: Outcome, title: str, names: int, *columns: str) -> dict[Any, tuple[Any, ...]]:
    """Some columns of a table, by its first ones."""
    return {tuple(row.values())[:names]: tuple(row[c] for c in columns) for row in outcome.table(title)}


def test_every_figure_agrees_with_a_known_table(bundle: Bundle, history: History) -> None:
    """Sizes of the text are what Python makes of the values; stored ones are asked of the database row by row."""
    pushed: list[tuple[str, str, str, float, int]] = []

    def push(
        run: Any, value: object, *, age_days: float, task_id: str = "t", key: str = "return_value", **more: Any
    ) -> None:
        history.xcom(run, value, age_days=age_days, task_id=task_id, key=key, **more)
        pushed.append((run.dag_id, task_id, key, age_days, len(json.dumps(value))))

    big, small = history.run("big", 2), history.run("small", 1)
    for map_index in range(3):
        push(big, noise(60_000, map_index), age_days=2, task_id="mapped", map_index=map_index)
    push(big, noise(1_000) * 11_000, age_days=3, key="huge")
    push(small, {"records": [{"id": n, "name": "n" * 10} for n in range(400)]}, age_days=1)
    push(small, 1, age_days=1, key="one")
    history.xcom(small, 1, age_days=1, key="nothing")
    history.connection.execute("UPDATE xcom SET value = NULL WHERE key = 'nothing'")
    rows = history.rows()
    outcome = bundle.run(AUDIT).succeeded()

    stored = {
        (dag_id, task_id, key): int(size)
        for dag_id, task_id, key, size in history.connection.execute(
            "SELECT dag_id, task_id, key, coalesce(sum(pg_column_size(value)), 0) FROM xcom GROUP BY 1, 2, 3"
        ).fetchall()
    }
    texts = [size for *_, size in pushed]
    headline = outcome.report["headline"]
    assert (headline["rows"], headline["bytes"], headline["dags"]) == (7, sum(stored.values()), 2)
    assert (headline["logical_bytes"], headline["largest_bytes"]) == (sum(texts), max(texts))
    assert headline["rows_above_48_kb"] == sum(size >= 48 * KB for size in texts) == 4
    assert headline["oldest_row"] == days_ago(3).isoformat(timespec="seconds")

    def expected(part: int) -> dict[Any, tuple[int, int, int]]:
        found = {}
        for names in {key[:part] for key in stored}:
            mine = [p for p in pushed if p[:part] == names]
            nulls = names[part - 1 :] == ("nothing",) or names in {("small",), ("small", "t")}
            found[names] = (
                len(mine) + nulls,
                sum(size for key, size in stored.items() if key[:part] == names),
                sum(p[4] for p in mine),
            )
        return found

    columns = ("rows", "stored bytes", "logical bytes")
    for title, part in {"By DAG": 1, "By task": 2, "By key": 3}.items():
        assert cells(outcome, title, part, *columns) == expected(part), title
        assert sum(row["share of bytes"] for row in outcome.table(title)) == pytest.approx(1, abs=0.001)
    assert outcome.table("By DAG")[0]["DAG"] == max(expected(1), key=lambda names: expected(1)[names][1])[0]

    of_day = {day_of(day_number(days_ago(age))).isoformat() for *_, age, _ in pushed}
    by_day = {row["day"]: row["logical bytes"] for row in outcome.table("By day pushed")}
    assert by_day == {
        day: sum(size for *_, age, size in pushed if day_of(day_number(days_ago(age))).isoformat() == day)
        for day in of_day
    }
    bands = {row["band"]: row["rows"] for row in outcome.table("Size bands")}
    assert bands == {b.name: sum(b.lower <= s and (b.upper is None or s < b.upper) for s in texts) for b in BANDS}
    assert all(row["recommendation"] for row in outcome.table("Size bands"))

    sizes = history.connection.execute(
        "SELECT dag_id, octet_length(value::text), pg_column_size(value) FROM xcom WHERE value IS NOT NULL"
    ).fetchall()
    for row in outcome.table("What would leave the database at each backend threshold"):
        mine = [(text, size) for dag_id, text, size in sizes if row["DAG"] in {dag_id, "all DAGs"}]
        found = list(row.values())[2:]
        assert found == [sum(size for text, size in mine if text >= threshold) for threshold in THRESHOLDS], row["DAG"]
    largest = outcome.table("Largest entries")
    assert [row["stored bytes"] for row in largest] == [*sorted((s for *_, s in sizes), reverse=True), 0]
    assert {row["key"]: row["logical bytes"] for row in largest}["huge"] == max(texts)
    assert outcome.table("Rows that should not be there") == [
        {"what": "rows with a NULL value", "DAG": "small", "rows": 1}
    ]
    assert outcome.table("Mapped tasks with the largest fan-out")[0]["fan-out"] == 3
    assert outcome.table("Tasks with the most pushes in one day")[0]["pushes"] == 3
    assert "| big | 4 |" in outcome.markdown
    assert history.rows() == rows


def test_the_scorecard_comes_first_and_then_what_to_do(bundle: Bundle, history: History) -> None:
    history.xcom(history.run("big", 1), noise(20_000_000), age_days=1)
    outcome = bundle.run(AUDIT).succeeded()
    assert [table["title"] for table in outcome.report["tables"]][:3] == ["Scorecard", "What to do", "By DAG"]
    verdicts = [row["verdict"] for row in outcome.table("Scorecard")]
    assert verdicts == sorted(verdicts, key=["WARN", "pass", "unknown"].index)
    found = lines(outcome)
    assert {name for name, line in found.items() if line["verdict"] == "WARN"} >= {"value_size", "memory"}
    assert found["push_time"]["value"] == pytest.approx(20_000_002 / (10 * 1024 * KB))
    [action] = [row for row in outcome.table("What to do") if row["where"] == "big"]
    assert "above 48 KB" in action["issue"]
    assert outcome.markdown.index("## Scorecard") < outcome.markdown.index("## What to do")
    assert {chart["title"] for chart in outcome.report["charts"]} == {
        "Bytes by DAG", "Growth over time", "Size bands", "Largest entries",
    }  # fmt: skip
    for chart in outcome.report["charts"]:
        assert {len(values) for values in chart["series"].values()} == {len(chart["labels"])}


def test_values_near_the_limit_of_postgres_are_a_hazard(bundle: Bundle, history: History) -> None:
    """Half of what a string in JSONB may have; it compresses to little, so only its text tells."""
    run = history.run("big", 1)
    history.xcom(run, "small", age_days=1)
    history.connection.execute("UPDATE xcom SET value = to_jsonb(repeat('x', 140000000))")
    outcome = bundle.run(AUDIT).succeeded()
    [row] = outcome.table("Large values and their limits")
    assert row["logical bytes"] == 140_000_002
    assert row["share of the JSONB limit"] == pytest.approx(140_000_002 / 268_435_455, abs=0.0001)
    assert "close to the" in outcome.table("What to do")[0]["issue"]


def test_more_than_a_thousand_pushes_a_day_are_noticed_and_named(bundle: Bundle, history: History) -> None:
    run = history.run("busy", 1)
    history.task(run, "chatty")
    history.connection.execute(
        """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
           SELECT %s, 'busy', %s, 'chatty', -1, 'k' || n, '1', %s FROM generate_series(1, 1001) n""",
        (run.dag_run_id, run.run_id, days_ago(1)),
    )
    outcome = bundle.run(AUDIT).succeeded()
    assert lines(outcome)["pushes_a_day"]["verdict"] == "WARN"
    assert {
        "issue": "1,001 pushes in one day",
        "where": "busy / chatty",
        "action": "Combine many small values into one push",
    } in outcome.table("What to do")
    [row] = outcome.table("Pushes per DAG and day")
    assert row[day_of(day_number(days_ago(1))).isoformat()] == 1_001
    assert row["daily mean"] == 143.0


@pytest.mark.parametrize(
    ("settings", "found"), [({}, 2), ({"stuck_after_days": 50}, 1), ({"stuck_after_days": None}, 0)]
)
def test_no_run_that_does_not_end_goes_unnamed(
    bundle: Bundle, history: History, settings: dict[str, Any], found: int
) -> None:
    long, queued = history.run("a", 90, state="running"), history.run("b", 20, state="queued")
    for run in (long, history.run("a", 2, state="running"), history.run("c", 90)):
        history.xcom(run, "x" * 100, age_days=1)
    history.xcom(long, "x", age_days=80, key="k")
    bundle.variable = settings
    outcome = bundle.run("xcom_size_audit", probe=False).succeeded()
    headline = outcome.report["headline"]
    names = ("runs_that_do_not_end", "rows_of_runs_that_do_not_end")
    assert [headline[name] for name in names] == [found, 2 if found else 0]
    if found:
        rows = outcome.table("Runs that do not end")
        assert [(row["run"], row["state"], row["rows"]) for row in rows] == [
            (long.run_id, "running", 2),
            (queued.run_id, "queued", 0),
        ][:found]
        assert rows[0]["days"] == 90.0


def test_overdue_rows_are_those_that_a_cleanup_would_have_taken_days_ago(bundle: Bundle, history: History) -> None:
    """With seven days of retention and two of patience; what a rule holds is not overdue."""
    for dag_id in ("a", "held"):
        for age in (30, 9.5, 8.5, 1):
            history.xcom(history.run(dag_id, age), age_days=age)
    history.xcom(history.run("a", 31, state="running"), age_days=31)
    bundle.variable = {"retention": [{"dag_ids": ["held"], "hold": True}, {"dag_ids": ["*"]}]}
    outcome = bundle.run(AUDIT).succeeded()
    assert lines(outcome)["overdue_rows"]["value"] == 2
    assert {"what": "rows a cleanup should have deleted", "DAG": "a", "rows": 2} in outcome.table(
        "Rows that should not be there"
    )
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    outcome = bundle.run(AUDIT).succeeded()
    assert lines(outcome)["overdue_rows"]["value"] == 0
    assert (lines(outcome)["cleanup"]["value"], lines(outcome)["cleanup"]["verdict"]) == (0, "pass")


def test_rows_of_dags_that_do_not_exist_are_named(bundle: Bundle, history: History) -> None:
    for dag_id in ("here", "deleted", "stale"):
        history.xcom(history.run(dag_id, 1), age_days=1)
    history.connection.execute("UPDATE dag SET is_stale = true WHERE dag_id = 'stale'")
    history.connection.execute("DELETE FROM dag WHERE dag_id = 'deleted'")
    found = {row["DAG"]: row["what"] for row in bundle.run(AUDIT).succeeded().table("Rows that should not be there")}
    assert found == {
        "deleted": "rows left behind: the DAG was deleted",
        "stale": "rows left behind: the DAG is no longer defined in any file",
    }


# -- beyond the budget -----------------------------------------------------------------------------------------------


def test_what_is_estimated_is_said_to_be_and_is_about_right(bundle: Bundle, history: History) -> None:
    run = history.run("a", 1)
    history.connection.execute(
        """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
           SELECT %s, 'a', %s, 't', -1, 'k' || n, to_jsonb(repeat(md5(n::text), 40)), %s
           FROM generate_series(1, 20000) n""",
        (run.dag_run_id, run.run_id, days_ago(1)),
    )
    bundle.variable = {"secrets_scan": False}  # which takes longer than all the rest
    outcome = bundle.run(AUDIT, audit_budget_bytes=500_000).succeeded()
    assert "estimated from" in outcome.markdown
    headline = outcome.report["headline"]
    assert headline["rows"] == 20_000
    assert headline["logical_bytes"] == pytest.approx(20_000 * 1_282, rel=0.2)
    assert {r["band"]: r["rows"] for r in outcome.table("Size bands")}["1-10 KB"] == pytest.approx(20_000, rel=0.01)
    exact = bundle.run(AUDIT).succeeded()
    assert "estimated from" not in exact.markdown
    assert exact.report["headline"]["logical_bytes"] == 20_000 * 1_282


def test_an_audit_that_may_not_read_values_says_so_and_goes_by_what_is_stored(bundle: Bundle, history: History) -> None:
    run = history.run("a", 1)
    for number in range(6):
        history.xcom(run, "x" * 8_000_000, age_days=1, key=str(number))
    outcome = bundle.run(AUDIT, audit_budget_seconds=0.1).succeeded()
    assert any("audit_budget_seconds" in warning for warning in outcome.report["warnings"])
    assert outcome.report["headline"]["logical_bytes"] is None
    assert outcome.report["headline"]["rows"] == 6


# -- growth ----------------------------------------------------------------------------------------------------------


def move_back(outcome: Outcome, days: float) -> None:
    """Let a report be as old as that."""
    report = outcome.report
    report["finished_at"] = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    growth = report["details"]["growth"]
    growth["day"] = (date.fromisoformat(growth["day"]) - timedelta(days=days)).isoformat()
    outcome.path(".json").write_text(json.dumps(report))


def test_two_audits_a_day_apart_give_the_right_trend(bundle: Bundle, history: History) -> None:
    bundle.variable = {"growth_limits_bytes": [50_000_000, 200_000_000]}
    history.xcom(history.run("a", 3), noise(2_000), age_days=3)
    first = bundle.run(AUDIT).succeeded()
    assert first.report["headline"]["bytes_per_day"] is None
    assert lines(first)["forecast"]["verdict"] == "unknown"
    move_back(first, 1)
    run = history.run("a", 1)
    for number in range(40):
        history.xcom(run, noise(100_000, number), age_days=1, key=str(number))
    second = bundle.run(AUDIT, run_id="second").succeeded()
    grown = second.report["headline"]["table_total_bytes"] - first.report["headline"]["table_total_bytes"]
    assert grown > 4_000_000
    assert second.report["headline"]["bytes_per_day"] == pytest.approx(grown, rel=0.01)
    for row in second.table("Growth forecast"):
        missing = row["table bytes"] - second.report["headline"]["table_total_bytes"]
        expected = datetime.now(UTC) + timedelta(days=missing / grown)
        assert abs(date.fromisoformat(row["reached on"]) - expected.date()) <= timedelta(days=1)
    [change] = second.table("Largest changes in growth by DAG")
    assert (change["DAG"], change["pushes per day"], change["previous pushes per day"], change["anomaly"]) == (
        "a",
        40,
        0,
        "yes",
    )
    [chart] = [chart for chart in second.report["charts"] if chart["title"] == "Growth over time"]
    assert chart["series"]["table"] == [
        report["headline"]["table_total_bytes"] for report in (first.report, second.report)
    ]


def test_a_table_that_shrinks_gets_no_forecast(bundle: Bundle, history: History) -> None:
    run = history.run("a", 1)
    for number in range(20):
        history.xcom(run, noise(100_000, number), age_days=1, key=str(number))
    move_back(bundle.run(AUDIT).succeeded(), 1)
    history.connection.execute("DELETE FROM xcom WHERE key <> '0'")
    history.connection.execute("VACUUM FULL xcom")
    outcome = bundle.run(AUDIT).succeeded()
    assert outcome.report["headline"]["bytes_per_day"] < -1_000_000
    assert {row["reached on"] for row in outcome.table("Growth forecast")} == {"not within ten years"}


def test_past_reports_that_are_damaged_failed_or_of_another_database_are_no_past(
    bundle: Bundle, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    past = bundle.run(AUDIT).succeeded()
    folder = past.path(".json").parent
    report = past.report
    report["finished_at"] = days_ago(1).isoformat()
    report["details"]["growth"]["database"] = "1/other"
    past.path(".json").write_text(json.dumps(report))
    (folder / "manual__torn.json").write_text('{"status": "audi')
    (folder / "manual__other.json").write_text('[{"no": "report"}]')
    (folder / "manual__failed.json").write_text(json.dumps({**report, "status": "failed"}))
    assert bundle.run(AUDIT).succeeded().report["headline"]["bytes_per_day"] is None
    assert "Left the past report manual__torn.json out of the trend" in caplog.text


# -- blobs -----------------------------------------------------------------------------------------------------------


def test_blobs_count_where_their_rows_are(bundle: Bundle, bucket: Bucket, history: History) -> None:
    old, new = history.run("a", 20), history.run("b", 1)
    history.xcom(old, bucket.blob(old, age_days=20, size=700), age_days=20)
    shared = bucket.blob(new, age_days=1, size=60_000)
    history.xcom(new, shared, age_days=1)
    history.xcom(new, shared, age_days=1, key="again")
    history.xcom(
        new, f"{bucket.base}/b/{new.run_id}/t/11111111-2222-4333-8444-555555555555", age_days=1, key="dangling"
    )
    bucket.put("xcom/a/x/t/22222222-2222-4333-8444-555555555555", b"orphan" * 1_000)
    outcome = bundle.run(AUDIT).succeeded()
    assert outcome.report["headline"]["blob_bytes"] == 60_700
    assert cells(outcome, "By DAG", 1, "blobs", "blob bytes") == {("b",): (3, 60_000), ("a",): (1, 700)}
    assert cells(outcome, "By key", 3, "blob bytes")["b", "t", "return_value"] == (60_000,)
    assert cells(outcome, "By day pushed", 1, "blob bytes")["earlier",] == (700,)
    bands = {row["band"]: row["blobs of this size"] for row in outcome.table("Size bands")}
    assert bands == {"below 1 KB": 1, "1-10 KB": 0, "10-48 KB": 0, "48 KB-10 MB": 1, "above 10 MB": 0}
    assert any("No blob was listed for 1 reference." in warning for warning in outcome.report["warnings"])
    [chart] = [chart for chart in outcome.report["charts"] if chart["title"] == "Bytes by DAG"]
    assert dict(zip(chart["labels"], chart["series"]["blobs"], strict=True)) == {"b": 60_000, "a": 700}


def test_beyond_the_budget_blobs_are_estimated_and_said_to_be(bundle: Bundle, bucket: Bucket, history: History) -> None:
    for dag_id, size in (("a", 100), ("b", 3_000)):
        run = history.run(dag_id, 1)
        for number in range(5):
            history.xcom(run, bucket.blob(run, age_days=1, size=size), age_days=1, key=str(number))
    bundle.variable = {"audit_budget_blobs": 3}
    outcome = bundle.run(AUDIT).succeeded()
    assert cells(outcome, "By DAG", 1, "blobs", "blob bytes") == {("b",): (5, 15_000), ("a",): (5, 500)}
    assert any("7 of 10 references are estimated" in warning for warning in outcome.report["warnings"])


@pytest.mark.parametrize("base", ["gs://bucket/xcom", "s3://no_such_connection@bucket/xcom"])
def test_a_blob_store_that_cannot_be_read_does_not_stop_the_audit(bundle: Bundle, history: History, base: str) -> None:
    history.xcom(history.run("a", 1), age_days=1)
    outcome = bundle.run(AUDIT, blob_base_path=base).succeeded()
    assert outcome.report["headline"]["rows"] == 1
    assert any(warning.startswith("Blobs were left out") for warning in outcome.report["warnings"])


# -- probe and secrets, as their jobs deliver them -------------------------------------------------------------------


class _Parts:
    """A probe and a scan that find what a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, probe: Any, secrets: Any) -> None:
        whole = size_audit.audit
        monkeypatch.setattr(size_audit, "probe", lambda *_, **__: probe())
        monkeypatch.setattr(size_audit, "scan", lambda job, _: secrets(job))
        parts = {"channel": object() if probe else None, "make_detector": object if secrets else None}
        monkeypatch.setattr(size_audit, "audit", lambda job, **_: whole(job, **parts))


def test_what_the_probe_and_the_scan_find_is_judged(
    bundle: Bundle, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ProbeResult(1_024, 0.2, 0.1, 1_100, in_blob=False, encryption_seconds=0.15, intact=True, removed=True)
    large = ProbeResult(1_048_576, 2.0, 0.5, 262_144, in_blob=True, encryption_seconds=0.3, intact=True, removed=True)
    finding = SecretFinding("a", "t", "k", "$.password", "Basic Auth", 2, NOW)
    _Parts(monkeypatch, lambda: [small, large], lambda job: SecretScan([finding], values=5))
    history.xcom(history.run("a", 1), age_days=1)
    outcome = bundle.run(AUDIT).succeeded()
    found = {name: (line["value"], line["verdict"]) for name, line in lines(outcome).items()}
    assert found["push_latency"] == (2.0, "WARN")
    assert found["pull_latency"] == (0.5, "pass")
    assert found["encryption"] == (0.3, "WARN")
    assert found["compression"] == (0.75, "pass")
    assert found["secrets"] == (1, "WARN")
    assert found["probe_intact"] == (1, "pass")
    assert len(outcome.table("Live probe")) == 2
    assert outcome.table("Secrets")[0]["path in the value"] == "$.password"


def test_a_probe_that_fails_does_not_stop_the_audit_and_its_words_are_not_repeated(
    bundle: Bundle, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[ProbeResult]:
        raise RuntimeError("the value was hunter2")

    _Parts(monkeypatch, broken, None)
    outcome = bundle.run(AUDIT).succeeded()
    assert "The live probe failed: RuntimeError." in outcome.report["warnings"]
    assert "hunter2" not in outcome.markdown
    assert lines(outcome)["push_latency"]["verdict"] == "unknown"


# -- who is told -----------------------------------------------------------------------------------------------------


def test_a_breach_is_told_and_fails_the_run_only_if_it_is_to(bundle: Bundle, history: History, tmp_path: Path) -> None:
    told = tmp_path / "told.jsonl"
    bundle.variable = {"notifier": "tests.support.notifier.ToFile", "notifier_kwargs": {"path": str(told)}}
    history.xcom(history.run("a", 1), noise(60_000), age_days=1)
    outcome = bundle.run(AUDIT).succeeded()
    [news] = [json.loads(line) for line in told.read_text().splitlines()]
    assert (news["event"], news["status"]) == ("audit_breach", "audited")
    assert "Largest value in the database: 58.6 KB (threshold: 48.0 KB)" in news["message"]
    assert news["breaches"] == outcome.report["headline"]["breaches"]
    failed = bundle.run(AUDIT, fail_on_breach=True)
    assert type(failed.error).__name__ == "AirflowFailException"
    assert "setting: fail_on_breach" in str(failed.error)
    assert failed.report["status"] == "audited"
    assert failed.report["headline"]["rows"] == 1


def test_a_breach_that_failed_the_run_is_not_told_twice(bundle: Bundle, history: History, tmp_path: Path) -> None:
    from include.xcom_maintenance.flow.news import tell_failure

    told = tmp_path / "told.jsonl"
    bundle.variable = {"notifier": "tests.support.notifier.ToFile", "notifier_kwargs": {"path": str(told)}}
    history.xcom(history.run("a", 1), noise(60_000), age_days=1)
    failed = bundle.run(AUDIT, fail_on_breach=True)
    with bundle.configured():
        dag_run = SimpleNamespace(dag_id=AUDIT, run_id=failed.run_id, conf={})
        tell_failure(
            {"dag_run": dag_run, "params": {}, "exception": failed.error, "ti": SimpleNamespace(task_id="audit")}
        )
    assert len(told.read_text().splitlines()) == 1


def test_nothing_is_told_when_nothing_is_wrong(bundle: Bundle, history: History, tmp_path: Path) -> None:
    told = tmp_path / "told.jsonl"
    bundle.variable = {"notifier": "tests.support.notifier.ToFile", "notifier_kwargs": {"path": str(told)}}
    history.xcom(history.run("a", 1), age_days=1)
    assert bundle.run(AUDIT, fail_on_breach=True).succeeded().report["headline"]["breaches"] == 0
    assert not told.exists()


def test_the_event_of_the_asset_has_the_headline(bundle: Bundle, history: History) -> None:
    from airflow.sdk.execution_time.context import OutletEventAccessors, set_current_context

    history.xcom(history.run("a", 1), age_days=1)
    dag = dags()[AUDIT]
    operator = dag.get_task("audit")
    [asset] = operator.outlets
    assert asset.name == "xcom_size_audit"
    events = OutletEventAccessors()
    context: Any = {
        "dag_run": SimpleNamespace(dag_id=AUDIT, run_id="r", conf={}),
        "params": dag.params.dump(),
        "outlet_events": events,
    }
    with bundle.configured(), set_current_context(context):
        summary = operator.python_callable()
    extra = events[asset].extra
    assert extra == summary
    assert (extra["rows"], extra["status"]) == (1, "audited")
    json.dumps(extra)


# -- small and odd tables --------------------------------------------------------------------------------------------


def test_an_empty_table_gives_a_sensible_report(bundle: Bundle, history: History) -> None:
    outcome = bundle.run(AUDIT).succeeded()
    assert outcome.report["status"] == "audited"
    headline = outcome.report["headline"]
    assert (headline["rows"], headline["bytes"], headline["logical_bytes"], headline["breaches"]) == (0, 0, 0, 0)
    assert outcome.table("By DAG") == []
    assert "None." in outcome.markdown


def test_one_row_gives_a_sensible_report_without_any_blob_backend(bundle: Bundle, history: History) -> None:
    history.xcom(history.run("a", 1), age_days=1)
    outcome = bundle.run(AUDIT).succeeded()
    [row] = outcome.table("By DAG")
    assert (row["rows"], row["share of bytes"], row["logical bytes"], row["blobs"]) == (1, 1.0, 1, None)
    assert outcome.report["headline"]["breaches"] == 0


def test_a_role_that_may_only_read_is_enough(bundle: Bundle, history: History) -> None:
    history.xcom(history.run("a", 10), age_days=10)
    history.xcom(history.run("a", 1), age_days=1)
    history.connection.execute("CREATE TABLE _airflow_deleted__xcom__2026 AS SELECT * FROM xcom")
    history.connection.execute(
        """DROP ROLE IF EXISTS auditor; CREATE ROLE auditor LOGIN PASSWORD 'pw';
           GRANT SELECT ON xcom, dag_run, task_instance, dag, dag_tag, alembic_version TO auditor"""
    )
    try:
        bundle.connections["airflow_metadata_db"] |= {"login": "auditor", "password": "pw"}
        outcome = bundle.run(AUDIT).succeeded()
        assert outcome.report["headline"]["rows"] == 2
        assert not [w for w in outcome.report["warnings"] if " failed: " in w]
        assert outcome.table("Archive tables")[0]["table"] == "_airflow_deleted__xcom__2026"
    finally:
        history.connection.execute("DROP OWNED BY auditor; DROP ROLE auditor")


def test_names_that_look_like_markup_do_not_break_the_report(bundle: Bundle, history: History) -> None:
    history.xcom(history.run("a", 1), age_days=1, key="pipe|<b>*bold*\nline")
    markdown = bundle.run(AUDIT).succeeded().markdown
    assert "pipe\\|\\<b\\>\\*bold\\* line" in markdown


def test_no_report_is_kept_for_longer_than_configured_and_none_of_another_dag_is_forgotten(
    bundle: Bundle, history: History
) -> None:
    import os

    old = [bundle.run(dag_id) for dag_id in ("xcom_cleanup", "xcom_size_audit") for _ in range(11)]
    for outcome in old:
        report = outcome.report | {"finished_at": "2020-01-01T00:00:00+00:00"}
        outcome.path(".json").write_text(json.dumps(report))
        for path in outcome.path("").parent.glob("*"):
            os.utime(path, (0, 0))
    bundle.variable = {"keep_reports_days": None}
    bundle.run("xcom_size_audit").succeeded()
    assert all(outcome.path(".html").exists() for outcome in old)
    bundle.variable = {"keep_reports_days": 30}
    audit = bundle.run("xcom_size_audit").succeeded()
    assert audit.report["headline"]["reports_pruned"] == 4  # this run and the one before are among the newest
    assert sum(not outcome.path(".json").exists() and not outcome.path(".md").exists() for outcome in old) == 4


def test_what_the_user_turns_off_is_not_done(bundle: Bundle, history: History) -> None:
    history.xcom(history.run("a", 1), {"password": "hunter2"}, age_days=1)
    bundle.variable = {"probe": False, "secrets_scan": False, "keep_reports_days": None}
    report = bundle.run("xcom_size_audit").succeeded().report
    assert not {"Secrets", "Live probe"} & {table["title"] for table in report["tables"]}
    assert not {"secrets_found", "reports_pruned"} & set(report["headline"])


def test_a_page_on_s3_is_shown_by_a_browser_and_not_saved(bundle: Bundle, history: History, moto: MotoS3) -> None:
    moto.client().create_bucket(Bucket="pages")
    bundle.report_path = "s3://aws_pages@pages/reports"
    bundle.connections["aws_pages"] = json.loads(moto.airflow_connection_json())
    outcome = bundle.run("xcom_size_audit", run_id="r").succeeded()
    assert outcome.summary is not None
    assert outcome.summary["html"] == "s3://aws_pages@pages/reports/xcom_size_audit/r.html"
    page = moto.client().get_object(Bucket="pages", Key="reports/xcom_size_audit/r.html")
    assert page["ContentType"] == "text/html; charset=utf-8"
    assert page["Body"].read().startswith(b"<!doctype html>")
