"""What is deleted is written down, whatever becomes of the task that deletes it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import SharesFailed
from include.xcom_maintenance.core.records import Blob
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.sweep import ledger, sweep
from include.xcom_maintenance.sweep.ledger import Ledger
from local_stack.s3 import RcloneS3
from tests.conftest import Database
from tests.support.history import History, days_ago
from tests.support.interruptions import run_until_killed
from tests.support.reconciliations import Reconciliation

pytestmark = pytest.mark.slow

ORPHANS = 10
#: Blobs of a batch, and lines of a list: so few that a kill comes in the middle of several of both.
BATCH, LINES = 2, 3


def orphan(base: Path) -> str:
    path = base / "a" / "gone" / "t" / str(uuid.uuid4())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("xyz")
    os.utime(path, (days_ago(30).timestamp(),) * 2)
    return str(path.relative_to(base))


def the_run(store: Callable[[], PostgresMetadataStore], folder: Path, reports: str, disposal: str) -> Reconciliation:
    base = BasePath.parse(f"file://{folder}/blobs", setting="blob_base_path")
    settings = Settings(mode="enforce", disposal=disposal, max_orphan_share=1, quarantine_days=1)
    return Reconciliation(
        store,
        reports,
        settings,
        FileBlobStore(base, setting="blob_base_path"),
        FileBlobStore(base.quarantine, setting="blob_base_path", may_be_missing=True),
        run_id="the_run",
        plan_id="1" * 32,
    )


SCRIPT = """
import os, signal, sys, psycopg
from pathlib import Path
from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from tests.sweep import test_ledger as t
from tests.support.interruptions import interrupted_at

conninfo, folder, reports, disposal, phase, moment = sys.argv[1:]
t.sweep._BATCH, t.ledger.LINES = t.BATCH, t.LINES

def store():
    return PostgresMetadataStore(
        lambda: psycopg.connect(conninfo), setting="x", lock_timeout=5, statement_timeout=60)

run = t.the_run(store, Path(folder), reports, disposal)
run.shards = [{"shard": 1, "first": 0, "last": t.ORPHANS - 1}] if phase == "sweep" else []
run.report.headline = {"orphan_blobs": t.ORPHANS, "dangling_references": 0}
with interrupted_at(int(moment), [(FileBlobStore, "_delete")], lambda: os.kill(os.getpid(), signal.SIGKILL)):
    getattr(run, phase)()
"""


class Deployment:
    def __init__(self, database: Database, folder: Path, reports: str) -> None:
        self.database, self.folder, self.reports = database, folder, reports
        self.base = folder / "blobs"

    def run(self, disposal: str) -> Reconciliation:
        return the_run(self.database.store, self.folder, self.reports, disposal)

    def killed(self, phase: str, disposal: str, moment: int) -> None:
        url = self.database.server.url(self.database.name)
        run_until_killed(SCRIPT, url, self.folder, self.reports, disposal, phase, moment)

    @property
    def place(self) -> ReportPlace:
        from airflow.sdk import ObjectStoragePath

        return ReportPlace(ObjectStoragePath(self.reports), "xcom_orphan_reconciliation", "the_run")

    def files(self, part: str, kind: str) -> list[str]:
        """The names of a part's lists, or of what was to be deleted."""
        start = f"{self.place.file('').name}.{part}.{kind}-"
        names = sorted(name for name in self.place._names() if name.startswith(start))
        return [name.removeprefix(f"{self.place.file('').name}.").removesuffix(".jsonl.gz") for name in names]

    def lines(self, part: str, kind: str) -> list[dict[str, Any]]:
        found = []
        for name in self.files(part, kind):
            header, *lines = self.place.read_lines(name)
            assert header["run_id"] == "the_run"
            found += lines
        return found


