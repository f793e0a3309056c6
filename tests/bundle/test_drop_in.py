"""The bundle works wherever a user puts it: each layout is parsed by a real DAG processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import pytest

from local_stack.postgres import PostgresServer
from local_stack.processes import clean_environment
from tests.bundle.dag_processor import Parsed, parse_once
from tests.bundle.layouts import LAYOUTS, OURS, Layout, checkout
from tests.conftest import Database
from tests.support.databases import Databases

pytestmark = pytest.mark.slow

#: A DAG processor keeps one core busy for most of its life.
_AT_ONCE = max(2, min(4, os.cpu_count() or 2))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("source") / "repository")


@pytest.fixture(scope="module")
def layouts(
    request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Layout]:
    """The layouts that the selected tests need."""
    calls = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    wanted = {call.params["layout"] for call in calls if call and "layout" in call.params}
    return {name: LAYOUTS[name](source, tmp_path_factory.mktemp(name)) for name in LAYOUTS if name in wanted}


@pytest.fixture(scope="module")
def parsed(
    layouts: Mapping[str, Layout],
    postgres: PostgresServer,
    databases: Databases,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, Future[Parsed]]]:
    """Each layout's DAG processor, on a metadata database of its own; a few of them at a time."""
    taken = {name: Database(postgres, databases.take()) for name in layouts}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {
            name: pool.submit(
                parse_once,
                tmp_path_factory.mktemp("home") / name,
                taken[name],
                bundle=layout.bundle,
                git=layout.git,
                env=layout.env,
            )
            for name, layout in layouts.items()
        }
        pool.shutdown(cancel_futures=True)
    for database in taken.values():
        databases.give_back(database.name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_loses_no_dag_and_parses_nothing_else(
    layout: str, layouts: Mapping[str, Layout], parsed: Mapping[str, Future[Parsed]]
) -> None:
    found = parsed[layout].result()
    assert not found.import_errors, "\n".join(found.import_errors.values())
    assert set(found.dags) == OURS | layouts[layout].users
    assert {Path(file).stem for dag, file in found.dags.items() if dag in OURS} == OURS


#: In a process of its own: import the named files one after another, as `airflow dags reserialize` and people's own
#: integrity tests do, and import what the tasks import later.
_IMPORT = """
import importlib, json, os, runpy, sys
import airflow.sdk

failed = []
for case in json.load(sys.stdin):
    if os.fork() == 0:
        sys.path[:0] = case["search_path"]
        for file in case["files"]:
            runpy.run_path(file)
        import include.users_own
        importlib.import_module("include.xcom_maintenance.bundle.flows")
        os._exit(0)
    if os.wait()[1] != 0:
        failed.append(case["name"])
sys.exit(", ".join(failed) or 0)
"""


def test_no_order_of_imports_hides_an_include_from_its_owner(source: Path, tmp_path: Path) -> None:
    cases = []
    for name in (name for name in LAYOUTS if name.startswith(("copied", "cloned"))):
        (tmp_path / name).mkdir()
        layout = LAYOUTS[name](source, tmp_path / name)
        dags = Path(layout.env["AIRFLOW__CORE__DAGS_FOLDER"])
        files = [str(file) for file in sorted(dags.rglob("*.py")) if file.stem in OURS or file.stem == "users_own_dag"]
        users = [file for file in files if "users_own" in file]
        ours = [file for file in files if file not in users]
        for order, ordered in {"ours first": ours + users, "theirs first": users + ours}.items():
            cases.append({"name": f"{name}, {order}", "search_path": layout.search_path, "files": ordered})
    env = clean_environment({"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__UNIT_TEST_MODE": "True"})
    done = subprocess.run(
        [sys.executable, "-P", "-c", _IMPORT],
        input=json.dumps(cases),
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_image_holds_the_bundle_and_none_of_what_surrounds_it(source: Path) -> None:
    ignored = [line for line in (source / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    kept = [path for path in source.iterdir() if not any(fnmatch(path.name, pattern) for pattern in ignored)]
    assert {path.name for path in kept if path.is_dir()} == {"dags", "include", "plugins"}
    assert {"requirements.txt", "packages.txt"} <= {path.name for path in kept}
    assert {"airflow_settings.yaml", ".env"} <= set(ignored)
    commands = (line.split() for line in (source / "Dockerfile.apache").read_text().splitlines())
    copied = {name for words in commands if words[:1] == ["COPY"] for name in words[1:-1] if name[:2] != "--"}
    assert copied == {"dags", "include", "plugins", "requirements.txt", "packages.txt"}
