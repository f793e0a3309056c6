"""``xcom_restore``: what returns, what does not, and what is said about it."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from tests.support.archive import archive_rows
from tests.support.bucket import Bucket
from tests.support.bundle import Bundle, Outcome
from tests.support.history import History
from tests.support.interruptions import Killed, killed_at

RESTORE = "xcom_restore"
FOLDER = "xcom_cleanup/cleaned"


@pytest.fixture
def root(bundle: Bundle, tmp_path: Path) -> str:
    """The archive path that the bundle is configured with."""
    root = f"file://{tmp_path}/archive"
    bundle.variable = {"archive_path": root}
    return root


@pytest.fixture
def contents(history: History) -> Any:
    """Every row with its value, as text."""
    return lambda: set(
        history.connection.execute(
            "SELECT dag_run_id, task_id, map_index, key, value::text, value IS NULL, timestamp FROM xcom"
        ).fetchall()
    )


def some_rows(history: History) -> None:
    for dag_id in ("a", "b_1", "b_2"):
        for age in (30, 20):
            run = history.run(dag_id, age, run_id=f"run_{age}")
            for task_id in ("t", "u"):
                history.xcom(run, {"is": [dag_id, age, task_id]}, age_days=age, task_id=task_id)


def restore(bundle: Bundle, archive: str = FOLDER, **conf: Any) -> Outcome:
    return bundle.run(RESTORE, **{"mode": "enforce", "archive": archive, **conf})


def fails(bundle: Bundle, history: History, *expected: str, **conf: Any) -> dict[str, Any]:
    before = history.rows()
    outcome = bundle.run(RESTORE, **{"mode": "enforce", **conf})
    assert type(outcome.error).__name__ == "AirflowFailException"
    for words in expected:
        assert words in str(outcome.error)
        assert words in outcome.report["error"]["message"]
    assert outcome.report["error"]["remedy"]
    assert history.rows() == before
    return outcome.report


def own_row(uri: str, **data: Any) -> dict[str, Any]:
    """What this project's own backend writes instead of a value."""
    return {"__classname__": "xcom_blob_backend.BlobReference", "__version__": 1, "__data__": {**data, "uri": uri}}


# -- what returns --------------------------------------------------


def test_a_restore_in_report_mode_changes_nothing(bundle: Bundle, history: History, root: str) -> None:
    some_rows(history)
    archive_rows(history, root)
    bundle.variable["mode"] = "enforce"  # type: ignore[index] # of the DAGs that delete
    outcome = bundle.run(RESTORE, archive=FOLDER).succeeded()
    assert history.rows() == set()
    assert outcome.report["status"] == "reported"
    assert outcome.report["mode"] == "report"
    assert outcome.report["headline"]["rows_to_restore"] == 12
    assert outcome.table("Archived rows, by DAG")[0]["can be restored"] == 4


def test_what_a_cleanup_deleted_and_archived_comes_back(
    bundle: Bundle, history: History, root: str, contents: Any
) -> None:
    some_rows(history)
    before = contents()
    archive_rows(history, root, name="first", condition="x.dag_id = 'a'")
    archive_rows(history, root, name="second")
    assert contents() == set()
    bundle.variable["batch_rows"] = 3  # type: ignore[index]
    outcome = restore(bundle).succeeded()
    assert contents() == before
    headline = outcome.report["headline"]
    assert headline["rows_restored"] == headline["rows_to_restore"] == headline["rows_in_archive"] == 12
    assert (headline["files"], headline["transactions"]) == (2, 5)
    again = restore(bundle).succeeded().report["headline"]
    assert (again["rows_restored"], again["rows_to_restore"], again["rows_there_already"]) == (0, 0, 12)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"dag_ids": "b_*"}, 8),
        ({"dag_ids": ["a", "b_1"]}, 8),
        ({"dag_ids": "a, b_2", "run_ids": "run_30"}, 4),
        ({"task_ids": "u"}, 6),
        ({"dag_ids": "b_?", "run_ids": "*_20", "task_ids": "t,none"}, 2),
        ({"dag_ids": "nobody"}, 0),
        ({"dag_ids": "", "run_ids": []}, 12),
    ],
)
def test_only_what_was_chosen_returns(
    bundle: Bundle, history: History, root: str, choice: dict[str, Any], expected: int
) -> None:
    some_rows(history)
    archive_rows(history, root)
    headline = restore(bundle, **choice).succeeded().report["headline"]
    assert len(history.rows()) == headline["rows_restored"] == expected
    assert headline["rows_not_chosen"] == 12 - expected