@pytest.fixture(params=["on a disk", "in a bucket"])
def deployment(
    request: pytest.FixtureRequest,
    database: Database,
    history: History,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Deployment:
    monkeypatch.setattr(sweep, "_BATCH", BATCH)
    monkeypatch.setattr(ledger, "LINES", LINES)
    reports = f"file://{tmp_path}/reports"
    if request.param == "in a bucket":
        server: RcloneS3 = request.getfixturevalue("rclone")
        name = f"reports-{uuid.uuid4().hex[:8]}"
        server.client().create_bucket(Bucket=name)
        conn_id = name.replace("-", "_")
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", server.airflow_connection_json())
        reports = f"s3://{conn_id}@{name}/reports"
    found = Deployment(database, tmp_path, reports)
    live = orphan(found.base)
    history.xcom(history.run("a", 1), f"file://{found.base}/{live}", age_days=1)
    return found


@pytest.mark.parametrize("disposal", ["delete", "quarantine"])
def test_what_a_killed_task_deleted_is_on_record_at_once_and_counted_by_the_next_attempt(
    deployment: Deployment, disposal: str
) -> None:
    orphans = {orphan(deployment.base) for _ in range(ORPHANS)}
    run = deployment.run(disposal)
    for phase in ("plan", "find", "decide", "share_out"):
        getattr(run, phase)()
    assert len(run.shards) == 1
    kind = "deleted" if disposal == "delete" else "quarantined"

    moment = 14  # the seventh is gone, and nobody has been told
    deployment.killed("sweep", disposal, moment)
    gone = {key for key in orphans if not (deployment.base / key).exists()}
    assert len(gone) == moment / 2
    assert deployment.files("shard-1", "deleting")
    # On record is each of them; and what is more is to be seen where it was.
    recorded = deployment.lines("shard-1", "deleting")
    recorded += [line for line in _whole(deployment, "shard-1") if line["key"] not in {r["key"] for r in recorded}]
    assert gone <= {line["key"] for line in recorded} <= orphans
    assert {(line["kind"], line["bytes"], line["reason"]) for line in recorded} == {(kind, 3, "no row refers to it")}

    deployment.killed("sweep", disposal, 4)  # the next attempt has no luck either
    run.sweep()
    figures = deployment.place.read_part("shard-1")
    assert figures is not None
    assert (figures[f"orphans_{kind}"], figures[f"orphan_bytes_{kind}"]) == (ORPHANS, 3 * ORPHANS)
    listed = deployment.lines("shard-1", "deleted")
    assert sorted(line["key"] for line in listed) == sorted(orphans)
    assert deployment.files("shard-1", "deleting") == []
    run.finish()
    assert run.report.headline[f"orphans_{kind}"] == ORPHANS


def _whole(deployment: Deployment, part: str) -> Iterator[dict[str, Any]]:
    for name in deployment.files(part, "deleted"):
        try:
            yield from list(deployment.place.read_lines(name))[1:]
        except Exception:  # noqa: BLE001 - it is what the kill has cut short
            continue


def test_what_a_task_deleted_that_is_not_tried_again_is_counted_in_the_end(deployment: Deployment) -> None:
    orphans = {orphan(deployment.base) for _ in range(ORPHANS)}
    run = deployment.run("delete")
    for phase in ("plan", "find", "decide", "share_out"):
        getattr(run, phase)()
    deployment.killed("sweep", "delete", 9)
    with pytest.raises(SharesFailed, match="killed"):
        run.finish()
    gone = {key for key in orphans if not (deployment.base / key).exists()}
    assert len(gone) == 4
    assert run.report.headline["orphans_deleted"] == 4
    assert {line["key"] for line in deployment.lines("shard-1", "deleted")} == gone
    # And once it is cleared, nothing is counted twice.
    run.sweep()
    run.finish()
    assert run.report.headline["orphans_deleted"] == ORPHANS


def test_what_was_purged_by_a_task_that_was_killed_is_on_record_and_counted(
    deployment: Deployment,
) -> None:
    orphans = {orphan(deployment.base) for _ in range(ORPHANS)}
    earlier = deployment.run("quarantine")
    earlier.run_id = earlier.report.run_id = "earlier"
    earlier.report.plan_id = "2" * 32
    earlier.run()
    quarantine = deployment.base.with_name("blobs-quarantine")
    for folder in list(quarantine.iterdir()):
        folder.rename(folder.with_name(f"{days_ago(3):%Y%m%dT%H%M%SZ}-{folder.name[-8:]}"))
    for path in quarantine.rglob("*"):
        os.utime(path, (days_ago(3).timestamp(),) * 2)
    run = deployment.run("quarantine")
    for phase in ("plan", "find", "decide", "share_out", "sweep"):
        getattr(run, phase)()
    assert run.shards == []
    deployment.killed("finish", "quarantine", 9)
    run.finish()
    assert run.report.headline["quarantined_blobs_deleted"] == ORPHANS
    listed = deployment.lines("purge", "deleted")
    assert sorted(line["key"].partition("/")[2] for line in listed) == sorted(orphans)


# -- the lists themselves --------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> ReportPlace:
    from airflow.sdk import ObjectStoragePath

    found = ReportPlace(ObjectStoragePath(f"file://{tmp_path}"), "dag", "run")
    found.drop_parts("shard")  # makes the folder
    return found


def a_ledger(place: ReportPlace, there: dict[str, Blob], plan_id: str = "p") -> Ledger:
    return Ledger(
        place,
        "part",
        header={"kind": "ledger", "plan_id": plan_id},
        line=lambda blob: {"kind": "deleted", "key": blob.key, "bytes": blob.size, "version": blob.version},
        look=lambda keys: iter([there[key] for key in keys if key in there]),
    )


def some(*keys: str) -> list[Blob]:
    return [Blob(key, 1, None, "v") for key in keys]


def test_an_attempt_that_broke_off_in_an_error_is_counted_by_what_is_gone(place: ReportPlace) -> None:
    there = {blob.key: blob for blob in some("kept", "untold", "told")}
    with pytest.raises(psycopg.OperationalError), a_ledger(place, there) as first:  # noqa: PT012
        first.intend(there.values())
        first.add(there.pop("told"))
        del there["untold"]
        raise psycopg.OperationalError
    assert first.blobs["deleted"] == 1
    with a_ledger(place, there) as second:
        assert second.blobs["deleted"] == 2
        assert second.goes_on
    _, *lines = place.read_lines("part.deleted-1")
    assert {line["key"] for line in lines} == {"untold", "told"}
    with a_ledger(place, {}) as third:
        assert third.blobs["deleted"] == 2


def test_what_an_earlier_plan_of_the_run_deleted_is_not_counted_and_stays_on_record(place: ReportPlace) -> None:
    [blob] = some("a")
    with a_ledger(place, {}, "before") as first:
        first.intend([blob])
        first.add(blob)
    with a_ledger(place, {}) as second:
        assert not second.blobs
        second.intend([blob])
        second.add(blob)
    assert [line.get("plan_id") for line in place.read_lines("part.deleted-1")] == ["before", None]
    assert [line.get("plan_id") for line in place.read_lines("part.deleted-2")] == ["p", None]


def test_where_nothing_is_deleted_nothing_is_written(place: ReportPlace, tmp_path: Path) -> None:
    with a_ledger(place, {}):
        pass
    assert list((tmp_path / "dag").iterdir()) == []


def test_a_batch_that_was_still_being_written_down_is_not_taken_for_deleted(place: ReportPlace, tmp_path: Path) -> None:
    blobs = some("a", "b")
    with pytest.raises(ZeroDivisionError), a_ledger(place, {}) as first:  # noqa: PT012
        first.intend(blobs)
        raise ZeroDivisionError
    path = tmp_path / "dag" / "run.part.deleting-1-1.jsonl.gz"
    path.write_bytes(path.read_bytes()[:30])
    with a_ledger(place, {blob.key: blob for blob in blobs}) as second:
        assert not second.blobs
