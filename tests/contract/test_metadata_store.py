"""What every metadata store must do; run over both drivers that the Postgres provider may bring."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError, StoreUnavailable
from include.xcom_maintenance.core.records import Coordinates
from include.xcom_maintenance.core.reference_formats import HEX as ANY_HEX
from include.xcom_maintenance.core.reference_formats import KNOWN, layout
from include.xcom_maintenance.core.references import reference_in
from include.xcom_maintenance.core.runs import Cut, Doomed, Run
from include.xcom_maintenance.metadata.ports import MetadataStore
from include.xcom_maintenance.metadata.ports.reconciliation import DanglingThatStay, UnparsableReference
from include.xcom_maintenance.metadata.postgres.schema import KNOWN_REVISIONS
from include.xcom_maintenance.reconciliation.causes import Cause, cause_of
from tests.conftest import Database
from tests.core.test_references import ELSEWHERE, NONE, REFERENCES
from tests.support.history import NOW, History, SeededRun, days_ago

BASE = BasePath.parse("s3://aws_xcom@bucket/xcom", setting="blob_base_path")
BLOB = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-666666666666"


def older_than(*runs: SeededRun, days: float = 7, keep_latest_value: bool = False) -> Doomed:
    return Doomed((Cut(days_ago(days), keep_latest_value),), [r.dag_run_id for r in runs], [0] * len(runs))


def test_a_migrated_database_passes_the_check(store: MetadataStore) -> None:
    identity = store.check(may_delete=True, reads_references=True)
    assert identity.cluster.isdigit()
    assert identity.schema_revision in KNOWN_REVISIONS
    assert abs(store.now() - NOW) < timedelta(hours=1)


def test_runs_come_newest_first_with_their_unfinished_tasks(store: MetadataStore, history: History) -> None:
    old = history.run("a", 3)
    new = history.run("a", 1, state="running", task_state="running")
    history.task(new, "waiting", None)
    history.task(new, "done", "skipped")
    other = history.run("b", 2, logical=False)
    assert [(r.dag_run_id, r.state, r.unfinished_tasks) for r in store.runs()] == [
        (new.dag_run_id, "running", 2),
        (old.dag_run_id, "success", 0),
        (other.dag_run_id, "success", 0),
    ]


@pytest.mark.parametrize("state", ["running", "queued"])
def test_rows_of_an_unfinished_run_are_never_deleted(store: MetadataStore, history: History, state: str) -> None:
    run = history.run("a", 100, state=state)
    history.xcom(run, age_days=100)
    assert not list(store.measure(older_than(run)))
    assert store.delete(older_than(run), limit=10).rows == 0
    assert history.left() == {("a", run.run_id)}


@pytest.mark.parametrize(
    "state",
    [None, "scheduled", "queued", "running", "restarting", "up_for_retry", "up_for_reschedule", "deferred",
     "awaiting_input", "of_later_airflow"],
)  # fmt: skip
def test_rows_of_a_run_with_an_unfinished_task_are_never_deleted(
    store: MetadataStore, history: History, state: str | None
) -> None:
    run = history.run("a", 100)
    history.xcom(run, age_days=100)
    history.task(run, "other", state)
    assert store.delete(older_than(run), limit=10).rows == 0


def _signs(history: History, run: SeededRun, **days: float | None) -> None:
    """When there was a sign of life, in days ago: of the run as ``run_<column>``, of its tasks that are unfinished."""
    for name, age in days.items():
        table, column = ("dag_run", name[4:]) if name.startswith("run_") else ("task_instance", name)
        where = "" if table == "dag_run" else " AND (state IS NULL OR state NOT IN ('success', 'failed'))"
        history.connection.execute(
            f"UPDATE {table} SET {column} = %s WHERE dag_id = %s AND run_id = %s{where}".encode(),
            (None if age is None else days_ago(age), run.dag_id, run.run_id),
        )


def _stuck(*runs: SeededRun, days: float = 7) -> Doomed:
    return Doomed((Cut(days_ago(7), stuck_before=days_ago(days)),), [r.dag_run_id for r in runs], [0] * len(runs))


@pytest.mark.parametrize("run_state", ["success", "failed"])
@pytest.mark.parametrize("state", [None, "scheduled", "queued", "running", "deferred", "up_for_retry"])
@pytest.mark.parametrize(
    "signs",
    [
        {"run_end_date": 20},
        {"run_updated_at": 8, "updated_at": 30},
        {"updated_at": 20},
        {"run_end_date": 20, "updated_at": 20, "last_heartbeat_at": 21, "start_date": 22, "queued_dttm": 23},
    ],
)
def test_no_row_is_kept_for_ever_by_a_task_that_never_runs_any_more(
    store: MetadataStore, history: History, signs: dict[str, float], state: str | None, run_state: str
) -> None:
    run = history.run("a", 30, state=run_state)
    history.xcom(run, f"s3://bucket/xcom/a/{run.run_id}/t/{BLOB}", age_days=30)
    history.task(run, "never", state)
    _signs(history, run, **signs)
    for too_long in (older_than(run), _stuck(run, days=30.5)):
        assert not list(store.measure(too_long))
        assert store.delete(too_long).rows == 0
    where = [Coordinates("a", run.run_id, "t")]
    assert store.unfinished_runs(where) == {("a", run.run_id)}
    assert store.unfinished_runs(where, stuck_before=days_ago(7)) == set()
    [listed] = [found for found in store.runs() if isinstance(found, Run)]
    assert listed.last_sign is not None
    assert listed.last_sign == days_ago(min(signs.values()))
    assert [found.rows for found in store.measure(_stuck(run))] == [1]
    assert len(list(store.doomed_references(_stuck(run), BASE))) == 1
    assert store.delete(_stuck(run)).rows == 1


@pytest.mark.parametrize(
    "signs",
    [
        {},
        {"run_end_date": 1, "updated_at": 30},
        {"run_end_date": 30, "run_updated_at": 1},
        *({"run_end_date": 30, "updated_at": 30, column: 1} for column in (
            "last_heartbeat_at", "start_date", "end_date", "queued_dttm", "scheduled_dttm", "updated_at")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("limit", [None, 1])
def test_no_row_goes_while_an_unfinished_task_or_its_run_gives_a_sign_of_life(
    store: MetadataStore, history: History, signs: dict[str, float], limit: int | None
) -> None:
    run = history.run("a", 30, state="failed")
    history.xcom(run, age_days=30)
    history.task(run, "never", None)
    _signs(history, run, **signs)
    assert not list(store.measure(_stuck(run)))
    assert store.delete(_stuck(run), limit=limit).rows == 0
    assert len(store.unfinished_runs([Coordinates("a", run.run_id, "t")], stuck_before=days_ago(7))) == 1


def test_no_row_goes_since_only_some_unfinished_tasks_are_stuck(store: MetadataStore, history: History) -> None:
    run, silent = history.run("a", 30, state="failed"), history.run("b", 30, state="failed")
    for each in (run, silent):
        history.xcom(each, age_days=30)
        history.task(each, "stuck", None)
        _signs(history, each, updated_at=30)
        history.task(each, "other", "deferred")
    history.connection.execute("UPDATE task_instance SET updated_at = now() WHERE task_id = 'other' AND dag_id = 'a'")
    assert store.delete(_stuck(run, silent)).rows == 0
    assert [found.last_sign is None for found in store.runs() if isinstance(found, Run)] == [False, True]


@pytest.mark.parametrize("state", ["running", "queued"])
def test_no_row_of_a_run_that_goes_on_goes_however_long_its_tasks_are_silent(
    store: MetadataStore, history: History, state: str
) -> None:
    run = history.run("a", 30, state=state, task_state=None)
    history.xcom(run, age_days=30)
    _signs(history, run, run_end_date=30, run_updated_at=30, updated_at=30)
    assert store.delete(_stuck(run)).rows == 0


def test_measure_says_what_delete_takes(store: MetadataStore, history: History) -> None:
    run = history.run("a", 20)
    history.xcom(run, "old", age_days=20)
    history.xcom(run, "x" * 100_000, age_days=10, key="large")
    history.xcom(run, "young", age_days=1, key="young")
    [measured] = store.measure(older_than(run))
    deleted = store.delete(older_than(run), limit=10)
    assert measured.rows == deleted.rows == 2
    assert (measured.younger_rows, measured.latest_rows) == (1, 0)
    assert 1_000 < measured.bytes < 100_000  # compressed
    assert {key for *_, key in history.rows()} == {"young"}


def test_delete_stops_at_its_limit(store: MetadataStore, history: History) -> None:
    run = history.run("a", 20)
    for i in range(7):
        history.xcom(run, i, age_days=20, key=f"k{i}")
    assert [store.delete(older_than(run), limit=3).rows for _ in range(4)] == [3, 3, 1, 0]


@pytest.mark.parametrize("keep_latest_value", [False, True])
def test_with_and_without_a_limit_the_same_rows_go(
    store: MetadataStore, history: History, keep_latest_value: bool
) -> None:
    runs = [history.run(dag_id, age, state=state) for dag_id in ("a", "b") for age, state in
            ((30, "success"), (20, "failed"), (15, "running"), (3, "success"))]  # fmt: skip
    for run, age in zip(runs, [30, 20, 15, 3] * 2, strict=True):
        for map_index in range(3):
            history.xcom(run, age_days=age, map_index=map_index)
    cutoffs = older_than(*runs, keep_latest_value=keep_latest_value)
    before = history.rows()
    history.connection.execute("CREATE TABLE aside AS SELECT * FROM xcom")
    store.delete(cutoffs)
    at_once = before - history.rows()
    history.connection.execute("DELETE FROM xcom; INSERT INTO xcom SELECT * FROM aside")
    while store.delete(cutoffs, limit=2).rows:
        pass
    assert before - history.rows() == at_once
    assert len(at_once) == (6 if keep_latest_value else 12)  # what the running run would pull stays


def test_keep_latest_value_keeps_what_a_pull_of_prior_dates_would_take(store: MetadataStore, history: History) -> None:
    runs = [history.run("a", age) for age in (30, 20, 10)]
    by_hand = [history.run("a", age, logical=False) for age in (25, 15)]
    for run, age in zip([*runs, *by_hand], (30, 20, 10, 25, 15), strict=True):
        history.xcom(run, age_days=age)
    history.xcom(runs[0], age_days=30, key="only_here")
    cutoffs = older_than(*runs, *by_hand, keep_latest_value=True)
    store.delete(cutoffs, limit=100)
    left = {(run_id, key) for _, run_id, _, _, key in history.rows()}
    assert left == {
        (runs[2].run_id, "return_value"),
        (by_hand[1].run_id, "return_value"),
        (runs[0].run_id, "only_here"),
    }


def test_keep_latest_value_keeps_what_runs_that_are_not_finished_would_take(
    store: MetadataStore, history: History
) -> None:
    """A catch-up run sees only what is not later than itself; a value of a running run is removed by its retry."""
    runs = {age: history.run("a", age) for age in (50, 40, 30, 20)}
    for age, run in runs.items():
        history.xcom(run, age_days=age)
    catching_up = history.run("a", 35, state="running", task_state=None)
    retrying = history.run("a", 10, state="running", task_state="up_for_retry")
    history.xcom(retrying, age_days=10)
    cutoffs = older_than(*runs.values(), catching_up, retrying, keep_latest_value=True)
    measured = sum(found.rows for found in store.measure(cutoffs))
    assert measured == store.delete(cutoffs, limit=100).rows == 2
    assert history.left() == {("a", run.run_id) for run in (runs[40], runs[20], retrying)}


def test_keep_latest_value_keeps_what_the_next_scheduled_run_would_take(store: MetadataStore, history: History) -> None:
    """A run started by hand may have a later logical date than the scheduled run that comes next."""
    scheduled, by_hand = history.run("a", 40), history.run("a", 10)
    history.xcom(scheduled, age_days=40)
    history.xcom(by_hand, age_days=10)
    history.connection.execute("UPDATE dag SET next_dagrun = %s", (days_ago(20),))
    cutoffs = older_than(scheduled, by_hand, keep_latest_value=True)
    assert store.delete(cutoffs).rows == 0


def test_keep_latest_value_holds_across_batches_and_limits(store: MetadataStore, history: History) -> None:
    runs = [history.run("a", age) for age in (30, 20, 10)]
    for run, age in zip(runs, (30, 20, 10), strict=True):
        for map_index in range(3):
            history.xcom(run, age_days=age, map_index=map_index)
    for _ in range(10):
        for run in reversed(runs):
            store.delete(older_than(run, keep_latest_value=True), limit=1)
    assert history.left() == {("a", runs[2].run_id)}
    assert len(history.rows()) == 3


def test_doomed_references_are_those_of_the_rows_that_go(store: MetadataStore, history: History) -> None:
    run = history.run("a", 20)
    history.xcom(run, f"s3://aws_xcom@bucket/xcom/a/r/t/{BLOB}", age_days=20, key="old")
    history.xcom(run, f"s3://bucket/xcom/a/r/t/{BLOB}.gz", age_days=20, key="without connection")
    history.xcom(run, f"s3://aws_xcom@bucket/xcom/a/r/t/{BLOB}2", age_days=1, key="young")
    history.xcom(run, "s3://elsewhere/bucket/xcom/a/r/t/x", age_days=20, key="another bucket")
    history.xcom(run, "s3://bucket/xcom-of-others/a/r/t/x", age_days=20, key="another prefix")
    history.xcom(run, f"see s3://bucket/xcom/a/r/t/{BLOB}", age_days=20, key="a mention")
    found = store.doomed_references(older_than(run), BASE)
    assert {(r.key, r.xcom_key) for r in found} == {
        (f"a/r/t/{BLOB}", "old"),
        (f"a/r/t/{BLOB}.gz", "without connection"),
    }


def test_nobody_who_asks_overlooks_a_form_of_a_reference(store: MetadataStore, history: History) -> None:
    """The cleanup, the audit, the reconciliation and the core say the same of every value."""
    run = history.run("a", 20)
    values = [value for value, *_ in REFERENCES] + ELSEWHERE + [value for value in NONE if value is not None]
    values.append({"bucket": "bucket", "key": f"xcom/a/r/t/{BLOB}", "much": ["x" * n for n in range(100)]})
    expected = {}
    for number, value in enumerate(values):
        history.xcom(run, value, age_days=20, key=f"k{number}")
        found = reference_in(json.dumps(value))
        key = found.below(BASE) if found is not None and found.says_where else None
        if key is not None and KNOWN.read(key) is not None:
            expected[f"k{number}"] = key
    assert len(expected) == 7
    for whole in (store.doomed_references(older_than(run), BASE), store.whole_references(BASE)):
        assert {reference.xcom_key: reference.key for reference in whole} == expected
    assert {r.xcom_key: r.key for r in store.references(BASE) if r.whole} == expected
    keys = [reference.key for reference in store.whole_references(BASE)]
    assert keys == sorted(keys, key=str.encode)


def test_references_are_found_wherever_they_stand(store: MetadataStore, history: History) -> None:
    run = history.run("a", 1)
    path = "s3://aws_xcom@bucket/xcom/a/r/t"
    values = {
        "whole": f"{path}/1",
        "nested": {"files": [{"at": f"{path}/2"}]},
        "as a key": {f"{path}/3": True},
        "in a sentence": f"It lies at {path}/4.",
        "several": f"{path}/5 and {path}/6",
        "with blanks": f"{path}/7 b/c",
        "quoted": f'{path}/8"9\\10',
        "large": {"pad": "x" * 100_000, "at": f"s3a://bucket/xcom/a/r/t/{'ä' * 20}"},
        "elsewhere": "s3://other/xcom/a/r/t/11",
    }
    for key, value in values.items():
        history.xcom(run, value, age_days=1, key=key)
    history.connection.execute(
        """CREATE TABLE _airflow_deleted__xcom__20260101000000 AS SELECT * FROM xcom WHERE key = 'whole';
           UPDATE _airflow_deleted__xcom__20260101000000 SET value = to_jsonb('s3://bucket/xcom/a/r/t/12'::text);
           CREATE TABLE _xcom_archive AS SELECT dag_id, run_id, task_id, key, map_index,
               convert_to('"s3://bucket/xcom/a/r/t/13"', 'UTF8') AS value FROM xcom WHERE key = 'whole'"""
    )
    found = list(store.references(BASE))
    keys = [reference.key for reference in found]
    history.xcom(run, {"far": [f"x,--in={path}/{BLOB}?versionId=3"]}, age_days=1, key="packed")
    expected = [f"a/r/t/{n}" for n in ("1", "2", "3", "4", "5", "6", "7 b/c", '8"9\\10', "12", "13", "ä" * 20)]
    assert set(expected) <= set(keys)
    assert not any("11" in key for key in keys)
    assert keys == sorted(keys, key=str.encode)
    history.xcom(run, f"{path}/{BLOB}", age_days=1, key="written by a backend")
    whole = [reference for reference in store.references(BASE) if reference.whole]
    assert [(reference.key, reference.xcom_key) for reference in whole] == [(f"a/r/t/{BLOB}", "written by a backend")]


@pytest.mark.parametrize(
    "value",
    [
        "s3://aws_xcom@bucket/xcom/a/r/t/{}",
        {"nested": ["{}"]},
        "--input=s3://bucket/xcom/a/r/t/{}?versionId=7",
        "s3://other/x,s3://bucket/xcom/a/r/t/{};y",
        '"{{\\"Message\\": \\"{}\\"}}"',
        "s3%3A%2F%2Fbucket%2Fxcom%2Fa%2Fr%2Ft%2F{}",
        {"bucket": "b", "key": "x/{}.gz"},
        {"{}": 1},
        "x" * 50_000 + "{}",
        "s3://bucket/xcom/a/r/t/{}.gz",
        "s3://bucket/xcom/a/r/t/{}.tar.gz.enc.suffixed",
        f"s3://bucket/xcom/{OTHER}/{{}}.gz",
        f"s3://bucket/xcom/{{}}/{OTHER}",
        f"s3://bucket/xcom/{{}}.gz/{OTHER}.gz",
        "{}-aaaa-bbbb-cccc-dddddddddddd",
        "aaaaaaaa-bbbb-cccc-dddd-{}",
        "{}.",
        "{}\\",
        "-----------------------------{}",
    ],
)
def test_a_blob_whose_name_stands_anywhere_in_a_value_counts_as_referenced(
    store: MetadataStore, history: History, value: object
) -> None:
    history.xcom(history.run("a", 1), json.loads(json.dumps(value).replace("{}", BLOB.upper())), age_days=1)
    absent = BLOB.replace("1", "9")
    assert store.referenced([f"a/r/t/{BLOB}", f"b/r/t/{BLOB}.gz", f"a/r/t/{absent}"]) == {
        f"a/r/t/{BLOB}",
        f"b/r/t/{BLOB}.gz",
    }


HEX = "5f0c0a6b9d1e4b7f8a2c3d4e5f6a7b8c"


@pytest.mark.parametrize(
    "value",
    [
        f"s3://bucket/xcom/a/r/t/{HEX}.json",
        f"s3%3A%2F%2Fbucket%2Fxcom%2Fa%2Fr%2Ft%2F{HEX}.json",
        f"deadbeef{HEX}",
        {"name": HEX.upper()},
        "0" * 5_000 + HEX,
        HEX + "0" * 5_000,
    ],
)
def test_a_name_without_dashes_counts_wherever_it_begins(database: Database, history: History, value: object) -> None:
    history.xcom(history.run("a", 1), value, age_days=1)
    declared = database.store(formats=KNOWN.and_also([layout("hex", f"a/(?P<unique>{ANY_HEX})")]))
    with declared:
        assert declared.referenced([f"a/{HEX}", f"a/{HEX.replace('5', '6')}", f"a/r/t/{BLOB}"]) == {f"a/{HEX}"}


TI = "019a2f6e-1c1d-7b3a-8f52-9a5d4d1c7e10"


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (f"s3://c@bucket/xcom/a/r/t/ti-{TI}/k.json", {"k.json"}),
        ({"in": [f"s3://bucket/xcom/a/r/t/ti-{TI}/k.json.gz"]}, {"k.json", "k.json.gz"}),
        (f"s3://bucket/xcom/a/r/t/ti-{TI}/return_value.json", set()),
        (f"ti-{TI}", {"k.json", "k.json.gz"}),
        (f"ti-{TI}%2Fother.json", {"k.json", "k.json.gz"}),
        (f"x/ti-{TI}/other.json,x/ti-{TI}/k.json", {"k.json"}),
        (f"x/{BLOB}/{TI}", {"k.json", "k.json.gz"}),
    ],
)
def test_a_path_that_is_overwritten_is_verified_by_its_file_and_not_by_the_id_that_others_share(
    store: MetadataStore, history: History, value: object, meant: set[str]
) -> None:
    history.xcom(history.run("a", 1), value, age_days=1)
    keys = [f"a/r/t/ti-{TI}/{file}" for file in ("k.json", "k.json.gz")]
    assert {key.rsplit("/", 1)[-1] for key in store.referenced(keys)} == meant


def own_row(uri: str) -> dict[str, object]:
    """As ``xcom_blob_backend.reference`` writes it."""
    data = {"uri": uri, "bytes": 10, "stored_bytes": 5}
    return {"__classname__": "xcom_blob_backend.BlobReference", "__version__": 1, "__data__": data}


def test_references_of_every_known_format_are_read(store: MetadataStore, history: History) -> None:
    """Rows as the backends write them."""
    run = history.run("a", 1)
    place, bare = f"a/r/t/{BLOB}", f"s3_xcom_{BLOB}"
    hive = BLOB.replace("1", "2")
    values: dict[str, tuple[object, str, bool]] = {
        "stock": (f"s3://aws_xcom@bucket/xcom/{place}", place, True),
        "stock, no connection, compressed": (f"s3://bucket/xcom/{place}.gz", f"{place}.gz", True),
        "by task instance": (f"s3://aws_xcom@bucket/xcom/a/r/t/ti-{TI}/k.json", f"a/r/t/ti-{TI}/k.json", True),
        "own": (own_row(f"s3://c@bucket/xcom/a/r/t/{BLOB}.xcb"), f"a/r/t/{BLOB}.xcb", True),
        "own, nested": ({"x": own_row(f"s3://bucket/xcom/d/r/t/{BLOB}.xcb")}, f"d/r/t/{BLOB}.xcb", False),
        "bare key": (bare, bare, False),
        "bare key of gcs": (f"gcs_xcom_{BLOB}", f"gcs_xcom_{BLOB}", False),
        "scheme of its own": (f"xcom_s3://xcom/r/t/data_{BLOB}.csv", f"r/t/data_{BLOB}.csv", False),
        "scheme of its own, no prefix": (f"xcom_s3://data_{hive}.csv", f"data_{hive}.csv", False),
        "object": ({"bucket": "bucket", "s3_key": f"xcom/b/r/t/{BLOB}"}, f"b/r/t/{BLOB}", True),
        "nested object": ({"x": [{"bucket": "bucket", "key": f"xcom/c/r/t/{BLOB}"}]}, f"c/r/t/{BLOB}", False),
    }
    for key, (value, *_) in values.items():
        history.xcom(run, value, age_days=1, key=key)
    for number, elsewhere in enumerate(
        ({"bucket": "other", "key": "xcom/1"}, {"bucket": "bucket", "key": "elsewhere/1"}, "s3_export", "xcom_s3:/x")
    ):
        history.xcom(run, elsewhere, age_days=1, key=f"elsewhere {number}")
    found = {r.xcom_key: (r.key, r.whole) for r in store.references(BASE)}
    assert found == {key: (blob, whole) for key, (_, blob, whole) in values.items()}


@pytest.mark.parametrize("text", ["{},s3://other/x", "{};s3://bucket/xcom/../y", "s3://bucket/xcom/a//t/" + BLOB])
def test_a_list_of_references_counts_for_each_of_them_and_does_not_stop_the_run(
    store: MetadataStore, history: History, text: str
) -> None:
    history.xcom(history.run("a", 1), text.format(f"s3://bucket/xcom/a/r/t/{BLOB}"), age_days=1)
    list(store.references(BASE))
    assert store.referenced([f"a/r/t/{BLOB}"]) == {f"a/r/t/{BLOB}"}


def test_blobs_of_archived_rows_count_as_referenced(store: MetadataStore, history: History) -> None:
    history.xcom(history.run("ä", 1), f"s3://bucket/xcom/ä/r/t/{BLOB}", age_days=1)
    for name, value in {
        '"_airflow_deleted__xcom__100%"': "value",
        "_airflow_deleted__xcom__2": "value::json",
        "_airflow_deleted__xcom__3": "value::text",
        "_xcom_archive": "convert_to(value::text, 'UTF8')",
    }.items():
        history.connection.execute(
            f"CREATE TABLE {name} AS SELECT dag_id, run_id, task_id, key, {value} AS value FROM xcom"
        )  # type: ignore[arg-type]
        history.connection.execute("UPDATE xcom SET value = '1'")
        assert store.referenced([f"ä/r/t/{BLOB}"]) == {f"ä/r/t/{BLOB}"}, name
        assert list(store.references(BASE))
        history.connection.execute("UPDATE xcom SET value = to_jsonb(%s::text)", (f"s3://bucket/xcom/ä/r/t/{BLOB}",))
        history.connection.execute(f"DROP TABLE {name}")  # type: ignore[arg-type]


def test_one_string_with_very_many_paths_costs_no_more_than_its_length(store: MetadataStore, history: History) -> None:
    """Each path must not carry the whole string along."""
    import tracemalloc

    history.xcom(history.run("a", 1), " ".join(f"s3://bucket/xcom/a/r/t/{n:06}" for n in range(4_000)), age_days=1)
    tracemalloc.start()
    assert sum(1 for _ in store.references(BASE)) >= 4_000
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


def test_rows_that_were_deleted_meanwhile_are_not_still_there(store: MetadataStore, history: History) -> None:
    run = history.run("a", 1)
    for key in ("1", "2"):
        history.xcom(run, f"s3://bucket/xcom/a/r/t/{BLOB}", age_days=1, key=key)
    references = list(store.references(BASE))
    history.connection.execute("DELETE FROM xcom WHERE key = '1'")
    assert [reference.xcom_key for reference in store.still_there(references)] == ["2"]


def test_a_reference_that_cannot_be_read_is_an_error_that_shows_no_value(
    store: MetadataStore, history: History
) -> None:
    run = history.run("a", 1)
    for number, harmless in enumerate(("https://bucket/xcom//page", "s3://other/bucket/xcom/..", "bucket/xcom/..")):
        history.xcom(run, harmless, age_days=1, key=str(number))
    assert list(store.references(BASE)) == []
    history.xcom(run, "s3://bucket/xcom/../hidden/value", age_days=1)
    with pytest.raises(UnparsableReference, match="dag_id='a'") as caught:
        list(store.references(BASE))
    assert "hidden" not in str(caught.value)


def test_unfinished_runs_and_known_dags_are_told_from_others(store: MetadataStore, history: History) -> None:
    history.run("a", 1, run_id="done")
    history.run("a", 1.5, run_id="going", state="running")
    waiting = history.run("a", 2, run_id="waiting")
    history.task(waiting, "asked", "awaiting_input")
    history.connection.execute("INSERT INTO log (dttm, dag_id, event) VALUES (now(), 'deleted', 'delete_dag')")
    asked = [Coordinates("a", run_id, "t") for run_id in ("done", "going", "waiting", "never")]
    assert store.unfinished_runs(asked) == {("a", "going"), ("a", "waiting")}
    assert store.known_dags(["a", "deleted", "stranger"]) == {"a", "deleted"}


def test_what_is_still_known_about_the_tasks_of_blobs_is_told(store: MetadataStore, history: History) -> None:
    history.run("a", 2, run_id="none")
    again, moved = history.run("a", 3, run_id="again"), history.run("a", 4, run_id="moved")
    history.xcom(again, f"s3://bucket/xcom/a/again/t/{BLOB}", age_days=3)
    history.xcom(moved, f"s3://bucket/old/a/moved/t/{BLOB}", age_days=4)
    history.xcom(history.run("a", 5, run_id="url"), "https://example.org/page", age_days=5)
    died = history.run("a", 6, run_id="died", task_state="failed")
    places = {
        "again": Coordinates("a", "again", "t"),
        "moved": Coordinates("a", "moved", "t"),
        "url": Coordinates("a", "url", "t"),
        "died": Coordinates("a", died.run_id, "t"),
        "no task": Coordinates("a", "none", "other"),
        "no run": Coordinates("a", "never", "t"),
        "no dag": Coordinates("stranger", "never", "t"),
    }
    found = store.circumstances(list(places.values()), BASE)
    written = days_ago(10)
    assert {name: cause_of(written, found[place]) for name, place in places.items()} == {
        "again": Cause.PUSHED_AGAIN,
        "moved": Cause.BASE_PATH_MOVED,
        "url": Cause.ROW_DELETED,
        "died": Cause.WORKER_DIED,
        "no task": Cause.TASK_INSTANCE_DELETED,
        "no run": Cause.RUN_DELETED,
        "no dag": Cause.DAG_DELETED,
    }


def test_rows_of_dangling_references_go_unless_they_changed_or_their_run_is_not_finished(
    store: MetadataStore, history: History
) -> None:
    store.check(may_delete=True, reads_references=True)
    done, going = history.run("a", 1), history.run("a", 2, state="running")
    waiting = history.run("a", 3, task_state="deferred")
    for run in (done, going, waiting):
        history.xcom(run, f"s3://bucket/xcom/a/r/t/{BLOB}", age_days=1)
    history.xcom(done, own_row(f"s3://bucket/xcom/a/r/t/{BLOB}.xcb"), age_days=1, key="own")
    history.xcom(done, f"s3://bucket/xcom/b/r/t/{BLOB}", age_days=1, key="changed")
    references = [reference for reference in store.references(BASE) if reference.whole]
    assert len(references) == 5
    history.connection.execute("UPDATE xcom SET value = '\"new\"' WHERE key = 'changed'")
    assert store.delete_dangling(references) == 1
    assert {(run_id, key) for _, run_id, _, _, key in history.rows()} == {
        (done.run_id, "own"),
        (going.run_id, "return_value"),
        (waiting.run_id, "return_value"),
        (done.run_id, "changed"),
    }


def _mapped_references(history: History, run: SeededRun, there: set[int], *, key: str = "k") -> list[str]:
    """Five results of a mapped task, of which those in ``there`` have their values in the row."""
    for index in range(5):
        value: object = f"s3://bucket/xcom/a/r/m/{BLOB[:-1]}{index}" if index not in there else index
        history.xcom(run, value, age_days=1, task_id="m", map_index=index, key=key)
    return [key]


@pytest.mark.parametrize("there", [{0}, {2}, {4}, {0, 1, 2, 3}, {1, 3}])
def test_no_dangling_row_of_a_mapped_task_goes_while_others_of_its_group_stay(
    store: MetadataStore, history: History, there: set[int]
) -> None:
    run = history.run("a", 2)
    _mapped_references(history, run, there)
    _mapped_references(history, run, set(), key="all of it")
    history.xcom(run, f"s3://bucket/xcom/a/r/t/{BLOB}", age_days=1)
    before = {row for row in history.rows() if row[4] == "k"}
    references = [reference for reference in store.references(BASE) if reference.whole]
    assert store.dangling_that_stay(references) == DanglingThatStay(in_part=5 - len(there), own=0)
    assert store.delete_dangling(references) == 6
    assert history.rows() == before


def test_no_dangling_row_goes_of_which_a_pull_fails(store: MetadataStore, history: History) -> None:
    """It would give None. Nor any of a group in which there is one."""
    run = history.run("a", 2)
    history.xcom(run, own_row(f"s3://bucket/xcom/a/r/t/{BLOB}.xcb"), age_days=1)
    history.xcom(run, own_row(f"s3a://conn@bucket/xcom/a/r/t/{OTHER}.xcb"), age_days=1, key="spelt otherwise")
    _mapped_references(history, run, {3})
    mapped = {**own_row(f"s3://bucket/xcom/a/r/m/{OTHER}.xcb")}
    history.connection.execute("UPDATE xcom SET value = %s::jsonb WHERE map_index = 3", (json.dumps(mapped),))
    before = history.rows()
    references = [reference for reference in store.references(BASE) if reference.whole]
    assert len(references) == 7
    assert store.dangling_that_stay(references) == DanglingThatStay(in_part=4, own=3)
    assert store.delete_dangling(references) == 0
    assert history.rows() == before


def test_no_dangling_row_of_a_mapped_task_goes_if_it_is_not_known_that_all_of_its_group_dangle(
    store: MetadataStore, history: History
) -> None:
    """Of all that dangle only some are asked for, as where the others' blobs were put back; or one has changed."""
    run = history.run("a", 2)
    _mapped_references(history, run, set())
    before = history.rows()
    references = [reference for reference in store.references(BASE) if reference.whole]
    assert store.delete_dangling(references[:4]) == 0
    history.connection.execute("UPDATE xcom SET value = '7' WHERE map_index = 3")
    assert store.delete_dangling(references) == 0
    assert history.rows() == before


