"""Who is told what, and that telling never stops a run or shows a secret."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.xcom_maintenance.flow import notifier as notify
from include.xcom_maintenance.flow.news import tell
from include.xcom_maintenance.reports.enforcement import Enforcement
from tests.support.bundle import Bundle, Outcome
from tests.support.history import NOW, History, days_ago

CLEANUP = "xcom_cleanup"
SECRET = "https://hooks.example.org/services/T0/B0/open-sesame-17"
TEXT = "{{ xcom_maintenance.event }}: {{ xcom_maintenance.message }} {{ params.max_age_days }}"


class Told:
    """The bundle's notifier, and what it was told."""

    def __init__(self, bundle: Bundle, path: Path) -> None:
        self.bundle, self.path = bundle, path
        bundle.variable = {}
        self.use("ToFile", path=str(path), text=TEXT)

    def use(self, name: str, **arguments: Any) -> None:
        assert isinstance(self.bundle.variable, dict)
        name = name if "." in name else f"tests.support.notifier.{name}"
        self.bundle.variable |= {"notifier": name, "notifier_kwargs": arguments}

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]


@pytest.fixture
def told(bundle: Bundle, tmp_path: Path) -> Told:
    return Told(bundle, tmp_path / "told.jsonl")


@pytest.fixture
def rows(history: History) -> None:
    history.xcom(history.run("a", 30), age_days=30)
    history.run("a", 1)


def warnings(outcome: Outcome) -> list[str]:
    """Those about enforcing and telling; that there is no blob store, and no task to probe from, is another matter."""
    others = ("No blob store", "The live probe")
    return [warning for warning in outcome.report["warnings"] if not warning.startswith(others)]


def age(bundle: Bundle, *, first_run: float, last_enforced: float | None = None, dag_id: str = CLEANUP) -> Path:
    """Make the DAG look as if it had run this many days ago for the first time."""
    path = Path(bundle.report_path.removeprefix("file://")) / dag_id / ".enforcement"
    path.parent.mkdir(parents=True, exist_ok=True)
    enforced = None if last_enforced is None else days_ago(last_enforced).isoformat()
    path.write_text(json.dumps({"first_run": days_ago(first_run).isoformat(), "last_enforced": enforced}))
    return path


# -- plan_refused, failure -------------------------------------------------------------------------------------------


def failed(bundle: Bundle, error: Exception | None, **context: Any) -> None:
    """What Airflow does when a task has failed for good."""
    from include.xcom_maintenance.flow import callbacks

    run = SimpleNamespace(dag_id=CLEANUP, run_id="r", task_id="plan", conf={})
    with bundle.configured():
        callbacks.on_failure({"ti": run, "exception": error, "params": {}, **context})


def test_a_refused_plan_is_told_once_and_not_as_a_failure_too(told: Told, history: History, rows: None) -> None:
    history.xcom(history.run("a", 20), age_days=20)
    told.bundle.run(CLEANUP, max_delete_rows=1, on_limit="refuse").succeeded()
    assert told.events() == []  # a report is no refusal
    outcome = told.bundle.run(CLEANUP, mode="enforce", max_delete_rows=1, on_limit="refuse")
    failed(told.bundle, outcome.error)
    [line] = told.lines()
    assert (line["event"], line["status"], line["rows_to_delete"]) == ("plan_refused", "refused", 2)
    assert "max_delete_rows" in line["message"]
    assert len(history.rows()) == 2


def test_a_failure_is_told_by_the_callback_of_the_last_try_alone(told: Told, rows: None) -> None:
    told.bundle.connections["airflow_metadata_db"]["port"] = 1
    outcomes = [told.bundle.run(CLEANUP, run_id="r") for _ in range(3)]
    assert told.events() == []
    assert outcomes[2].error is not None
    failed(told.bundle, outcomes[2].error)
    [line] = told.lines()
    assert (line["event"], line["dag_id"], line["run_id"]) == ("failure", CLEANUP, "r")
    assert "The metadata database cannot be reached" in line["message"]


def test_a_mistake_in_another_setting_does_not_keep_the_notifier_from_being_told(told: Told) -> None:
    assert isinstance(told.bundle.variable, dict)
    told.bundle.variable["max_aeg_days"] = 1
    outcome = told.bundle.run(CLEANUP)
    assert outcome.error is not None
    failed(told.bundle, outcome.error)
    assert "Did you mean 'max_age_days'?" in told.lines()[0]["message"]


def test_a_worker_that_was_killed_is_told_though_nothing_is_known_but_the_task(told: Told) -> None:
    failed(told.bundle, None)
    assert "Task plan failed: it was killed or lost" in told.lines()[0]["message"]


def run_failed(bundle: Bundle) -> None:
    """What the DAG processor does when a run has failed."""
    from include.xcom_maintenance.flow import callbacks

    run = SimpleNamespace(dag_id=CLEANUP, run_id="r", conf={})
    with bundle.configured():
        callbacks.on_run_failure({"dag_run": run, "reason": "task_failure", "params": {}})


