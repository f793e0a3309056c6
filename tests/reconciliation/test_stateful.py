"""Writers, clears, deletions, ``db clean``, crashes and the clock, in any order, while reconciliation starts, is killed
at any point, and starts again: nothing that a row refers to is ever touched, and in the end no orphan is left.

Steps come between the phases of a reconciliation and, as ``meanwhile``, in the middle of one. Everything but the time
of day is the same whenever an example is run again, names too, for else hypothesis could make no example smaller.

``XCOM_STATEFUL_EXAMPLES`` and ``XCOM_STATEFUL_STEPS`` ask for more than the default.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from include.xcom_maintenance.reports import html
from include.xcom_maintenance.reports.place import ReportPlace
from tests.conftest import Database
from tests.support.history import insert_dag
from tests.support.interruptions import Killed, interrupted_at, killed_at
from tests.support.reconciliations import PHASES, Reconciliation

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("XCOM_STATEFUL_EXAMPLES", "30"))
STEPS = int(os.environ.get("XCOM_STATEFUL_STEPS", "100"))
GRACE = timedelta(days=2)
#: A row follows its blob within the grace period: what is slower is a crash.
SLOWEST = timedelta(days=1)
CALLS: list[tuple[type, str]] = [
    *((PostgresMetadataStore, name) for name in ("referenced", "unfinished_runs", "now")),
    *((FileBlobStore, name) for name in ("copy_to", "_delete", "put", "head")),
    *((ReportPlace, name) for name in ("write", "write_part", "write_manifest")),
]
#: Where writers may come in between: not between the last look at a file and its deletion, which nobody can close.
MOMENTS: list[tuple[type, str]] = [
    *((PostgresMetadataStore, name) for name in ("referenced", "unfinished_runs", "now")),
    *((FileBlobStore, name) for name in ("copy_to", "head")),
]
QUARANTINE_DAYS = timedelta(days=5)
REFERENCE = re.compile(r"file://[^\"\s,]*/blobs/([^\"\s,]+)")


def _files(folder: Path) -> set[str]:
    start = len(str(folder)) + 1
    return {os.path.join(where, name)[start:] for where, _, names in os.walk(folder) for name in names}


class World:
    """A database and a folder, used again by every example."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder
        self.base, self.quarantine = folder / "blobs", folder / "blobs-quarantine"
        self.connection = database.connect(autocommit=True)
        #: One for all tasks: to connect and to check anew takes longer than most of them.
        self.metadata = database.store()
        self.identity = self.metadata.check(may_delete=False, reads_references=True)
        base = BasePath.parse(f"file://{self.base}", setting="blob_base_path")
        self.blobs = FileBlobStore(base, setting="blob_base_path")
        self.kept_aside = FileBlobStore(base.quarantine, setting="blob_base_path", may_be_missing=True)
        self.ahead = timedelta(0)
        self.dice = random.Random(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def reset(self) -> None:
        for path in (self.base, self.quarantine, self.folder / "reports"):
            shutil.rmtree(path, ignore_errors=True)
        self.base.mkdir()
        for name in self.archives():
            self.connection.execute(f"DROP TABLE {name}")  # type: ignore[arg-type]
        self.connection.execute("DELETE FROM xcom; DELETE FROM task_instance; DELETE FROM dag_run")
        self.ahead = timedelta(0)
        self.dice = random.Random(0)

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=self.dice.getrandbits(128), version=4)

    def archives(self) -> list[str]:
        found = self.connection.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE '\\_airflow\\_deleted\\_\\_xcom%'"
        )
        return sorted(name for (name,) in found.fetchall())

    def referenced(self) -> set[str]:
        """The blobs that committed rows refer to, archived ones among them."""
        tables = " UNION ALL ".join(f"SELECT value::text FROM {name}" for name in ("xcom", *self.archives()))
        values = self.connection.execute(tables).fetchall()  # type: ignore[arg-type]
        return {key for (text,) in values for key in REFERENCE.findall(text)}

    def present(self) -> set[str]:
        return {key for key in _files(self.base) if not key.startswith(".")}

    def in_quarantine(self) -> set[str]:
        return _files(self.quarantine)

    def write(self, key: str) -> None:
        path = self.base / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.uuid4().hex)
        os.utime(path, (self.now().timestamp(),) * 2)


