"""A manifest is a plan only if it is whole."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report, Table


@pytest.fixture
def root(tmp_path: Path) -> Any:
    from airflow.sdk import ObjectStoragePath

    return ObjectStoragePath(f"file://{tmp_path}")


def test_a_manifest_comes_back_line_by_line(root: Any) -> None:
    place = ReportPlace(root, "dag", "run")
    with place.write_manifest() as manifest:
        for number in range(3):
            manifest.add("blob", key=f"ü{number}")
    assert list(place.read_manifest()) == [{"kind": "blob", "key": f"ü{n}"} for n in range(3)]


@pytest.mark.parametrize("cut", [1, 10, 40, -9, -1])
def test_a_manifest_that_is_cut_short_is_no_plan(root: Any, tmp_path: Path, cut: int) -> None:
    place = ReportPlace(root, "dag", "run")
    with place.write_manifest() as manifest:
        manifest.add("blob", key="a" * 100)
    path = tmp_path / "dag" / "run.manifest.jsonl.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(MaintenanceError, match="is incomplete"):
        list(place.read_manifest())


def test_a_manifest_whose_writer_died_is_no_plan(root: Any, tmp_path: Path) -> None:
    (tmp_path / "dag").mkdir()
    (tmp_path / "dag" / "run.manifest.jsonl.gz").write_bytes(gzip.compress(b'{"kind": "blob", "key": "a"}\n'))
    with pytest.raises(MaintenanceError, match="is incomplete"):
        list(ReportPlace(root, "dag", "run").read_manifest())


def test_a_manifest_on_another_worker_names_the_setting(root: Any) -> None:
    with pytest.raises(ConfigurationError, match="report_path"):
        list(ReportPlace(root, "dag", "run").read_manifest())


def test_a_report_comes_back_as_it_was_written(root: Any) -> None:
    report = Report("dag", "run", headline={"rows": 1}, tables=[Table("t", ["a"], [[1]], "n")])
    place = ReportPlace(root, "dag", "run")
    assert place.read() is None
    place.write(report)
    assert place.read() == report


@pytest.mark.parametrize("run_id", ["a/../../b", "../x", "..", "a\\b"])
def test_a_run_id_never_leads_out_of_the_folder(root: Any, tmp_path: Path, run_id: str) -> None:
    ReportPlace(root, "dag", run_id).write(Report("dag", run_id))
    assert sorted(p.suffix for p in (tmp_path / "dag").iterdir()) == [".html", ".json", ".md"]
    assert [p.name for p in tmp_path.iterdir()] == ["dag"]