def test_an_empty_database_has_nothing(store: MetadataStore) -> None:
    assert list(store.runs()) == []
    assert not list(store.measure(Doomed()))
    assert list(store.references(BASE)) == []
    assert store.referenced([]) == set()
    assert store.still_there([]) == []
    assert store.row_count_estimate() == 0


# -- databases that must not be touched --------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TABLE xcom", "no table xcom"),
        ("ALTER TABLE xcom RENAME TO xcom_v1; CREATE TABLE xcom_v2 (id uuid)", "of Airflow 3.4 or later"),
        ("ALTER TABLE xcom RENAME COLUMN timestamp TO pushed_at", "xcom.timestamp"),
        ("ALTER TABLE xcom ALTER COLUMN value TYPE text", "xcom.value"),
        ("UPDATE alembic_version SET version_num = '29ce7909c52b'", "schema revision '29ce7909c52b'"),
        ("DELETE FROM alembic_version", "schema revision 'none'"),
    ],
)
def test_a_database_that_is_not_a_known_airflow_is_refused(
    store: MetadataStore, history: History, statement: str, message: str
) -> None:
    history.connection.execute(statement)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=message):
        store.check(may_delete=False, reads_references=True)


def test_no_schema_of_the_tested_airflow_is_missing_or_misnamed() -> None:
    from airflow.utils.db import _REVISION_HEADS_MAP

    since_3_1 = {
        revision: version.removesuffix(".0")
        for version, revision in _REVISION_HEADS_MAP.items()
        if tuple(map(int, version.split("."))) >= (3, 1)
    }
    assert since_3_1
    assert {revision: KNOWN_REVISIONS.get(revision) for revision in since_3_1} == since_3_1