def test_rows_that_are_there_are_left_as_they_are(bundle: Bundle, history: History, root: str, contents: Any) -> None:
    run = history.run("a", 30)
    history.xcom(run, "old", age_days=30)
    archive_rows(history, root)
    history.xcom(run, "new", age_days=1)
    before = contents()
    headline = restore(bundle).succeeded().report["headline"]
    assert contents() == before
    assert (headline["rows_there_already"], headline["rows_restored"]) == (1, 0)


def test_of_two_archived_values_of_one_row_the_newer_returns(bundle: Bundle, history: History, root: str) -> None:
    run = history.run("a", 30)
    for name, value in (("z", "older"), ("a", "newer")):  # the names sort otherwise
        history.xcom(run, value, age_days=30)
        archive_rows(history, root, name=name)
    restore(bundle).succeeded()
    assert history.connection.execute("SELECT value FROM xcom").fetchall() == [("newer",)]


def test_what_cannot_return_is_counted(bundle: Bundle, history: History, root: str) -> None:
    for dag_id in ("gone", "cleared", "made_again", "unfinished"):
        state = "running" if dag_id == "unfinished" else "success"
        history.xcom(history.run(dag_id, 30, run_id="r", state=state), age_days=30)
    archive_rows(history, root)
    history.connection.execute("DELETE FROM dag_run WHERE dag_id IN ('gone', 'made_again')")
    history.connection.execute("DELETE FROM task_instance WHERE dag_id = 'cleared'")
    again = history.run("made_again", 30, run_id="r")
    outcome = restore(bundle).succeeded()
    assert history.left() == {("made_again", "r"), ("unfinished", "r")}
    assert again.dag_run_id in {row[0] for row in history.connection.execute("SELECT dag_run_id FROM xcom").fetchall()}
    headline = outcome.report["headline"]
    assert headline["rows_whose_run_is_gone"] == headline["rows_whose_task_instance_is_gone"] == 1
    by_dag = {row["DAG"]: row for row in outcome.table("Archived rows, by DAG")}
    assert by_dag["gone"]["run deleted"] == by_dag["cleared"]["task instance deleted"] == 1


def test_a_row_whose_blob_is_gone_does_not_return(bundle: Bundle, bucket: Bucket, history: History, root: str) -> None:
    run = history.run("a", 30)
    kept, gone = bucket.blob(run, age_days=30), bucket.blob(run, age_days=30)
    values = {"kept": kept, "gone": gone, "a mention": {"of": gone}, "elsewhere": gone.replace("/xcom/", "/other/")}
    for key, value in values.items():
        history.xcom(run, value, age_days=30, key=key)
    archive_rows(history, root)
    bucket.client.delete_object(Bucket=bucket.name, Key=gone.split(f"@{bucket.name}/")[1])
    outcome = restore(bundle).succeeded()
    assert {key for *_, key in history.rows()} == {"kept", "a mention", "elsewhere"}
    assert outcome.report["headline"]["rows_whose_blob_is_gone"] == 1
    assert [row["blob missing"] for row in outcome.table("Archived rows, by DAG")] == [1]


