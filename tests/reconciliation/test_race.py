"""Reconciliations, one after the other, beside writers that push, push again, clear and delete: nothing live is lost.

The writers push through the stock backend, to paths of their own and to paths that a later push overwrites, in runs
that are marked as successful while they do. So neither the state of a run nor a grace period of days stands between a
sweep and what they write: only the order of writes, a grace period of seconds, and what is verified at each delete.
Where a store honours no condition at a delete, the time between the last look and the delete cannot be closed by
anybody; so there the writers that overwrite say that their run goes on before they do.
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.providers.common.io.xcom import backend as stock

from include.xcom_maintenance.blobs.s3.store import S3BlobStore
from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.core.blob_uri import BasePath
from local_stack.s3 import MotoS3, RcloneS3
from tests.conftest import Database
from tests.support.history import History, SeededRun
from tests.support.reconciliations import Reconciliation

pytestmark = pytest.mark.slow

SECONDS = 12.0
GRACE = timedelta(seconds=3)
#: A row follows its blob sooner than the grace period ends, or never: what takes longer died on the way.
SLOWEST = timedelta(seconds=1)
#: From a clear to the first push, the time that a scheduler takes at least. Where a store honours no condition, the
#: unfinished run is what keeps a sweep away from a path that is about to be overwritten.
SCHEDULING = 1.0
SLOTS = 6

_UPSERT = """
INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
SELECT %s, %s, %s, 't', -1, %s, %s::jsonb, now() WHERE clock_timestamp() < to_timestamp(%s)
ON CONFLICT (dag_run_id, task_id, map_index, key) DO UPDATE SET value = EXCLUDED.value, timestamp = EXCLUDED.timestamp
RETURNING 1"""


class Writer(threading.Thread):
    """The tasks of one run, and what they have committed."""

    def __init__(self, database: Database, run: SeededRun, round_: Callable[[Writer], None]) -> None:
        super().__init__()
        self._database, self.run_, self._round = database, run, round_
        self.stop = threading.Event()
        self.chance = random.Random(run.run_id)
        #: By XCom key.
        self.values: dict[str, str] = {}
        self.done: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self._database.connect(autocommit=True) as self.connection:
                while not self.stop.is_set():
                    self._round(self)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def commit(self, key: str, reference: str, value: str, begun: float) -> None:
        place = (self.run_.dag_run_id, self.run_.dag_id, self.run_.run_id, key, json.dumps(reference))
        if self.connection.execute(_UPSERT, (*place, begun + SLOWEST.total_seconds())).fetchone():
            self.values[key] = value
            self.done["pushed"] += 1

    def delete_row(self, key: str) -> None:
        self.values.pop(key, None)
        self.connection.execute("DELETE FROM xcom WHERE dag_run_id = %s AND key = %s", (self.run_.dag_run_id, key))

    def state(self, state: str) -> None:
        self.connection.execute("UPDATE dag_run SET state = %s WHERE id = %s", (state, self.run_.dag_run_id))


def push_anew(writer: Writer) -> None:
    """To a path of its own each time: what the same key had before is an orphan, and so is what a crash leaves."""
    run, key, value, begun = writer.run_, f"k{writer.chance.randrange(SLOTS)}", uuid.uuid4().hex, time.time()
    place = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": "t", "map_index": -1}
    reference = stock.XComObjectStorageBackend.serialize_value(value, key=key, **place)  # type: ignore[arg-type]
    # Some rows follow so late that nothing but the grace period lets their blobs wait for them.
    time.sleep(writer.chance.random() * (SLOWEST.total_seconds() if writer.chance.random() < 0.2 else 0.05))
    if writer.chance.random() < 0.1:
        return
    writer.commit(key, str(reference), value, begun)
    if writer.chance.random() < 0.1:
        writer.delete_row(key)


def overwriting(scheduling: float) -> Callable[[Writer], None]:
    """Pushes to the same paths again and again; in between their rows go, and the blobs become orphans.

    :param scheduling: seconds for which a run is seen to be unfinished before it pushes; 0: it never is.
    """

    def push_over(writer: Writer) -> None:
        run = writer.run_
        keys = writer.chance.sample([f"k{slot}" for slot in range(SLOTS)], SLOTS // 2)
        if scheduling:
            writer.state("running")
            time.sleep(scheduling)
        for key in keys:
            value, begun = uuid.uuid4().hex, time.time()
            folder = f"{run.dag_id}/{run.run_id}/t/ti-{uuid.uuid5(uuid.NAMESPACE_OID, run.run_id + key)}"
            try:
                path = stock.XComObjectStorageBackend._write_large_value(  # what ``store_value`` does on Airflow 3.4
                    value, lambda suffix, folder=folder: stock._get_base_path() / folder / f"return_value.json{suffix}"
                )
            except FileExistsError:  # s3fs looks for a folder and then makes it, while blobs below it come and go
                continue
            # Some rows follow so late that nothing but the version of the blob lets a sweep leave it alone.
            time.sleep(writer.chance.random() * SLOWEST.total_seconds() if writer.chance.random() < 0.5 else 0)
            if key in writer.values:
                writer.values[key] = value  # the row that is there means the new content from now on
            writer.commit(key, str(path), value, begun)
        if scheduling:
            writer.state("success")
        for key in keys:
            if writer.chance.random() < 0.6:
                writer.delete_row(key)
        # For so long, at times, that the blobs left behind are taken for orphans: then they are written again.
        time.sleep(writer.chance.choice([0.05, 1.5 * GRACE.total_seconds()]))

    return push_over


@pytest.fixture(params=["rclone", "moto"])
def server(request: pytest.FixtureRequest) -> RcloneS3 | MotoS3:
    found: RcloneS3 | MotoS3 = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def bucket(server: RcloneS3 | MotoS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of the test's own, which the stock backend is configured for."""
    name = f"race-{uuid.uuid4().hex[:8]}"
    server.client().create_bucket(Bucket=name)
    # Airflow keeps the file system of a connection, so each bucket has one with an id of its own.
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.replace('-', '_').upper()}", server.airflow_connection_json())
    monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH", f"s3://{name.replace('-', '_')}@{name}/xcom")
    monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD", "1")
    cached = (stock._get_base_path, stock._get_threshold, stock._get_compression)
    for function in cached:
        function.cache_clear()
    yield name
    for function in cached:
        function.cache_clear()