def test_a_run_of_which_no_task_could_tell_is_told_by_the_run(told: Told, rows: None) -> None:
    told.bundle.task(CLEANUP, "plan", run_id="r", mode="enforce")
    run_failed(told.bundle)
    [line] = told.lines()
    assert (line["event"], line["run_id"]) == ("failure", "r")
    assert "killed or lost" in line["message"]


def test_what_a_task_has_told_is_not_told_by_its_run_too(told: Told, rows: None) -> None:
    told.bundle.run(CLEANUP, run_id="r").succeeded()
    failed(told.bundle, ValueError())
    run_failed(told.bundle)
    assert told.events() == ["failure"]
    told.bundle.run(CLEANUP, run_id="r").succeeded()  # cleared, and then killed
    run_failed(told.bundle)
    assert told.events() == ["failure", "failure"]


def test_the_text_of_an_unknown_error_is_not_told(told: Told) -> None:
    failed(told.bundle, ValueError("a value: open-sesame"))
    assert told.lines()[0]["message"] == "Task plan failed: ValueError; see the task log"


# -- waiting_approval ------------------------------------------------------------------------------------------------


def test_an_operator_can_tell_that_somebody_is_waited_for(told: Told, rows: None) -> None:

    planned = told.bundle.task(CLEANUP, "plan", run_id="r", mode="enforce")
    context = {"dag_run": SimpleNamespace(dag_id=CLEANUP, run_id="r", conf={}), "params": {"max_age_days": 7}}
    with told.bundle.configured():
        assert tell(notify.WAITING_APPROVAL, "1 row waits.", context=context, summary=planned) is None
    [line] = told.lines()
    assert line["text"] == "waiting_approval: 1 row waits. 7"
    assert (line["rows_to_delete"], line["status"], line["mode"]) == (1, "planned", "enforce")
    assert Path(line["report"].removeprefix("file://")).read_text().startswith("# xcom")


# -- not_enforced ----------------------------------------------------------------------------------------------------


def test_a_green_dag_that_enforces_nothing_does_not_stay_silent_for_ever(told: Told, rows: None) -> None:
    first = told.bundle.run(CLEANUP).succeeded()
    assert warnings(first) == []
    age(told.bundle, first_run=29.9)
    assert warnings(told.bundle.run(CLEANUP).succeeded()) == []
    age(told.bundle, first_run=45)
    outcome = told.bundle.run(CLEANUP).succeeded()
    [warning] = warnings(outcome)
    assert warning.startswith("No run has enforced for 45 days: none has since the first run")
    assert "warn_not_enforced_days" in outcome.markdown.replace("\\", "")
    [line] = told.lines()
    assert (line["event"], line["message"]) == ("not_enforced", warning)
    assert line["text"].startswith("not_enforced: No run has enforced for 45 days")


def test_a_run_that_enforces_ends_the_warnings(told: Told, rows: None) -> None:
    path = age(told.bundle, first_run=100, last_enforced=31)
    outcome = told.bundle.run(CLEANUP, mode="enforce").succeeded()
    assert outcome.report["status"] == "enforced"
    assert warnings(outcome) == []
    state = json.loads(path.read_text())
    assert state["first_run"] == days_ago(100).isoformat()
    assert state["last_enforced"] >= NOW.isoformat()
    assert told.events() == ["not_enforced"]  # when the plan was made, nobody knew that it would be carried out
    told.bundle.run(CLEANUP).succeeded()
    assert told.events() == ["not_enforced"]


@pytest.mark.parametrize("dag_id", ["xcom_size_audit"])
def test_a_dag_that_never_deletes_is_not_blamed_for_it(told: Told, rows: None, dag_id: str) -> None:
    age(told.bundle, first_run=1000, dag_id=dag_id)
    assert warnings(told.bundle.run(dag_id).succeeded()) == []


def test_the_warning_can_be_turned_off(told: Told, rows: None) -> None:
    assert isinstance(told.bundle.variable, dict)
    told.bundle.variable["warn_not_enforced_days"] = None
    age(told.bundle, first_run=1000)
    assert warnings(told.bundle.run(CLEANUP).succeeded()) == []


def test_a_state_that_cannot_be_read_counts_as_a_first_run(told: Told, rows: None) -> None:
    for damage in ("", "{}", "[]", '{"first_run": 1}', '{"first_run": null, "last_enforced": null}'):
        age(told.bundle, first_run=1).write_text(damage)
        assert warnings(told.bundle.run(CLEANUP).succeeded()) == []


def test_a_state_that_cannot_be_written_does_not_stop_a_run(told: Told, rows: None) -> None:
    path = age(told.bundle, first_run=1)
    path.unlink()
    path.mkdir()
    assert told.bundle.run(CLEANUP, mode="enforce").succeeded().report["status"] == "enforced"