@pytest.mark.parametrize(
    "form",
    [
        lambda uri: uri,
        lambda uri: uri.replace("s3://aws_xcom@", "s3a://"),
        own_row,
        lambda uri: own_row(uri.replace("aws_xcom@", ""), stored_bytes=7, bytes=70, extra="x" * 900),
        lambda uri: {"bucket": uri.split("@")[1].split("/")[0], "s3_key": uri.split("@")[1].split("/", 1)[1]},
        lambda uri: {"Key": uri.split("@")[1].split("/", 1)[1], "Bucket": uri.split("@")[1].split("/")[0], "size": 1},
    ],
    ids=["stock", "another spelling", "own", "own, with more", "bucket and key", "as boto3 names them"],
)
@pytest.mark.parametrize("map_index", [-1, 3])
def test_no_row_returns_whose_blob_was_purged_in_whatever_form_it_refers_to_it(
    bundle: Bundle, bucket: Bucket, history: History, root: str, form: Any, map_index: int
) -> None:
    run = history.run("a", 30)
    kept, gone = (bucket.blob(run, age_days=30) for _ in range(2))
    for key, uri in (("kept", kept), ("gone", gone), ("a mention", None)):
        value = {"of": [form(gone)]} if uri is None else form(uri)
        history.xcom(run, value, age_days=30, key=key, map_index=map_index)
    archive_rows(history, root)
    bucket.client.delete_object(Bucket=bucket.name, Key=gone.split(f"@{bucket.name}/")[1])
    reported = bundle.run(RESTORE, archive=FOLDER).succeeded().report["headline"]
    assert (reported["rows_to_restore"], reported["rows_whose_blob_is_gone"]) == (2, 1)
    restored = restore(bundle).succeeded().report["headline"]
    assert {key for *_, key in history.rows()} == {"kept", "a mention"}
    assert (restored["rows_restored"], restored["rows_whose_blob_is_gone"]) == (2, 1)


def test_no_row_of_a_mapped_task_returns_without_the_others_of_its_group(
    bundle: Bundle, bucket: Bucket, history: History, root: str
) -> None:
    """Their consumer would take what returned for all of it. Whichever batch the missing one is read in."""
    bundle.variable["batch_rows"] = 2  # type: ignore[index]
    run = history.run("a", 30)
    for key, missing in (("last", 4), ("first", 0), ("none", None)):
        for index in range(5):
            uri = bucket.blob(run, age_days=30)
            history.xcom(run, own_row(uri), age_days=30, task_id="m", key=key, map_index=index)
            if index == missing:
                bucket.client.delete_object(Bucket=bucket.name, Key=uri.split(f"@{bucket.name}/")[1])
    archive_rows(history, root)
    reported = bundle.run(RESTORE, archive=FOLDER).succeeded().report["headline"]
    names = ("rows_to_restore", "rows_whose_blob_is_gone", "rows_left_with_their_group")
    assert [reported[name] for name in names] == [5, 2, 8]
    assert restore(bundle).succeeded().report["headline"]["rows_restored"] == 5
    assert {(key, index) for *_, index, key in history.rows()} == {("none", index) for index in range(5)}


@pytest.mark.parametrize("what", ["the archive is cut short", "a task instance is gone", "it has pushed anew"])
@pytest.mark.parametrize("with_blobs", [False, True])
def test_no_mapped_result_returns_in_part_or_mixed_with_another(
    bundle: Bundle, request: pytest.FixtureRequest, history: History, root: str, what: str, with_blobs: bool
) -> None:
    if with_blobs:
        request.getfixturevalue("bucket")
    run = history.run("a", 30)
    for index in range(40):
        history.xcom(run, {"n": index, "pad": uuid.uuid4().hex * 20}, age_days=30, task_id="m", map_index=index)
    path = Path(archive_rows(history, root).removeprefix("file://"))
    if what == "the archive is cut short":
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif what == "a task instance is gone":
        history.connection.execute("DELETE FROM task_instance WHERE map_index = 30")
    else:
        for index in range(3):
            history.xcom(run, {"new": index}, age_days=-1, task_id="m", map_index=index)
    before = history.rows()
    reported = bundle.run(RESTORE, archive=FOLDER).succeeded().report["headline"]
    outcome = restore(bundle).succeeded()
    assert history.rows() == before
    assert (reported["rows_to_restore"], outcome.report["headline"]["rows_restored"]) == (0, 0)
    assert reported["rows_left_with_their_group"] >= 20


