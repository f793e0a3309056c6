"""Pruning below a report path, on a disk and on S3: old reports of the bundle go, and nothing else is ever touched."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.xcom_maintenance.reports import pruning
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from local_stack.s3 import RcloneS3
from tests.conftest import REPOSITORY

NOW = datetime.now(UTC)
DAG = "xcom_cleanup"


@dataclass
class Place:
    """A report path; all that is in it, and how to make it old."""

    root: Any
    folder: Path
    server: RcloneS3 | None = None
    bucket: str = ""

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    def put(self, name: str, content: str = "x") -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(content)

    def report(self, run_id: str, status: str, *, age_days: float, dag_id: str = DAG, **fields: Any) -> None:
        report = Report(dag_id, run_id, mode="report", status=status, **fields)
        ended = NOW - timedelta(days=age_days)
        report.finished_at = None if status in {"running", "planned", "waiting"} else ended.isoformat()
        ReportPlace(self.root, dag_id, run_id).write(report)

    def make_old(self, age_days: float = 400) -> None:
        """All files were last written so long ago."""
        moment = NOW - timedelta(days=age_days)
        if self.server is not None:
            keys = [str(path.relative_to(self.folder.parent)) for path in self.folder.rglob("*") if path.is_file()]
            self.server.set_modified(self.bucket, dict.fromkeys(keys, moment))
            return
        for path in self.folder.rglob("*"):
            if path.is_file():
                os.utime(path, (moment.timestamp(), moment.timestamp()))

    def prune(self, keep_days: float = 180) -> pruning.Pruned:
        return pruning.prune(self.root, now=NOW, keep_days=keep_days)


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    from airflow.sdk import ObjectStoragePath

    if request.param == "file":
        yield Place(ObjectStoragePath(f"file://{tmp_path}/reports"), tmp_path / "reports")
        return
    rclone: RcloneS3 = request.getfixturevalue("rclone")
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    rclone.client().create_bucket(Bucket=bucket)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AWS_REPORTS", rclone.airflow_connection_json())
        root = ObjectStoragePath(f"s3://aws_reports@{bucket}/reports")
        yield Place(root, rclone.buckets / bucket / "reports", rclone, bucket)


@pytest.fixture(autouse=True)
def _few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "KEPT_OF_EACH_DAG", 1)


def newest(place: Place) -> set[str]:
    """A report that is kept for being the newest."""
    place.report("zz_newest", "reported", age_days=300)
    return {f"{DAG}/zz_newest{suffix}" for suffix in (".json", ".md", ".html")}


def test_old_reports_go_with_what_belongs_to_them_alone(place: Place) -> None:
    place.report("old", "reported", age_days=200)
    for suffix in (".told", ".shard-1.figures", ".shard-12.figures", ".manifest.jsonl.gz"):
        place.put(f"{DAG}/old{suffix}")
    kept = newest(place)
    place.make_old()
    pruned = place.prune()
    assert (pruned.reports, pruned.files, pruned.problems) == (1, 7, [])
    assert place.files() == kept
    assert place.prune().files == 0


@pytest.mark.parametrize("status", ["enforced", "failed", "refused", "rejected"])
def test_no_record_of_a_change_ever_goes(place: Place, status: str) -> None:
    place.report("old", status, age_days=200)
    records = {f"{DAG}/old{suffix}" for suffix in (".manifest.jsonl.gz", "~1.manifest.jsonl.gz", ".deleted-1.jsonl.gz")}
    for name in records:
        place.put(name)
    kept = newest(place)
    place.make_old()
    assert place.prune().reports == 1
    assert place.files() == kept | records


def test_an_earlier_attempt_that_changed_something_keeps_the_manifest_of_a_run_that_reports_now(place: Place) -> None:
    place.report("old", "reported", age_days=200)
    records = {f"{DAG}/old.manifest.jsonl.gz", f"{DAG}/old~1.manifest.jsonl.gz"}
    for name in records:
        place.put(name)
    kept = newest(place)
    place.make_old()
    place.prune()
    assert place.files() == kept | records


@pytest.mark.parametrize("pending", [".pending", "~1.pending"])
def test_no_file_of_a_run_whose_manifest_is_still_to_be_carried_out_goes(place: Place, pending: str) -> None:
    place.report("old", "failed", age_days=200)
    place.put(f"{DAG}/old.manifest.jsonl.gz")
    place.put(f"{DAG}/old{pending}")
    newest(place)
    place.make_old()
    before = place.files()
    assert place.prune().files == 0
    assert place.files() == before


@pytest.mark.parametrize("status", ["running", "planned", "waiting"])
def test_no_report_of_a_run_that_is_not_over_goes(place: Place, status: str) -> None:
    place.report("old", status, age_days=200)
    newest(place)
    place.make_old()
    before = place.files()
    place.prune()
    assert place.files() == before


def test_no_young_report_and_none_of_the_newest_goes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "KEPT_OF_EACH_DAG", 2)
    for number in range(2):
        place.report(f"old{number}", "audited", age_days=300 + number, dag_id="xcom_size_audit")
    for number in range(4):
        place.report(f"run{number}", "audited", age_days=179 - number)
    place.make_old()
    before = place.files()
    place.prune()
    assert place.files() == before
    assert place.prune(keep_days=100).reports == 2


def test_a_report_that_was_written_again_lately_stays(place: Place) -> None:
    place.report("old", "reported", age_days=200)
    newest(place)
    before = place.files()
    place.prune()
    assert place.files() == before


def test_nothing_that_the_bundle_did_not_write_goes(place: Place) -> None:
    own = json.dumps(Report(DAG, "other", status="reported", finished_at="2020-01-01T00:00:00+00:00").to_json())
    place.report("old", "reported", age_days=200)
    going = {f"{DAG}/old{suffix}" for suffix in (".json", ".md", ".html")}
    foreign = {
        # An archive below the same path, the marks of other mechanisms, files and folders of users.
        f"{DAG}/old/shard-0-000001.jsonl.gz",
        f"{DAG}/.enforcement",
        "xcom_size_audit/.secrets",
        f"{DAG}/old.txt",
        f"{DAG}/old.json.bak",
        f"{DAG}/older.md",
        f"{DAG}/old.quarantine.jsonl.gz",
        f"{DAG}/notes.json",
        f"{DAG}/broken.json",
        f"{DAG}/list.json",
        f"{DAG}/copied.json",  # a report of ours under another name
        f"{DAG}/folder.json/inner.json",
        "users_dag/run.json",
        "top.json",
    }
    contents = {f"{DAG}/notes.json": '{"a": 1}', f"{DAG}/broken.json": "{", f"{DAG}/list.json": "[1]"}
    for name in foreign:
        place.put(name, contents.get(name, own))
    kept = newest(place)
    place.make_old()
    assert place.prune().reports == 1
    assert place.files() == foreign | kept
    assert not place.files() & going


def test_what_cannot_be_deleted_is_told_and_the_report_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.report("old", "reported", age_days=200)
    newest(place)
    place.make_old()
    before = place.files()
    monkeypatch.setattr(type(place.root), "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError("no")))
    pruned = place.prune()
    assert (pruned.files, pruned.problems) == (0, ["old.html: PermissionError"])
    assert place.files() == before


def test_no_folder_at_all_is_nothing_to_do(place: Place) -> None:
    assert place.prune().files == 0


def test_no_dag_of_the_bundle_is_forgotten() -> None:
    assert set(pruning.DAG_IDS) == {path.stem for path in (REPOSITORY / "dags").glob("*.py")}