def test_the_state_is_taken_for_no_report_and_no_manifest(told: Told, rows: None) -> None:
    folder = age(told.bundle, first_run=1).parent
    for run_id in (".enforcement", "enforcement", "../.enforcement"):
        told.bundle.run(CLEANUP, run_id=run_id, mode="enforce").succeeded()
    assert [
        path.name
        for path in folder.glob("*.json")
        if "run_id" not in json.loads(path.read_text()) and ".shard-" not in path.name
    ] == []
    assert json.loads((folder / ".enforcement").read_text())["last_enforced"]


def test_days_are_counted_in_whole_ones_and_from_the_last_that_enforced() -> None:
    known = Enforcement(days_ago(90), days_ago(40))
    assert known.days_without(NOW) == 40
    assert known.warning(now=NOW, limit_days=41, mode="report") is None
    assert "set to" not in str(known.warning(now=NOW, limit_days=40, mode="enforce"))
    assert "This run is in enforce mode" in str(known.warning(now=NOW, limit_days=40, mode="enforce"))
    assert Enforcement(NOW + timedelta(days=1)).warning(now=NOW, limit_days=1, mode="report") is None


# -- notifiers that do not work, and secrets -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "setting", "words"),
    [
        ("no.such.module.Notifier", {}, "notifier", "cannot be imported: ModuleNotFoundError"),
        ("tests.support.notifier.Missing", {}, "notifier", "cannot be imported: AttributeError"),
        ("tests.support.bundle.Bundle", {}, "notifier", "is not an Airflow notifier"),
        ("ToFile", {}, "notifier_kwargs", "required: path; optional: text, webhook"),
        ("ToFile", {"path": "p", "webhok": SECRET}, "notifier_kwargs", "(path, webhok)"),
        ("Chokes", {"path": SECRET}, "notifier_kwargs", "ValueError"),
        (SECRET, {}, "notifier", "must be the full path of a class"),
        ("ToFile", [SECRET], "notifier_kwargs", "must be an object"),
    ],
)
def test_a_wrong_notifier_stops_the_plan_and_not_the_day_it_is_needed(
    told: Told, rows: None, caplog: pytest.LogCaptureFixture, name: str, arguments: Any, setting: str, words: str
) -> None:
    told.use(name)
    assert isinstance(told.bundle.variable, dict)
    told.bundle.variable["notifier_kwargs"] = arguments
    outcome = told.bundle.run(CLEANUP)
    assert words in str(outcome.error)
    assert outcome.report["error"]["setting"] == setting
    assert "sesame" not in str(outcome.error) + outcome.markdown + caplog.text


def test_a_notifier_that_fails_does_not_fail_the_run_and_its_secret_is_not_shown(
    told: Told, rows: None, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    told.use("Refuses", path="p", webhook=SECRET)
    age(told.bundle, first_run=45)
    outcome = told.bundle.run(CLEANUP).succeeded()
    assert any(
        "The notification not_enforced could not be sent: RuntimeError" in text for text in outcome.report["warnings"]
    )
    shown = outcome.markdown + outcome.path(".json").read_text() + caplog.text + "".join(capfd.readouterr())
    assert "sesame" not in shown
    assert outcome.report["settings"]["notifier_kwargs"]["value"] == ["path", "webhook"]


def test_nobody_who_may_start_a_run_can_choose_what_a_worker_imports(told: Told, rows: None) -> None:
    for conf in ({"notifier": "os.system"}, {"notifier_kwargs": {"path": "elsewhere"}}):
        outcome = told.bundle.run(CLEANUP, **conf)
        assert "cannot be set for one run" in str(outcome.error)


def test_what_is_told_is_rendered_once_so_names_are_no_templates(told: Told, rows: None) -> None:

    run = SimpleNamespace(dag_id=CLEANUP, run_id="{{ 6 * 7 }}", conf={})
    with told.bundle.configured():
        tell("failure", "of {{ 6 * 7 }}", context={"dag_run": run, "params": {}})
    [line] = told.lines()
    assert line["run_id"] == "{{ 6 * 7 }}"
    assert "of {{ 6 * 7 }}" in line["text"]


# -- a notifier of a provider ----------------------------------------------------------------------------------------


class _Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs that sends one mail."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                mail = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(mail.decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 fine\r\n")
            if word == b"QUIT":
                return


@pytest.fixture
def smtp() -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mailbox) as server:
        server.mails = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_mail_is_sent_by_the_providers_own_notifier(told: Told, rows: None, smtp: Any) -> None:
    told.use(
        "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
        to="ops@example.org",
        from_email="airflow@example.org",
        subject="{{ xcom_maintenance.dag_id }}: {{ xcom_maintenance.event }}",
        html_content="{{ xcom_maintenance.message }} See {{ xcom_maintenance.report }}",
    )
    told.bundle.connections["smtp_default"] = {
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": smtp.server_address[1],
        "extra": {"disable_ssl": True, "disable_tls": True},
    }
    age(told.bundle, first_run=45)
    outcome = told.bundle.run(CLEANUP).succeeded()
    assert len(warnings(outcome)) == 1  # and none that it could not be sent
    [mail] = smtp.mails
    assert "Subject: xcom_cleanup: not_enforced" in mail
    assert "To: ops@example.org" in mail