def test_no_row_returns_unsaid_whose_blob_nobody_can_look_for(
    bundle: Bundle, bucket: Bucket, history: History, root: str
) -> None:
    run = history.run("a", 30)
    name = f"s3_xcom_{uuid.uuid4()}"
    values: dict[str, Any] = {
        "bare": f"s3_xcom_{uuid.uuid4()}",
        "bare, and there": name,
        "another base path": own_row(f"s3://elsewhere/xcom/a/r/t/{uuid.uuid4()}.xcb"),
        "a user's own address": "https://example.org/x",
    }
    bucket.put(f"xcom/{name}")
    for key, value in values.items():
        history.xcom(run, value, age_days=30, key=key)
    archive_rows(history, root)
    outcome = restore(bundle).succeeded()
    assert {key for *_, key in history.rows()} == set(values)
    [warning] = [warning for warning in outcome.report["warnings"] if "does not check whether that blob" in warning]
    assert warning.startswith("2 rows")


def test_a_run_deleted_between_plan_and_apply_does_no_harm(bundle: Bundle, history: History, root: str) -> None:
    some_rows(history)
    archive_rows(history, root)
    form = {"mode": "enforce", "archive": FOLDER}
    planned = bundle.task(RESTORE, "plan", run_id="r", **form)
    history.connection.execute("DELETE FROM dag_run WHERE dag_id = 'a'")
    archive_rows(history, root, name="after-the-plan")
    applied = bundle.task(RESTORE, "apply", planned, run_id="r", **form)
    assert (planned["rows_to_restore"], applied["rows_restored"]) == (12, 8)


def test_the_report_says_that_the_next_cleanup_would_delete_the_rows_again(
    bundle: Bundle, history: History, root: str
) -> None:
    some_rows(history)
    archive_rows(history, root)
    [warning] = [w for w in bundle.run(RESTORE, archive=FOLDER).report["warnings"] if "hold" in w]
    assert "hold: true" in warning
    assert "a, b_1, b_2" in warning
    bundle.variable["retention"] = [{"dag_ids": "b_*", "hold": True}, {}]  # type: ignore[index]
    [warning] = [w for w in bundle.run(RESTORE, archive=FOLDER).report["warnings"] if "hold" in w]
    assert warning.endswith("for these DAGs: a.")


def test_restored_rows_stay_under_a_rule_that_holds_and_go_again_without_one(
    bundle: Bundle, history: History, root: str
) -> None:
    some_rows(history)
    history.run("a", 1)
    archive_rows(history, root, condition="x.dag_id = 'a'")
    restore(bundle).succeeded()
    bundle.variable["retention"] = [{"hold": True}]  # type: ignore[index]
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert len(history.rows()) == 12
    del bundle.variable["retention"]  # type: ignore[union-attr]
    bundle.run("xcom_cleanup", mode="enforce").succeeded()
    assert len(history.rows()) < 12


def test_an_archive_in_a_bucket(bundle: Bundle, bucket: Bucket, history: History) -> None:
    from tests.support.bundle import environment

    root = f"s3://aws_xcom@{bucket.name}/archive"
    some_rows(history)
    with environment({"AIRFLOW_CONN_AWS_XCOM": json.dumps(bundle.connections["aws_xcom"])}):
        archive_rows(history, root)
    report = restore(bundle, archive_path=root).succeeded().report
    assert len(history.rows()) == report["headline"]["rows_restored"] == 12
    assert restore(bundle, archive=f"{root}/{FOLDER}").succeeded().report["headline"]["rows_there_already"] == 12