class Machine(RuleBasedStateMachine):
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, int] = {}
        #: Blobs whose rows are on their way: run, XCom key, blob, when it was written.
        self.pending: list[tuple[str, str, str, datetime]] = []
        self.reconciliation: Reconciliation | None = None
        self.phase = 0
        #: Runs that somebody marked as successful while their tasks go on. Only the age of what these push, and that it
        #: has changed, stands between it and a sweep.
        self.marked: set[str] = set()
        #: What is in quarantine, and since when.
        self.quarantined: dict[str, datetime] = {}

    def sql(self, statement: str, *parameters: Any) -> Any:
        return self.world.connection.execute(statement, parameters)  # type: ignore[arg-type]

    @initialize()
    def begin(self) -> None:
        self.world.reset()
        self.new_run()
        [self.first] = self.runs
        # A blob in use, so that the base path is never without references; its run is not touched again.
        self.push_blob(self.first, "stock", "k1")
        self.commit(0)
        # And two that only a look at all values keeps: one was handed on as a part of a longer text, and its row is no
        # more; one lies in an archive alone.
        self.new_run()
        source = list(self.runs)[-1]
        for key in ("k1", "k2"):
            self.push_blob(source, "stock", key)
            self.commit(0)
        [(text,)] = self.sql("SELECT value #>> '{}' FROM xcom WHERE run_id = %s AND key = 'k1'", source).fetchall()
        self.write_row(self.first, "handed on", {"from": [f"--in={text},x"]})
        self.sql(
            f"CREATE TABLE _airflow_deleted__xcom__0 AS SELECT * FROM xcom WHERE run_id = '{source}' AND key = 'k2'"
        )
        self.sql("DELETE FROM xcom WHERE run_id = %s", source)
        self.end_run(source)
        self.end_run(self.first)
        del self.runs[self.first], self.runs[source]
        for kind in ("stock", "overwriting"):
            self.new_run()
            run_id = list(self.runs)[-1]
            self.push_blob(run_id, kind, "k1")
            self.commit(0)

    # -- Airflow ----------------------------------------------------------------------------

    @rule()
    def new_run(self) -> None:
        run_id = f"r{self.world.uuid4().hex[:6]}"
        self.sql("INSERT INTO dag_bundle (name) VALUES ('tests') ON CONFLICT DO NOTHING")
        insert_dag(self.world.connection, "d")
        [(number,)] = self.sql(
            """INSERT INTO dag_run (dag_id, run_id, run_type, state, run_after)
               VALUES ('d', %s, 'manual', 'running', %s) RETURNING id""",
            run_id,
            self.world.now(),
        ).fetchall()
        self.sql(
            """INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, state, try_number, pool, pool_slots)
               VALUES (%s, 't', 'd', %s, -1, 'running', 1, 'default_pool', 1)""",
            self.world.uuid4(),
            run_id,
        )
        self.runs[run_id] = number

    def _some(self, runs: Any) -> list[str]:
        return sorted(runs)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), kind=st.sampled_from(["stock", "gzip", "overwriting"]), key=st.sampled_from(["k1", "k2"]))
    def push(self, data: st.DataObject, kind: str, key: str) -> None:
        run_id = data.draw(st.sampled_from(self._some(self.runs)))
        if self.may_write(run_id):
            self.push_blob(run_id, kind, key)

    def may_write(self, run_id: str) -> bool:
        return run_id in self.runs and (run_id in self.marked or self.state_of(run_id) == "running")

    def push_blob(self, run_id: str, kind: str, key: str) -> None:
        blob = (
            f"d/{run_id}/t/"
            + {
                "stock": f"{self.world.uuid4()}",
                "gzip": f"{self.world.uuid4()}.gz",
                "overwriting": f"ti-{uuid.uuid5(uuid.NAMESPACE_DNS, run_id)}/{key}.json",
            }[kind]
        )
        self.world.write(blob)
        self.pending.append((run_id, key, blob, self.world.now()))

    def state_of(self, run_id: str) -> str:
        [(state,)] = self.sql("SELECT state FROM dag_run WHERE run_id = %s", run_id).fetchall()
        return str(state)

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def push_row(self, data: st.DataObject) -> None:
        self.commit(data.draw(st.integers(0, len(self.pending) - 1)))

    def commit(self, position: int) -> None:
        run_id, key, blob, _ = self.pending.pop(position)
        self.write_row(run_id, key, f"file://{self.world.base}/{blob}")

    def write_row(self, run_id: str, key: str, value: object) -> None:
        if self.may_write(run_id):
            self.sql(
                """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
                   VALUES (%s, 'd', %s, 't', -1, %s, %s::jsonb, %s)
                   ON CONFLICT (dag_run_id, task_id, map_index, key) DO UPDATE SET value = excluded.value""",
                self.runs[run_id],
                run_id,
                key,
                json.dumps(value),
                self.world.now(),
            )

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def crash_between_blob_and_row(self, data: st.DataObject) -> None:
        self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def forward(self, data: st.DataObject) -> None:
        """A task hands on a reference that it was given, inside a value of its own."""
        run_id = data.draw(st.sampled_from(self._some(self.runs)))
        self.hand_on(run_id, lambda found: data.draw(st.sampled_from(found)))

    def hand_on(self, run_id: str, chosen: Callable[[list[str]], str]) -> None:
        found = self.sql("SELECT value #>> '{}' FROM xcom WHERE jsonb_typeof(value) = 'string' ORDER BY 1").fetchall()
        if found:
            self.write_row(run_id, "handed on", {"from": [f"--in={chosen([text for (text,) in found])},x"]})

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        """A value means a blob that no row refers to any more: a task was given it earlier, and comes to it now."""
        able = [run_id for run_id in self._some(self.runs) if self.may_write(run_id)]
        meant_by_none = sorted(self.world.present() - self.world.referenced())
        if able and meant_by_none:
            blob = data.draw(st.sampled_from(meant_by_none))
            self.write_row(able[-1], "recalled", {"from": [f"--in=file://{self.world.base}/{blob},x"]})

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def finish_run(self, data: st.DataObject) -> None:
        self.end_run(data.draw(st.sampled_from(self._some(self.runs))))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def mark_run(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self._some(self.runs)))
        self.marked.add(run_id)
        self.succeed(run_id)

    def end_run(self, run_id: str) -> None:
        self.marked.discard(run_id)
        for position in reversed([i for i, (run, *_) in enumerate(self.pending) if run == run_id]):
            self.pending.pop(position)
        self.succeed(run_id)

    def succeed(self, run_id: str) -> None:
        self.sql("UPDATE task_instance SET state = 'success' WHERE run_id = %s", run_id)
        self.sql("UPDATE dag_run SET state = 'success' WHERE run_id = %s", run_id)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def clear_run(self, data: st.DataObject) -> None:
        self.clear(data.draw(st.sampled_from(self._some(self.runs))))

    def clear(self, run_id: str) -> None:
        self.marked.discard(run_id)
        self.sql("UPDATE dag_run SET state = 'running' WHERE run_id = %s", run_id)
        self.sql("DELETE FROM xcom WHERE run_id = %s", run_id)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def delete_run(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self._some(self.runs)))
        self.end_run(run_id)
        self.sql("DELETE FROM task_instance WHERE run_id = %s", run_id)
        self.sql("DELETE FROM dag_run WHERE id = %s", self.runs.pop(run_id))

    # -- airflow db clean ---------------------------------------------------------------------

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), archives=st.booleans())
    def db_clean(self, data: st.DataObject, archives: bool) -> None:
        self.clean(data.draw(st.sampled_from(self._some(self.runs))), archives=archives)

    def clean(self, run_id: str, *, archives: bool) -> None:
        with self.world.connection.transaction():
            if archives:
                name = f"_airflow_deleted__xcom__{self.world.uuid4().hex[:8]}"
                self.sql(f"CREATE TABLE {name} AS SELECT * FROM xcom WHERE run_id = '{run_id}'")
            self.sql("DELETE FROM xcom WHERE run_id = %s", run_id)

    @precondition(lambda self: hasattr(self, "first") and self.world.archives())
    @rule(data=st.data(), puts_back=st.booleans())
    def archive_goes(self, data: st.DataObject, puts_back: bool) -> None:
        names = self.world.archives()
        name = data.draw(st.integers(0, len(names) - 1))
        with self.world.connection.transaction():
            if puts_back:
                self.sql(
                    f"""INSERT INTO xcom SELECT a.* FROM {names[name]} a JOIN dag_run r ON r.id = a.dag_run_id
                        ON CONFLICT DO NOTHING"""
                )
            self.sql(f"DROP TABLE {names[name]}")

    # -- time -----------------------------------------------------------------------------------

    @rule(hours=st.sampled_from([6, 60, 60, 24 * 8]))
    def move_clock(self, hours: int) -> None:
        self.world.ahead += timedelta(hours=hours)
        self.pending = [push for push in self.pending if self.world.now() - push[3] < SLOWEST]

    # -- reconciliation ---------------------------------------------------------------------------

    def _reconciliation(self, mode: str, disposal: str, shard_blobs: int) -> Reconciliation:
        world = self.world
        limits = {"max_orphan_share": 1, "max_reference_shrink": 1, "max_manifest_age_days": 30}
        return Reconciliation(
            lambda: nullcontext(world.metadata),
            world.folder / "reports",
            Settings(
                mode=mode,
                disposal=disposal,
                grace_period_days=GRACE / timedelta(days=1),
                quarantine_days=QUARANTINE_DAYS / timedelta(days=1),
                shard_blobs=shard_blobs,
                **limits,
            ),
            world.blobs,
            world.kept_aside,
            mode,
            identity=world.identity,
        )

    @rule(
        mode=st.sampled_from(["enforce", "enforce", "report"]),
        disposal=st.sampled_from(["quarantine", "delete"]),
        shard_blobs=st.sampled_from([2, 100]),
        until=st.sampled_from(["plan", "decide", "share_out", "finish"]),
        kill=st.one_of(st.none(), st.integers(1, 60)),
    )
    def reconciliation_starts(self, mode: str, disposal: str, shard_blobs: int, until: str, kill: int | None) -> None:
        """Whatever became of the one before."""
        self.reconciliation, self.phase = self._reconciliation(mode, disposal, shard_blobs), 0
        self.reconciliation_goes_on(until, kill)

    @precondition(lambda self: self.reconciliation is not None)
    @rule(until=st.sampled_from(["decide", "share_out", "finish"]), kill=st.one_of(st.none(), st.integers(1, 60)))
    def reconciliation_is_taken_up(self, until: str, kill: int | None) -> None:
        self.reconciliation_goes_on(until, kill)

    def reconciliation_goes_on(self, until: str, kill: int | None) -> None:
        """Some phases; one that was killed is tried again by the next step, or another run starts."""
        with killed_at(kill or 0, CALLS):
            self.go_on(until)

    @precondition(lambda self: self.reconciliation is not None and self.runs)
    @rule(
        data=st.data(),
        until=st.sampled_from(["decide", "finish", "finish"]),
        call=st.sampled_from(MOMENTS),
        moment=st.integers(1, 8),
        what=st.lists(
            st.sampled_from(["push_row", "push_again", "push_again", "forward", "db_clean", "finish_run"]), min_size=1
        ),
    )
    def meanwhile(self, data: st.DataObject, until: str, call: tuple[type, str], moment: int, what: list[str]) -> None:
        """Some phases, and in the middle of one of them what writers do."""
        run_id = data.draw(st.sampled_from(self._some(self.runs)))
        steps: dict[str, Callable[[], object]] = {
            "push_row": lambda: self.pending and self.commit(len(self.pending) - 1),
            "push_again": lambda: self.push_again(run_id),
            "forward": lambda: self.hand_on(run_id, lambda found: found[-1]),
            "db_clean": lambda: self.clean(run_id, archives=True),
            "finish_run": lambda: self.end_run(run_id),
        }
        with interrupted_at(moment, [call], lambda: [steps[name]() for name in what]):
            self.go_on(until)

    def push_again(self, run_id: str) -> None:
        if not self.may_write(run_id):
            self.clear(run_id)
        self.push_blob(run_id, "overwriting", "k1")

    def go_on(self, until: str) -> None:
        assert self.reconciliation is not None
        phases = PHASES if self.reconciliation.mode == "enforce" else PHASES[:3]
        while self.phase < len(phases) and self.phase <= PHASES.index(until):
            try:
                getattr(self.reconciliation, phases[self.phase])()
            except Killed:
                return
            self.phase += 1
        if self.phase == len(phases):
            self.reconciliation = None

    # -- what must hold ---------------------------------------------------------------------------

    @invariant()
    def no_blob_that_a_row_refers_to_or_is_about_to_is_gone(self) -> None:
        wanted = self.world.referenced() | {blob for _, _, blob, _ in self.pending}
        assert wanted - self.world.present() == set()

    @invariant()
    def no_blob_leaves_the_quarantine_before_its_time(self) -> None:
        now, there = self.world.now(), self.world.in_quarantine()
        present = self.world.present() if self.quarantined.keys() - there else set()
        for key, since in self.quarantined.items():
            assert key in there or now - since >= QUARANTINE_DAYS or key.partition("/")[2] in present
        self.quarantined = {key: self.quarantined.get(key, now) for key in there}

    def teardown(self) -> None:
        if not hasattr(self, "first"):
            return
        for run_id in list(self.runs):
            self.end_run(run_id)
        self.world.ahead += timedelta(days=10)
        report = self._reconciliation("enforce", "delete", 3).run()
        assert report.status == "enforced"
        assert self.world.present() == self.world.referenced()
        assert {key.partition("/")[2] for key in self.world.in_quarantine()} <= self.world.referenced()


def test_nothing_that_a_row_refers_to_is_ever_touched_and_in_the_end_no_orphan_is_left(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database, tmp_path)
    now = PostgresMetadataStore.now
    monkeypatch.setattr(PostgresMetadataStore, "now", lambda self: now(self) + world.ahead)
    monkeypatch.setattr(html, "render", lambda _: "")  # a third of the time
    copy_to = FileBlobStore.copy_to

    def copied_now(store: FileBlobStore, blob: Blob, *, target: BasePath, key: str) -> bool:
        """What is copied is as old as the clock says, which moves faster than that of the file system."""
        done = copy_to(store, blob, target=target, key=key)
        if done:
            os.utime(
                (world.quarantine if target == world.kept_aside.base else world.base) / key,
                (world.now().timestamp(),) * 2,
            )
        return done

    monkeypatch.setattr(FileBlobStore, "copy_to", copied_now)

    class MachineHere(Machine):
        pass

    MachineHere.world = world
    try:
        run_state_machine_as_test(
            MachineHere,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except psycopg.Error as error:  # pragma: no cover - of the test itself
        raise AssertionError(str(error)) from error
    finally:
        world.connection.close()
