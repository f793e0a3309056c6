"""What is sent, to real servers, by a process that sets metrics up as a worker does."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from typing import Any

import pytest

from include.xcom_maintenance.flow import metrics
from include.xcom_maintenance.reports.report import Report
from local_stack.processes import clean_environment
from tests.conftest import REPOSITORY
from tests.support.bundle import Bundle
from tests.support.collectors import Collector, Otlp, Statsd
from tests.support.history import History

_EMIT = """
import json, sys
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils
from include.xcom_maintenance.flow import metrics
from include.xcom_maintenance.reports.report import Report

stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
before, after = json.load(sys.stdin)
metrics.emit(Report.from_json(after), metrics.Before.of(Report.from_json(before)))
"""


def report(status: str, phases: list[tuple[str, float]], **headline: Any) -> Report:
    found = Report("xcom_cleanup", "run of somebody", status=status, headline=headline)
    found.phases += [{"name": name, "seconds": seconds} for name, seconds in phases]
    return found


#: A second attempt: the first deleted 100 rows.
BEFORE = report("failed", [("plan", 5.0), ("delete rows", 9.0)], rows_to_delete=150, rows_deleted=100)
AFTER = report(
    "enforced",
    [("plan", 5.0), ("delete rows", 9.0), ("delete rows", 1.5), ("purge blobs", 0.25)],
    rows_to_delete=150, rows_deleted=150, blobs_deleted=7, bytes_deleted=4096, share_of_rows_to_delete=0.25,
    blobs_to_purge=None, oldest_row="2026-01-01", lists=[1],
)  # fmt: skip


@pytest.mark.parametrize("kind", [Statsd, Otlp])
def test_nothing_is_counted_twice_and_no_name_holds_what_a_user_named(kind: type[Collector]) -> None:
    if kind is Statsd and importlib.util.find_spec("statsd") is None:
        pytest.skip("the package statsd is not installed")
    with kind() as collector:
        subprocess.run(
            [sys.executable, "-c", _EMIT],
            input=json.dumps([BEFORE.to_json(), AFTER.to_json()]),
            env=clean_environment({**collector.environment, "PYTHONPATH": ":".join(map(str, [REPOSITORY, *sys.path]))}),
            text=True,
            check=True,
        )
        deadline = time.monotonic() + 10
        while "status.enforced" not in collector.of("xcom_cleanup") and time.monotonic() < deadline:
            time.sleep(0.05)
        found = {name: values[-1] for name, values in collector.of("xcom_cleanup").items()}
        every = " ".join(collector.received)
    assert found == {
        "rows_to_delete": 150,
        "share_of_rows_to_delete": 0.25,
        "rows_deleted": 50,
        "blobs_deleted": 7,
        "bytes_deleted": 4096,
        "phase.delete_rows": 1500,
        "phase.purge_blobs": 250,
        "status.enforced": 1,
    }
    assert "somebody" not in every
    if isinstance(collector, Statsd):
        kinds = {name.rpartition(".")[2]: kind for name, kind in collector.kinds.items()}
        assert (kinds["rows_deleted"], kinds["rows_to_delete"], kinds["purge_blobs"]) == ("c", "g", "ms")


class _Recorder:
    """What tasks ask ``Stats`` for, in a process where no metrics are configured."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __getattr__(self, kind: str) -> Any:
        return lambda name, *_, **__: self.seen.append((kind, name))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> _Recorder:
    import airflow.providers.common.compat.sdk as compat

    found = _Recorder()
    monkeypatch.setattr(compat, "Stats", found, raising=False)
    return found


def statuses(recorder: _Recorder) -> list[str]:
    return [name.removeprefix("xcom_maintenance.") for kind, name in recorder.seen if ".status." in name]


def test_no_task_ends_without_its_status(bundle: Bundle, history: History, recorder: _Recorder) -> None:
    for days in (30, 20, 1):
        history.xcom(history.run("a", days), age_days=days)
    bundle.run("xcom_cleanup").succeeded()
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    bundle.run("xcom_size_audit").succeeded()
    history.xcom(history.run("a", 15), age_days=15)
    history.xcom(history.run("a", 14), age_days=14)
    assert bundle.run("xcom_cleanup", mode="enforce", max_delete_rows=1, on_limit="refuse").error is not None
    assert bundle.run("xcom_cleanup", max_aeg_days=1).error is not None
    assert statuses(recorder) == [
        "xcom_cleanup.status.reported",
        "xcom_cleanup.status.planned",
        "xcom_cleanup.status.enforced",
        "xcom_size_audit.status.audited",
        "xcom_cleanup.status.refused",
        "xcom_cleanup.status.failed",
    ]
    assert ("incr", "xcom_maintenance.xcom_cleanup.rows_deleted") in recorder.seen
    assert ("gauge", "xcom_maintenance.xcom_size_audit.rows") in recorder.seen
    assert ("timing", "xcom_maintenance.xcom_cleanup.phase.delete_rows") in recorder.seen


def test_every_metric_that_a_task_sends_is_documented(bundle: Bundle, history: History, recorder: _Recorder) -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text()
    history.xcom(history.run("a", 30), age_days=30)
    history.run("a", 1)
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    bundle.run("xcom_size_audit").succeeded()
    for _, name in recorder.seen:
        _, dag_id, figure = name.split(".", 2)
        assert f"`{dag_id}`" in text
        assert f"`{figure}`" in text, name


def test_metrics_that_cannot_be_sent_do_not_fail_a_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import airflow.providers.common.compat.sdk as compat

    class Broken:
        def gauge(self, *_: object) -> None:
            raise OSError("to statsd.internal with the password open-sesame")

    monkeypatch.setattr(compat, "Stats", Broken(), raising=False)
    metrics.emit(AFTER, metrics.Before())
    assert "could not be sent: OSError" in caplog.text
    assert "sesame" not in caplog.text
