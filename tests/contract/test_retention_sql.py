"""The statements of retention against Python: globs, horizons, selections; and no short cut changes what they say."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from unittest.mock import patch

import pytest
from airflow.utils.state import TaskInstanceState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.runs import FINISHED_TASK_STATES, Cut, Doomed, Run, Scope, Selection, YoungerRuns
from include.xcom_maintenance.metadata.postgres import retention, states
from include.xcom_maintenance.metadata.postgres.scopes import regular_expression
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from tests.conftest import Database
from tests.support.history import History, SeededRun, days_ago, has_column
from tests.support.worlds import World, WorldRun, latest_values, rows_left, worlds, write

FEW = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))

_text = st.text(st.sampled_from("abcABC-]![^\\\n$.|()+{}*?&~#é\U0001f600\u2028 09_"), max_size=6)
_sets = st.text(st.sampled_from("abc-]![^\\zA&~|\n.é"), max_size=6).map(lambda inner: f"[{inner}]")
_globs = st.lists(st.one_of(_text, _sets, st.sampled_from("*?")), max_size=3).map("".join)


def _store(database: Database) -> PostgresMetadataStore:
    store = database.store()
    with database.connect() as connection:
        store._knows_creation = has_column(connection, "dag_run", "created_at")
    return store


# -- globs --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(_globs, min_size=40, max_size=60), st.lists(_text, min_size=40, max_size=60))
def test_no_glob_matches_more_or_less_in_the_database_than_in_python(
    history: History, globs: list[str], names: list[str]
) -> None:
    found = history.connection.execute(
        """SELECT g.number, n.number
           FROM unnest(%s::text[]) WITH ORDINALITY AS g(pattern, number),
                unnest(%s::text[]) WITH ORDINALITY AS n(name, number)
           WHERE n.name ~ g.pattern""",
        ([regular_expression([glob]) for glob in globs], names),
    ).fetchall()
    matched = {(globs[g - 1], names[n - 1]) for g, n in found}
    assert matched == {(glob, name) for glob in globs for name in names if fnmatchcase(name, glob)}


ODD = (
    *(
        "",
        "*",
        "?",
        "[]]",
        "[!]]",
        "[",
        "[!",
        "[]",
        "[a",
        "[a-c]",
        "[!a-c]",
        "[c-a]",
        "[!c-a]",
        "[a-]",
        "[-a]",
        "[--0]",
    ),
    *("[c-a!]", "[c-a!b]", "[c-a^b]", "[c-b-a]", "[c-a!-b]", "[^a]", "[!^a]", "[[]", "[\\]", "[\\-a]", "\\*", "\\"),
    *("a\n", "a*\n", "$", "^", "(a|b)", "a{2}", ".", "a+", "***:a", "(?i)a", "[[:alpha:]]", "[[.a.]]"),
    *("[a-\U0001f600]", "[&&]"),
)


def test_no_odd_glob_means_something_else_in_the_database(history: History) -> None:
    characters = ["", *"abc-]![^\\\n$.|()+{}*?&~zA:é\U0001f600"]
    names = [first + second for first in characters for second in characters] + ["(a|b)", "aa", "***:a", "(?i)a", "a:]"]
    for glob in ODD:
        found = history.connection.execute(
            "SELECT name FROM unnest(%s::text[]) AS n(name) WHERE name ~ %s",
            (names, regular_expression([glob])),
        )
        assert {name for (name,) in found} == {name for name in names if fnmatchcase(name, glob)}, glob


# -- which runs there are -----------------------------------------------------------------


@FEW
@given(worlds(), st.sampled_from([None, 0.5, 3, 10, 25]))
def test_runs_in_numbers_hide_no_run_that_may_lose_rows(
    database: Database, history: History, world: World, horizon_days: float | None
) -> None:
    now = write(history.connection, world)
    horizon = None if horizon_days is None else now - timedelta(days=horizon_days)
    with _store(database) as store:
        found = list(store.runs(created_before=horizon))
    if not has_column(history.connection, "dag_run", "created_at"):
        horizon_days = None  # every run counts as old
    assert found == list(_expected_runs(world, now, horizon_days))


def _expected_runs(world: World, now: datetime, horizon_days: float | None) -> list[Run | YoungerRuns]:
    expected: list[Run | YoungerRuns] = []
    for dag_id in sorted({run.dag_id for run in world.runs}):
        runs = [run for run in world.runs if run.dag_id == dag_id]
        young = [r for r in runs if horizon_days is not None and r.created_days is not None
                 and r.created_days <= horizon_days]  # fmt: skip
        old = [run for run in runs if run not in young]
        if any(one.due_days <= other.due_days for one in old for other in young):
            young, old = [], runs
        if young:
            finished = [run for run in young if run.state_is_final]
            expected.append(YoungerRuns(dag_id, len(finished), len(young) - len(finished)))
        for run in sorted(old, key=lambda run: (run.due_days, -run.dag_run_id)):
            unfinished = sum(not WorldRun("", 0, "success", 0, 0, True, {("", 0): s}, ()).finished
                             for s in run.tasks.values())  # fmt: skip
            due = now - timedelta(days=run.due_days)
            expected.append(Run(run.dag_run_id, dag_id, run.run_id, run.state or "", due, unfinished))
    return expected


def test_a_run_that_does_not_say_when_it_was_created_counts_as_old(database: Database, history: History) -> None:
    silent = history.run("a", 1)
    if has_column(history.connection, "dag_run", "created_at"):
        history.connection.execute("UPDATE dag_run SET created_at = NULL")
    with _store(database) as store:
        [found] = store.runs(created_before=days_ago(100))
    assert isinstance(found, Run)
    assert found.dag_run_id == silent.dag_run_id


def test_no_old_run_is_missed_on_an_airflow_that_does_not_say_when_runs_were_made(
    database: Database, history: History
) -> None:
    """As 3.1, whose runs have no such column."""
    old, young = history.run("a", 30), history.run("a", 1)
    for run, age in ((old, 30), (young, 1)):
        history.xcom(run, age_days=age)
    history.connection.execute("ALTER TABLE dag_run DROP COLUMN IF EXISTS created_at")
    with database.store() as store:
        found = list(store.runs(created_before=days_ago(7)))
        sample = store.sample([], created_before=days_ago(7))
        assert store.delete(Doomed((Cut(days_ago(7)),), [old.dag_run_id, young.dag_run_id], [0, 0])).rows == 1
    assert [run.dag_run_id for run in found if isinstance(run, Run)] == [young.dag_run_id, old.dag_run_id]
    assert {group.dag_run_id for group in sample.groups} == {young.dag_run_id, old.dag_run_id}


# -- what goes ----------------------------------------------------------------------------

_task_globs = st.lists(st.sampled_from(["*", "load", "[lL]oad", "train_*", "?rain_x", "none"]), max_size=2).map(tuple)
_key_globs = st.lists(st.sampled_from(["*", "k", "m*", "[!k]*"]), max_size=2).map(tuple)
_scopes = st.builds(
    Scope,
    _task_globs.map(lambda globs: globs or ("*",)),
    _task_globs,
    _key_globs.map(lambda globs: globs or ("*",)),
    _key_globs,
)
_selections = st.none() | st.builds(Selection, _scopes, st.lists(_scopes, max_size=2).map(tuple))


@FEW
@given(
    worlds(),
    st.lists(st.tuples(st.sampled_from([0, 2, 7, 20]), st.booleans(), _selections), min_size=1, max_size=3),
    st.sampled_from([None, 1, 3]),
)
def test_sample_measure_and_delete_never_disagree_with_a_naive_count(
    database: Database,
    history: History,
    world: World,
    wanted: list[tuple[float, bool, Selection | None]],
    limit: int | None,
) -> None:
    now = write(history.connection, world)
    cuts = tuple(Cut(now - timedelta(days=days), keep, selection) for days, keep, selection in wanted)
    # Every cut about some of the runs, so that a batch mixes them; a run comes once.
    doomed = Doomed(cuts, [r.dag_run_id for r in world.runs], [i % len(cuts) for i in range(len(world.runs))])
    going: Counter[int] = Counter()
    young: Counter[int] = Counter()
    latest: Counter[int] = Counter()
    kept = world.rows()
    pulled = latest_values(world, now)
    for number, run in enumerate(world.runs):
        days, keep_latest, selection = wanted[number % len(cuts)]
        for row in run.rows:
            if not run.finished or not _selected(selection, row.task_id, row.key):
                continue
            place = (run.dag_run_id, row.task_id, row.map_index, row.key)
            group = run.group(row)
            latest_of = {(run.dag_run_id, other.task_id, other.map_index, other.key) for other in group} & pulled
            if min(other.age_days for other in group) <= days:
                young[run.dag_run_id] += 1
            elif keep_latest and latest_of:
                latest[run.dag_run_id] += 1
            else:
                going[run.dag_run_id] += 1
                kept.discard(place)
    with _store(database) as store:
        measured = sorted(store.measure(doomed))
        pieces = (Doomed(doomed.cuts, [i], [which]) for i, which in zip(doomed.dag_run_ids, doomed.which, strict=True))
        assert sorted(found for piece in pieces for found in store.measure(piece)) == measured
        figures = {m.dag_run_id: (m.rows, m.younger_rows, m.latest_rows) for m in measured}
        speaks_about = going | young | latest
        assert figures == {i: (going[i], young[i], latest[i]) for i in speaks_about}
        scopes = [selection.scope for _, _, selection in wanted if selection]
        sample = store.sample(scopes)
        assert sample.share == 1
        by_scope: Counter[tuple[int | None, int]] = Counter()
        for group in sample.groups:
            by_scope[group.dag_run_id, group.scopes] += group.rows
        naive: Counter[tuple[int | None, int]] = Counter(
            (run.dag_run_id, sum(scope.matches(row.task_id, row.key) << i for i, scope in enumerate(scopes)))
            for run in world.runs
            for row in run.rows
        )
        assert by_scope == naive
        deleted = 0
        while gone := store.delete(doomed, limit=limit).rows:
            # A mapped task has no more than two instances here, whose rows go together.
            assert limit is None or gone <= max(limit, 2)
            deleted += gone
    assert deleted == going.total()
    assert rows_left(history.connection) == kept


def test_a_sample_of_pages_that_hold_nothing_does_not_count_as_the_whole_table(
    database: Database, history: History
) -> None:
    run = history.run("a", 1)
    history.xcom(run, age_days=1)
    history.connection.execute(
        """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, key, value, timestamp)
           SELECT dag_run_id, dag_id, run_id, task_id, 'n' || n, to_jsonb(repeat('x', 1900)), timestamp
           FROM xcom, generate_series(1, 20) n"""
    )
    with _store(database) as store:
        with patch.object(retention, "_SAMPLED", "0.000001"):
            nothing = store.sample([])
        everything = store.sample([])
    assert (nothing.groups, nothing.share) == ([], pytest.approx(1e-8))
    assert (sum(group.rows for group in everything.groups), everything.share) == (21, 1)


def _selected(selection: Selection | None, task_id: str, key: str) -> bool:
    if selection is None:
        return True
    return selection.scope.matches(task_id, key) and not any(s.matches(task_id, key) for s in selection.before)


def test_the_last_look_before_the_commit_overlooks_no_state_of_a_run(history: History) -> None:
    runs = [history.run("a", age, state="success") for age in range(5)]
    ids = [run.dag_run_id for run in runs]
    for dag_run_id, state in zip(ids, [None, "queued", "running", ""], strict=False):
        history.connection.execute("UPDATE dag_run SET state = %s WHERE id = %s", (state, dag_run_id))
    statement = states.UNFINISHED_AMONG.encode()
    found = history.connection.execute(statement, {**states.STATES, "ids": ids}).fetchall()
    assert {dag_run_id for (dag_run_id,) in found} == set(ids[:4])


@pytest.mark.parametrize("in_order", ["true", "false"])
def test_every_state_of_a_task_but_the_final_ones_is_unfinished(history: History, in_order: str) -> None:
    assert f"NOT ({states._IN_ORDER})" in states.UNFINISHED_STATE
    condition = states.UNFINISHED_STATE.replace(f"({states._IN_ORDER})", in_order)
    final = list(FINISHED_TASK_STATES)
    every = [None, "", "a", "~", "Success", *TaskInstanceState, *final]
    every += [changed for state in final for changed in (state + "a", state + " ", state[:-1], state.upper())]
    found = history.connection.execute(
        f"SELECT state FROM unnest(%(states)s::varchar[]) AS t(state) WHERE {condition}".encode(),
        {**states.STATES, "states": [None if state is None else str(state) for state in every]},
    )
    assert Counter(state for (state,) in found) == Counter(
        None if state is None else str(state) for state in every if state not in FINISHED_TASK_STATES
    )


def test_the_database_knows_when_it_plans_that_it_sorts_states_as_we_do(history: History) -> None:
    plan = history.connection.execute(
        f"EXPLAIN SELECT FROM task_instance t WHERE {states.UNFINISHED_STATE}".encode(), states.STATES
    )
    assert "ALL" not in str(plan.fetchall())


def test_many_unfinished_tasks_change_nothing_but_the_way_of_looking(database: Database, history: History) -> None:
    done, busy = history.run("a", 30), history.run("a", 31)
    for run in (done, busy):
        history.xcom(run, age_days=30)
    doomed = Doomed((Cut(days_ago(7)),), [done.dag_run_id, busy.dag_run_id], [0, 0])
    history.task(busy, "waiting", None)
    with database.store() as store:
        store.check(may_delete=True, reads_references=False)
        before = list(store.measure(doomed)), [r for r in store.runs() if isinstance(r, Run)]
        history.connection.execute(
            """INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, state, try_number, pool, pool_slots)
               SELECT gen_random_uuid(), 'mapped', %s, %s, i, CASE WHEN i %% 2 = 0 THEN 'scheduled' END, 1, 'p', 1
               FROM generate_series(0, 2100) i""",
            (busy.dag_id, busy.run_id),
        )
        store.check(may_delete=True, reads_references=False)
        assert list(store.measure(doomed)) == before[0]
        assert [r.unfinished_tasks for r in store.runs() if isinstance(r, Run)] == [0, 2102]
        assert store.delete(doomed).rows == 1
    assert history.left() == {("a", busy.run_id)}


# -- what changes while a batch waits ------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 5])
def test_a_value_that_is_pushed_again_while_the_delete_waits_for_its_row_stays(
    database: Database, history: History, limit: int | None
) -> None:
    run, other = history.run("a", 30), history.run("b", 1)
    for key in ("again", "old"):
        history.xcom(run, age_days=30, key=key)
    doomed = Doomed((Cut(days_ago(7)),), [run.dag_run_id], [0])
    # So many others that the rows are looked up by their place, which then is all that Postgres looks at again.
    history.connection.execute(
        """INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, state, try_number, pool, pool_slots)
           SELECT gen_random_uuid(), 't', %s, %s, i, 'success', 1, 'p', 1 FROM generate_series(0, 4999) i""",
        (other.dag_id, other.run_id),
    )
    history.connection.execute(
        """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
           SELECT %s, %s, %s, 't', i, 'k', '1', now() FROM generate_series(0, 4999) i""",
        (other.dag_run_id, other.dag_id, other.run_id),
    )
    history.connection.execute("ANALYZE xcom")
    with database.connect() as writer, database.store() as store:
        store.check(may_delete=True, reads_references=False)
        writer.execute("UPDATE xcom SET value = '2', timestamp = now() WHERE key = 'again'")
        thread = threading.Thread(target=store.delete, args=(doomed,), kwargs={"limit": limit})
        thread.start()
        while not _someone_waits(history):
            time.sleep(0.01)
        writer.commit()
        thread.join()
    assert {key for *_, key in history.rows()} == {"again", "k"}


def _someone_waits(history: History) -> bool:
    found = history.connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    assert found is not None
    return bool(found[0])


# -- the results of mapped tasks -----------------------------------------------------------


def _mapped(history: History, run: SeededRun, ages: Sequence[float], *, task_id: str = "m", key: str = "k") -> None:
    for map_index, age in enumerate(ages):
        history.xcom(run, map_index, age_days=age, task_id=task_id, key=key, map_index=map_index)


def _all_of(history: History, run: SeededRun) -> Counter[tuple[str, str]]:
    return Counter((task_id, key) for dag_id, _, task_id, _, key in history.rows() if dag_id == run.dag_id)


@pytest.mark.parametrize("limit", [None, 1, 3, 100])
@pytest.mark.parametrize("young", [0, 2, 4])
def test_no_row_of_a_mapped_task_goes_while_another_of_its_group_is_young(
    database: Database, history: History, young: int, limit: int | None
) -> None:
    run = history.run("a", 30)
    _mapped(history, run, [1 if index == young else 30 for index in range(5)])
    _mapped(history, run, [30] * 5, key="other key")
    _mapped(history, run, [30] * 3, task_id="z")
    history.xcom(run, age_days=30, task_id="plain")
    doomed = Doomed((Cut(days_ago(7)),), [run.dag_run_id], [0])
    with database.store() as store:
        [measured] = store.measure(doomed)
        assert (measured.rows, measured.younger_rows) == (9, 5)
        gone = 0
        while rows := store.delete(doomed, limit=limit).rows:
            gone += rows
    assert gone == 9
    assert _all_of(history, run) == {("m", "k"): 5}


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 8, 1000])
@pytest.mark.parametrize("fan_outs", [(5,), (2, 3), (1, 9, 1), (0, 4, 0)])
def test_no_limit_ever_cuts_the_group_of_a_mapped_task(
    database: Database, history: History, fan_outs: tuple[int, ...], limit: int
) -> None:
    """Each transaction takes whole groups, whatever stops the next one from coming."""
    run, kept = history.run("a", 30), history.run("b", 30)
    for number, fan_out in enumerate(fan_outs):
        for key in ("k", "return_value"):
            _mapped(history, run, [30] * fan_out, task_id=f"m{number}", key=key)
        history.xcom(run, age_days=30, task_id=f"m{number}", key="not mapped")
        _mapped(history, kept, [30] * fan_out, task_id=f"m{number}")
    before = _all_of(history, run)
    others = _all_of(history, kept)
    doomed = Doomed((Cut(days_ago(7)),), [run.dag_run_id], [0])
    largest = max(before.values())
    with database.store() as store:
        more = True
        while more:
            deleted = store.delete(doomed, limit=limit)
            more = deleted.more
            assert deleted.rows <= max(limit, largest)
            left = _all_of(history, run)
            assert all(left[group] in (0, before[group]) for group in before), left
    assert not _all_of(history, run)
    assert _all_of(history, kept) == others


def test_no_group_of_a_mapped_task_loses_rows_because_only_some_are_the_latest_of_their_key(
    database: Database, history: History
) -> None:
    """The older run had five instances, the newer one three: a pull of prior dates takes the last two of the older."""
    older, newer = history.run("a", 40), history.run("a", 30)
    _mapped(history, older, [40] * 5)
    _mapped(history, older, [40] * 2, key="other")
    _mapped(history, newer, [30] * 3)
    _mapped(history, newer, [30] * 2, key="other")
    doomed = Doomed((Cut(days_ago(7), keep_latest_value=True),), [older.dag_run_id, newer.dag_run_id], [0, 0])
    for limit in (None, 1):
        with database.store() as store:
            figures = {found.dag_run_id: (found.rows, found.latest_rows) for found in store.measure(doomed)}
            while store.delete(doomed, limit=limit).rows:
                pass
        assert figures[newer.dag_run_id] == (0, 5)
        # Of the older run one group stays as a whole, of the newer one both.
        assert _all_of(history, newer) == {("m", "k"): 5 + 3, ("m", "other"): 2}


def test_references_of_a_group_that_stays_are_not_said_to_go(database: Database, history: History) -> None:
    run = history.run("a", 30)
    base = BasePath.parse("s3://bucket/xcom", setting="blob_base_path")
    for key, young in (("stays", 1), ("goes", 30)):
        for map_index in range(3):
            uri = f"s3://bucket/xcom/a/{run.run_id}/m/{uuid.uuid4()}"
            age = young if map_index == 1 else 30
            history.xcom(run, uri, age_days=age, task_id="m", key=key, map_index=map_index)
    with database.store() as store:
        found = store.doomed_references(Doomed((Cut(days_ago(7)),), [run.dag_run_id], [0]), base)
        assert Counter(reference.xcom_key for reference in found) == {"goes": 3}


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("how", ["in place", "anew"])
def test_no_group_of_a_mapped_task_goes_of_which_a_row_is_pushed_while_the_delete_waits_for_it(
    database: Database, history: History, limit: int | None, how: str
) -> None:
    run, other = history.run("a", 30), history.run("b", 30)
    _mapped(history, run, [30] * 5)
    history.xcom(other, age_days=30)
    doomed = Doomed((Cut(days_ago(7)),), [run.dag_run_id, other.dag_run_id], [0, 0])
    with database.connect() as writer, database.store() as store:
        store.check(may_delete=True, reads_references=False)
        if how == "in place":
            writer.execute("UPDATE xcom SET value = '9', timestamp = now() WHERE map_index = 3")
        else:
            writer.execute("DELETE FROM xcom WHERE map_index = 3")
            writer.execute(
                """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
                   VALUES (%s, %s, %s, 'm', 3, 'k', '9', now())""",
                (run.dag_run_id, run.dag_id, run.run_id),
            )
        thread = threading.Thread(target=store.delete, args=(doomed,), kwargs={"limit": limit})
        thread.start()
        while not _someone_waits(history):
            time.sleep(0.01)
        writer.commit()
        thread.join()
        while store.delete(doomed, limit=limit).rows:
            pass
    assert _all_of(history, run) == {("m", "k"): 5}
    assert _all_of(history, other) == {}