def rows(connection: psycopg.Connection[Any]) -> dict[tuple[int, str], str]:
    found = connection.execute("SELECT dag_run_id, key, value #>> '{}' FROM xcom").fetchall()
    return {(dag_run_id, key): reference for dag_run_id, key, reference in found}


def test_no_live_blob_is_lost_beside_writers_that_push_anew_and_overwrite(
    database: Database,
    history: History,
    server: RcloneS3 | MotoS3,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Settings, "grace_period", property(lambda _: GRACE))  # the floor is a day
    base = BasePath.parse(f"s3://{bucket}/xcom", setting="blob_base_path")
    client = server.client()
    blobs, quarantine = (S3BlobStore(client, place, setting="blob_base_path") for place in (base, base.quarantine))

    def reconcile(disposal: str) -> Any:
        settings = Settings(
            mode="enforce",
            disposal=disposal,
            max_orphan_share=1,
            max_reference_shrink=1,
            delete_without_conditions=True,
        )
        report = Reconciliation(database.store, tmp_path, settings, blobs, quarantine).run()
        assert report.status == "enforced"
        return report.headline

    push_over = overwriting(0 if blobs.honours_conditions() else SCHEDULING)
    rounds = [push_anew, push_anew, *[push_over] * 6]
    writers = [Writer(database, history.run("busy", n / 100), round_) for n, round_ in enumerate(rounds)]
    for writer in writers:
        writer.start()
    totals: Counter[str] = Counter()
    deadline = time.monotonic() + SECONDS
    try:
        while not all(writer.done["pushed"] for writer in writers) and time.monotonic() < deadline:
            time.sleep(0.01)
        both = ("orphans_quarantined", "orphans_deleted")
        while time.monotonic() < deadline + (0 if all(totals[name] for name in both) else SECONDS):
            totals["runs"] += 1
            headline = reconcile("quarantine" if totals["runs"] % 2 else "delete")
            for name in ("orphans_quarantined", "orphans_deleted", "dangling_references"):
                totals[name] += headline[name]
    finally:
        for writer in writers:
            writer.stop.set()
        for writer in writers:
            writer.join()
    assert [writer.error for writer in writers] == [None] * len(writers)
    assert all(writer.done["pushed"] >= SLOTS // 2 for writer in writers), [writer.done for writer in writers]
    assert totals["orphans_quarantined"] > 0, totals
    assert totals["orphans_deleted"] > 0, totals
    assert totals["dangling_references"] == 0

    time.sleep(GRACE.total_seconds() + 1)
    reconcile("delete")
    left = rows(history.connection)
    values = {(writer.run_.dag_run_id, key): value for writer in writers for key, value in writer.values.items()}
    assert set(left) == set(values)
    for place, reference in left.items():
        key = "xcom/" + reference.split("/xcom/", 1)[1]
        assert json.loads(client.get_object(Bucket=bucket, Key=key)["Body"].read()) == values[place]
        assert stock.XComObjectStorageBackend.deserialize_value(SimpleNamespace(value=reference)) == values[place]
    # And nothing that is dead is kept.
    stored = {item.key for item in blobs.list() if not item.key.startswith(".")}
    assert stored == {reference.split("/xcom/", 1)[1] for reference in left.values()}