# -- interrupted --------------------------------------------------


@pytest.mark.parametrize("moment", range(1, 7))
def test_a_restore_that_is_killed_and_run_again_converges(
    bundle: Bundle, history: History, root: str, contents: Any, moment: int
) -> None:
    """Before (odd moments) or after (even ones) a batch."""
    some_rows(history)
    before = contents()
    archive_rows(history, root)
    bundle.variable["batch_rows"] = 4  # type: ignore[index]
    form = {"mode": "enforce", "archive": FOLDER}
    with killed_at(moment, [(PostgresMetadataStore, "restore")]):
        planned = bundle.task(RESTORE, "plan", run_id="r", **form)
        with pytest.raises(Killed):
            bundle.task(RESTORE, "apply", planned, run_id="r", **form)
    assert len(history.rows()) == 4 * (moment // 2)
    bundle.task(RESTORE, "apply", planned, run_id="r", **form)
    assert contents() == before


# -- what a user gets wrong --------------------------------------------------


def test_no_archive_chosen_says_what_there_is(bundle: Bundle, history: History, root: str) -> None:
    some_rows(history)
    archive_rows(history, root)
    for archive in ({}, {"archive": ""}, {"archive": "xcom_cleanup/no-such-run"}, {"archive": "../archive"}):
        report = fails(bundle, history, "(setting: archive)", f": {FOLDER}", **archive)
        assert report["error"]["setting"] == "archive"


def test_a_relative_archive_without_an_archive_path(bundle: Bundle, history: History) -> None:
    fails(bundle, history, "archive_path, which is not set", "full URL", archive=FOLDER)
    fails(bundle, history, "No archive was chosen", archive="")


@pytest.mark.parametrize(
    ("archive", "expected"),
    [
        ("s3://aws_xcom@no-such-bucket/archive", "cannot be read"),
        ("file:///no/such/folder", "There is no archive at"),
        ("nonsense://x/y", "cannot be "),  # used; Airflow 3.1 finds out when it reads
        ("s3://AKIA:secret-17@bucket/x", "credentials belong in a Connection"),
        ("file:///tmp/../etc", "'..'"),
    ],
)
def test_an_archive_that_cannot_be_used(
    bundle: Bundle, bucket: Bucket, history: History, archive: str, expected: str
) -> None:
    report = fails(bundle, history, expected, archive=archive)
    assert "archive" in report["error"]["setting"]
    assert "secret-17" not in json.dumps(report)


def test_a_folder_without_an_archive_in_it(bundle: Bundle, history: History, root: str, tmp_path: Path) -> None:
    (tmp_path / "archive" / "empty").mkdir(parents=True)
    (tmp_path / "archive" / "empty" / "notes.txt").write_text("nothing")
    fails(bundle, history, "There is no archive at", archive="empty")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"plain", "not gzip-compressed"),
        (gzip.compress(b'{"value": "secret-17"}\n'), "it has no header"),
        (gzip.compress(b'{"kind":"header","format":9,"database":"","dag_id":"","run_id":"","archived_at":""}\n'),
         "has an unknown format"),
    ],
    ids=["plain", "no_header", "another_format"],
)  # fmt: skip
def test_one_file_that_is_no_archive_stops_all_before_anything_is_changed(
    bundle: Bundle, history: History, root: str, tmp_path: Path, content: bytes, expected: str
) -> None:
    some_rows(history)
    archive_rows(history, root)
    (tmp_path / "archive" / FOLDER / "a-stranger.jsonl.gz").write_bytes(content)
    report = fails(bundle, history, "a-stranger.jsonl.gz", expected, archive=FOLDER)
    assert "secret-17" not in json.dumps(report)