def test_a_revision_that_the_user_vouches_for_is_accepted(database: Database, history: History) -> None:
    history.connection.execute("UPDATE alembic_version SET version_num = 'ffff'")
    with database.store(accepted_revision="ffff") as store:
        assert store.check(may_delete=False, reads_references=True).schema_revision == "ffff"


def test_a_role_that_may_only_read_is_refused_for_deleting_and_told_the_grant(
    database: Database, history: History
) -> None:
    history.connection.execute(
        """DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'pw';
           GRANT SELECT ON xcom, dag_run, task_instance, dag, dag_tag, alembic_version TO reader"""
    )
    try:
        with database.store(lambda: database.connect(user="reader", password="pw")) as store:
            store.check(may_delete=False, reads_references=True)
            assert store.known_dags(["a"]) == set()
            with pytest.raises(ConfigurationError, match='GRANT DELETE ON xcom TO "reader"'):
                store.check(may_delete=True, reads_references=True)
    finally:
        history.connection.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_least_privileges_are_enough_to_delete(database: Database, history: History) -> None:
    run = history.run("a", 20)
    history.xcom(run, age_days=20)
    history.connection.execute(
        """DROP ROLE IF EXISTS cleaner; CREATE ROLE cleaner LOGIN PASSWORD 'pw';
           GRANT SELECT ON xcom, dag_run, task_instance, dag, dag_tag, alembic_version TO cleaner;
           GRANT DELETE ON xcom TO cleaner"""
    )
    try:
        with database.store(lambda: database.connect(user="cleaner", password="pw")) as store:
            store.check(may_delete=True, reads_references=True)
            assert store.delete(older_than(run), limit=10).rows == 1
    finally:
        history.connection.execute("DROP OWNED BY cleaner; DROP ROLE cleaner")


