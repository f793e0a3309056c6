"""The secrets scan: planted ones are found and show nowhere; what only looks like one is passed over."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database
from tests.support.bundle import Bundle, Outcome
from tests.support.history import History, days_ago

AUDIT = "xcom_size_audit"

_AWS = "AKIAIOSFODNN7EXAMPLQ"
_GITHUB = "ghp_" + "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"
_JWT = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"1234567890","name":"x"}', b"signature-of-this-token-ok")
)
_SLACK = "xoxb-" + "123456789012-1234567890123-abcdefghijklmnopqrstuvwx"
_STRIPE = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
_BASIC = "s3cr3tPassw0rdInUrl"
_PEM_BODY = "MIIEowIBAAKCAQEAvhunter2hunter2hunter2"
_ASSIGNED = "qZ8vK2mXw9"
_NAMED = "correct-horse-battery-staple"
_NESTED = "nested-staple-battery-horse"
_KEYED = "glpat-" + "Zx9Kq2vB7nM4cT8wR1yU"
_SENDGRID = "SG." + "ngeVfQFYQlKU0ufo8x5d1A." + "TwL2iGABf9DHoTf-09kqeF8tAmbihYzrnopKc-1s5cr"

#: Key -> (value, the text that must show nowhere, where it is found, its kind).
PLANTED: dict[str, tuple[Any, str, str, str]] = {
    "aws": ({"env": [{"id": _AWS}]}, _AWS, "$.env[*].id", "AWS Access Key"),
    "github": (f"cloned with {_GITHUB}", _GITHUB, "$", "GitHub Token"),
    "jwt": ([{"header": f"Bearer {_JWT}"}], _JWT, "$[*].header", "JSON Web Token"),
    "slack": ({"alert": {"to": _SLACK}}, _SLACK, "$.alert.to", "Slack Token"),
    "stripe": ({"billing": _STRIPE}, _STRIPE, "$.billing", "Stripe Access Key"),
    "dsn": ({"url": f"postgresql://etl:{_BASIC}@db.example.org/x"}, _BASIC, "$.url", "Basic Auth Credentials"),
    "pem": (
        {"file": f"-----BEGIN RSA PRIVATE KEY-----\n{_PEM_BODY}\n-----END RSA PRIVATE KEY-----"},
        _PEM_BODY,
        "$.file",
        "Private Key",
    ),
    "line": (f"run --host=db password={_ASSIGNED} --quick", _ASSIGNED, "$", "Password in a string"),
    "conn": ({"connections": [{"password": _NAMED}]}, _NAMED, "$.connections[*].password", "Sensitive name"),
    "sendgrid": ({"mail": {"k": _SENDGRID}}, _SENDGRID, "$.mail.k", "SendGrid API Key"),
    "text": (json.dumps({"inner": json.dumps({"api_key": _NESTED})}), _NESTED, "$.inner.api_key", "Sensitive name"),
    "keyed": ({_KEYED: {"id": 1}}, _KEYED, "$.*", "GitLab Token"),
    "object": (
        {"__classname__": "a.B", "__version__": 1, "__data__": {"token": "opaque-" + _NAMED}},
        "opaque-" + _NAMED,
        "$.token",
        "Sensitive name",
    ),
}

_dice = random.Random(7)
HARMLESS: dict[str, Any] = {
    "uuids": [str(uuid.UUID(int=_dice.getrandbits(128), version=4)) for _ in range(50)],
    "hashes": [hashlib.sha256(str(n).encode()).hexdigest() for n in range(50)]
    + [hashlib.md5(str(n).encode()).hexdigest() for n in range(50)],
    "encoded": [base64.b64encode(_dice.randbytes(200)).decode() for _ in range(50)],
    "moments": ["2026-01-31T02:00:00+00:00", "2026-01-31", 1769824800.5],
    "urls": ["https://example.org/a?page=2", "s3://aws_default@bucket/a/b", "https://user@example.org/", "http://h:80/"],
    "placeholders": {"password": "***", "token": "{{ conn.x.password }}", "secret": "", "key": None, "passwd": "<set>"},
    "counts": {"tokens": 512, "has_password": True, "secrets": []},
    "words": ["password: see the vault", "the token has expired", "Secretariat"],
    "api_token": "s3://aws_xcom@bucket/xcom/a/r/t/11111111-2222-4333-8444-555555555555",
}  # fmt: skip


def plant(history: History, **options: Any) -> None:
    run = history.run("leaky", 1)
    for key, (value, *_) in PLANTED.items():
        history.xcom(run, value, age_days=1, key=key, task_id="pushes", **options)


def audit(bundle: Bundle, **conf: Any) -> Outcome:
    return bundle.run(AUDIT, probe=False, **conf).succeeded()


def found(outcome: Outcome) -> dict[str, tuple[str, str]]:
    return {row["key"]: (row["path in the value"], row["kind"]) for row in outcome.table("Secrets")}


def written(bundle: Bundle) -> dict[Path, str]:
    """Everything below the report path, unpacked."""
    files = [path for path in Path(bundle.report_path.removeprefix("file://")).rglob("*") if path.is_file()]
    return {
        path: (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
        for path in files
    }


def test_planted_secrets_of_many_kinds_are_found_and_their_text_appears_nowhere(
    bundle: Bundle, history: History, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    plant(history)
    outcome = audit(bundle)
    assert found(outcome) == {key: (path, kind) for key, (_, _, path, kind) in PLANTED.items()}
    assert len({kind for _, _, _, kind in PLANTED.values()}) >= 10
    assert outcome.report["headline"]["secrets_found"] == len(PLANTED)
    said = {**written(bundle), Path("log"): caplog.text, Path("output"): "".join(capfd.readouterr())}
    said[Path("xcom")] = json.dumps(outcome.summary)
    assert {path.name for path in said} >= {".secrets", f"{outcome.run_id}.html", f"{outcome.run_id}.json"}
    for key, (_, secret, _, _) in PLANTED.items():
        # Nor a part of it.
        parts = {secret, secret[: len(secret) // 2], secret[len(secret) // 2 :]}
        for place, text in said.items():
            assert not [part for part in parts if part in text], (key, place)


def test_what_only_looks_like_a_secret_gives_no_finding(bundle: Bundle, history: History) -> None:
    run = history.run("clean", 1)
    for key, value in HARMLESS.items():
        history.xcom(run, value, age_days=1, key=key)
    outcome = audit(bundle)
    assert found(outcome) == {}
    assert outcome.report["headline"]["values_scanned_for_secrets"] == len(HARMLESS)


def test_no_value_is_seen_twice_and_none_is_forgotten_when_a_scan_is_cut_short(
    bundle: Bundle, history: History
) -> None:
    for day in range(6, 0, -1):
        run = history.run("daily", day)
        for number in range(2):
            history.xcom(run, {"password": f"{_NAMED}-{day}"}, age_days=day - number / 10, key=f"day{day}_{number}")
    keys: list[set[str]] = []
    for _ in range(4):
        keys.append(set(found(audit(bundle, secrets_max_values=3))))
    assert keys[0] == {"day1_0", "day1_1", "day2_1"}  # newest first
    assert [len(k) for k in keys] == [3, 6, 9, 12]  # each goes on, and what was found stays
    # What is new comes first, whatever is left of the old; there is nothing left here.
    history.xcom(history.run("daily", 0), {"password": _NAMED}, age_days=0, key="new")
    history.connection.execute("UPDATE xcom SET timestamp = now() WHERE key = 'new'")
    assert set(found(audit(bundle, secrets_max_values=3))) == keys[3] | {"new"}


def test_what_was_pushed_between_two_audits_beyond_the_limits_is_reported_as_not_scanned(
    bundle: Bundle, history: History
) -> None:
    run = history.run("busy", 1, state="running", task_state="running")
    history.xcom(run, 1, age_days=1)
    audit(bundle)
    for number in range(5):
        history.xcom(run, {"password": _NAMED}, age_days=0, key=f"new{number}")
        history.connection.execute(
            "UPDATE xcom SET timestamp = clock_timestamp() - %s * interval '1 second' WHERE key = %s",
            (number, f"new{number}"),
        )
    outcome = audit(bundle, secrets_max_values=2)
    [table] = [table for table in outcome.report["tables"] if table["title"] == "Secrets"]
    assert "Left out 3 values pushed since the last audit, because a limit was reached" in table["note"]
    assert [row[2] for row in table["rows"]] == ["new0", "new1"]


def test_a_finding_stays_until_its_rows_are_gone(bundle: Bundle, history: History) -> None:
    plant(history)
    audit(bundle)
    assert set(found(audit(bundle))) == set(PLANTED)
    history.connection.execute("DELETE FROM xcom WHERE key <> 'aws'")
    assert set(found(audit(bundle))) == {"aws"}
    history.connection.execute("DELETE FROM xcom")
    assert found(audit(bundle)) == {}


def test_a_value_that_is_too_large_is_skipped_and_counted(bundle: Bundle, history: History) -> None:
    run = history.run("large", 1)
    history.xcom(run, {"password": _NAMED, "rest": random.Random(1).randbytes(20_000).hex()}, age_days=1, key="stored")
    history.xcom(run, {"password": _NAMED, "rest": "x" * 40_000}, age_days=1, key="compressed")
    history.xcom(run, {"password": _NAMED}, age_days=1, key="small")
    bundle.variable = {"secrets_max_value_bytes": 30_000}
    outcome = audit(bundle)
    assert set(found(outcome)) == {"small"}
    [table] = [table for table in outcome.report["tables"] if table["title"] == "Secrets"]
    assert "Scanned 1 value, newest first; skipped 2 as too large" in table["note"]


@pytest.mark.parametrize("state", ["", "{", '{"version": 1}', '{"version": 99}', "[]", "\x00"])
def test_a_position_that_cannot_be_read_starts_the_scan_anew(bundle: Bundle, history: History, state: str) -> None:
    plant(history)
    audit(bundle)
    [file] = Path(bundle.report_path.removeprefix("file://")).rglob(".secrets")
    file.write_text(state)
    assert set(found(audit(bundle))) == set(PLANTED)


def test_the_position_of_another_database_is_not_believed(bundle: Bundle, history: History) -> None:
    plant(history)
    audit(bundle)
    [file] = Path(bundle.report_path.removeprefix("file://")).rglob(".secrets")
    file.write_text(json.dumps({**json.loads(file.read_text()), "database": "1/other", "findings": []}))
    assert set(found(audit(bundle))) == set(PLANTED)


def test_without_the_detector_the_report_says_that_nothing_was_looked_at(
    bundle: Bundle, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "detect_secrets"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detect_secrets", None)
    plant(history)
    outcome = audit(bundle)
    assert "detect_secrets is not installed" in " ".join(outcome.report["warnings"])
    assert outcome.report["status"] == "audited"


def test_odd_values_never_fail_an_audit(bundle: Bundle, history: History) -> None:
    run = history.run("odd", 1)
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    for number, value in enumerate((None, deep, "[" * 5000, '{"a": 1e999}', {"": {"": ""}}, "\ud83d\ude00", [[]] * 99)):
        history.xcom(run, value, age_days=1, key=f"odd{number}")
    history.connection.execute("UPDATE xcom SET value = NULL WHERE key = 'odd0'")
    assert found(audit(bundle)) == {}


def test_names_of_fields_that_are_data_do_not_show(bundle: Bundle, history: History) -> None:
    run = history.run("a", 1)
    history.xcom(run, {"alice@example.org": {"password": _NAMED}}, age_days=1, key="person")
    history.xcom(run, {"4111111111111111": {"password": _NAMED}}, age_days=1, key="card")
    history.xcom(run, {_NAMED: f"pg://u:{_NAMED}@h/d"}, age_days=1, key="same")
    outcome = audit(bundle)
    assert found(outcome)["person"] == found(outcome)["card"] == ("$.*.password", "Sensitive name")
    assert found(outcome)["same"][0] == "$.*"
    text = "".join(written(bundle).values())
    assert "alice" not in text
    assert "4111" not in text
    assert _NAMED not in text


def test_the_scan_needs_no_more_than_select(bundle: Bundle, history: History, database: Database) -> None:
    plant(history)
    with database.connect(autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
    assert len(found(audit(bundle))) == len(PLANTED)


def test_a_row_whose_run_ended_before_the_last_audit_is_not_read_again(bundle: Bundle, history: History) -> None:
    run = history.run("old", 3)
    history.connection.execute("UPDATE dag_run SET end_date = %s", (days_ago(2),))
    history.xcom(run, {"password": _NAMED}, age_days=3)
    audit(bundle)
    outcome = audit(bundle)
    assert outcome.report["headline"]["values_scanned_for_secrets"] == 0
    assert len(found(outcome)) == 1


def test_a_text_made_to_be_slow_does_not_hold_up_the_scan_and_no_secret_hides_behind_it() -> None:
    import time

    from include.xcom_maintenance.detection.secrets import SecretDetector

    detector = SecretDetector()
    start = time.monotonic()
    for text in ("password" * 6_000, "://" * 15_000, "aws" * 15_000):
        assert set(detector.find(f"{text} {_AWS} {text}")) >= {"AWS Access Key"}
    # Without a limit to what is looked at together these take hours.
    assert time.monotonic() - start < 60