def test_an_archive_that_is_cut_short_returns_what_can_be_read_and_is_reported(
    bundle: Bundle, history: History, root: str
) -> None:
    run = history.run("a", 30)
    for number in range(3_000):
        history.xcom(run, uuid.uuid4().hex * 40, age_days=30, key=str(number))
    path = Path(archive_rows(history, root).removeprefix("file://"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    outcome = restore(bundle).succeeded()
    assert 1_000 < len(history.rows()) == outcome.report["headline"]["rows_restored"] < 3_000
    assert outcome.report["headline"]["files_cut_short"] == 1
    assert any("cut short" in warning for warning in outcome.report["warnings"])
    assert outcome.manifest("archive")[0]["cut_short"] is True


def test_the_archive_of_another_database_is_refused(bundle: Bundle, history: History, root: str) -> None:
    some_rows(history)
    archive_rows(history, root, condition="x.dag_id = 'a'", database="7/elsewhere")
    archive_rows(history, root, name="ours")
    outcome = restore(bundle)
    assert type(outcome.error).__name__ == "AirflowFailException"
    assert outcome.report["status"] == "refused"
    assert "7/elsewhere" in str(outcome.error)
    assert history.rows() == set()
    reported = bundle.run(RESTORE, archive=FOLDER).succeeded().report
    assert reported["headline"]["rows_of_other_databases"] == 4
    assert reported["headline"]["rows_to_restore"] == 8
    assert reported["objections"]


def test_a_role_without_the_right_to_insert(bundle: Bundle, history: History, root: str) -> None:
    some_rows(history)
    archive_rows(history, root)
    history.connection.execute(
        """DROP ROLE IF EXISTS looker; CREATE ROLE looker LOGIN PASSWORD 'pw';
           GRANT SELECT ON xcom, dag_run, task_instance, dag, dag_tag, alembic_version TO looker"""
    )
    try:
        bundle.connections["airflow_metadata_db"] |= {"login": "looker", "password": "pw"}
        fails(bundle, history, "INSERT on xcom", 'GRANT INSERT ON xcom TO "looker"', archive=FOLDER)
        assert bundle.run(RESTORE, archive=FOLDER).succeeded().report["headline"]["rows_to_restore"] == 12
    finally:
        history.connection.execute("DROP OWNED BY looker; DROP ROLE looker")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"dag_ids": 5}, "dag_ids from the trigger form: must be a list"),
        ({"task_ids": [""]}, "task_ids"),
        ({"mode": "restore"}, "'report' or 'enforce'"),
        ({"dags_ids": "a"}, "Did you mean 'dag_ids'?"),
        ({"archive": 7}, "archive from the trigger form: must be a string"),
    ],
)
def test_a_wrong_field_of_the_restore_form(
    bundle: Bundle, history: History, root: str, form: dict[str, Any], expected: str
) -> None:
    fails(bundle, history, expected, **form)


def test_what_to_restore_is_said_in_the_form_and_nowhere_else(bundle: Bundle, history: History, root: str) -> None:
    bundle.variable["archive"] = FOLDER  # type: ignore[index]
    fails(bundle, history, "Unknown setting 'archive'", "Variable xcom_maintenance")


def test_an_archive_path_below_the_blob_base_path_is_refused(bundle: Bundle, bucket: Bucket, history: History) -> None:
    fails(
        bundle,
        history,
        "archive_path",
        "outside the blob base path",
        archive=FOLDER,
        archive_path=f"{bucket.base}/archive",
    )


def test_no_value_shows_in_the_report_the_manifest_or_the_log_of_a_restore(
    bundle: Bundle, history: History, root: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = history.run("a", 30)
    history.xcom(run, "secret-17", age_days=30)
    history.xcom(run, {"nested": "secret-17"}, age_days=30, key="other")
    archive_rows(history, root)
    caplog.set_level("DEBUG")
    outcome = restore(bundle).succeeded()
    written = [outcome.markdown, json.dumps(outcome.report), json.dumps(outcome.manifest("archive"))]
    assert not [text for text in [*written, caplog.text, json.dumps(outcome.summary)] if "secret-17" in text]
    assert len(history.rows()) == 2