@pytest.mark.parametrize(
    ("parameters", "kind", "message"),
    [
        ({"password": "wrong"}, ConfigurationError, "login and password"),
        ({"dbname": "nowhere"}, ConfigurationError, "nowhere"),
        ({"port": 1}, StoreUnavailable, "cannot be reached"),
    ],
)
def test_a_connection_that_fails_says_what_to_correct(
    database: Database, parameters: dict[str, object], kind: type[Exception], message: str
) -> None:
    with database.store(lambda: database.connect(**parameters)) as store, pytest.raises(kind, match=message) as caught:
        store.check(may_delete=False, reads_references=True)
    assert "metadata_conn_id" in str(caught.value)
    assert database.server.password not in str(caught.value)


def test_a_lock_that_is_not_granted_stops_the_batch_and_changes_nothing(database: Database, history: History) -> None:
    run = history.run("a", 20)
    history.xcom(run, age_days=20)
    with database.connect() as other, database.store(lock_timeout=0.2) as store:
        other.execute("LOCK TABLE xcom IN EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match="lock_timeout_seconds"):
            store.delete(older_than(run), limit=10)
        other.rollback()
        assert store.delete(older_than(run), limit=10).rows == 1


def test_a_task_cleared_while_the_delete_waits_keeps_the_rows_of_its_run(database: Database, history: History) -> None:
    """Clearing a task without its run touches no row that the delete could wait for."""
    run, other = history.run("a", 20), history.run("b", 20)
    for each in (run, other):
        history.xcom(each, age_days=20)
    deleted = []
    with database.connect() as busy, database.store() as store:
        store.check(may_delete=True, reads_references=True)
        busy.execute("SELECT FROM dag_run WHERE id = %s FOR UPDATE", (run.dag_run_id,))
        cutoffs = older_than(run, other)
        thread = threading.Thread(target=lambda: deleted.append(store.delete(cutoffs, limit=10).rows))
        thread.start()
        while not history.connection.execute(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%FOR SHARE%%'"
        ).fetchall():
            assert thread.is_alive()
        history.connection.execute("UPDATE task_instance SET state = NULL WHERE dag_id = 'a'")
        busy.commit()
        thread.join()
    assert deleted == [1]
    assert history.left() == {("a", run.run_id)}


def test_no_row_goes_of_a_stuck_run_whose_task_is_cleared_meanwhile(database: Database, history: History) -> None:
    """Without its run, so that nothing waits: the last look before the commit sees it."""
    run, other = history.run("a", 20, state="failed"), history.run("b", 20, state="failed")
    for each in (run, other):
        history.xcom(each, age_days=20)
        history.task(each, "never", None)
        _signs(history, each, run_end_date=20, updated_at=20)
    deleted = []
    with database.connect() as busy, database.store() as store:
        store.check(may_delete=True, reads_references=True)
        busy.execute("UPDATE xcom SET value = '2' WHERE dag_id = 'b'")  # what the delete waits for
        thread = threading.Thread(target=lambda: deleted.append(store.delete(_stuck(run, other)).rows))
        thread.start()
        while not history.connection.execute(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%DELETE FROM xcom%%'"
        ).fetchall():
            assert thread.is_alive()
        history.connection.execute(
            "UPDATE task_instance SET state = NULL, updated_at = now() WHERE dag_id = 'a' AND task_id = 'never'"
        )
        busy.commit()
        thread.join()
    assert deleted == [1]
    assert history.left() == {("a", run.run_id)}


def test_a_run_that_is_being_cleared_keeps_its_rows(database: Database, history: History) -> None:
    """The clear has not committed yet when the delete begins: the delete waits for it, and sees it."""
    import threading

    run = history.run("a", 20)
    history.xcom(run, age_days=20)
    deleted = []
    with database.connect() as clearing, database.store() as store:
        store.check(may_delete=True, reads_references=True)
        clearing.execute("UPDATE dag_run SET state = 'queued' WHERE id = %s", (run.dag_run_id,))
        thread = threading.Thread(target=lambda: deleted.append(store.delete(older_than(run), limit=10).rows))
        thread.start()
        while not history.connection.execute(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%FOR SHARE%%'"
        ).fetchall():
            assert thread.is_alive()
        clearing.commit()
        thread.join()
    assert deleted == [0]
    assert history.left() == {("a", run.run_id)}
