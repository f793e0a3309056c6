"""The plugin stands alone: nothing of the bundle, nothing heavy, nothing that Airflow takes for another plugin."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from local_stack.processes import clean_environment
from tests.conftest import REPOSITORY

PLUGINS = REPOSITORY / "plugins"
PACKAGE = PLUGINS / "xcom_blob_backend"
HEAVY = (
    "obstore",
    "zstandard",
    "lz4",
    "cryptography",
    "boto",
    "fsspec",
    "s3fs",
    "upath",
    "airflow.providers",
    "numpy",
    "pandas",
)

_TASK = """
import json, sys
import airflow.sdk.execution_time.task_runner
before = set(sys.modules)
from xcom_blob_backend import XComBlobBackend
from airflow.sdk.execution_time.comms import XComResult
row = XComBlobBackend.serialize_value({"a": [1, "x"]}, key="k", dag_id="d", run_id="r", task_id="t")
assert XComBlobBackend.deserialize_value(XComResult(key="k", value=row)) == {"a": [1, "x"]}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def _run(code: str, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__PLUGINS_FOLDER": str(PLUGINS), **env}
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=clean_environment(environment),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_task_that_pushes_small_values_imports_nothing_heavy(tmp_path: Path) -> None:
    """In a process of its own, in which Airflow itself has put the plugins folder on the path."""
    done = _run(_TASK, tmp_path, AIRFLOW__XCOM_BLOB_BACKEND__PATH=f"file://{tmp_path}/blobs")
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout.splitlines()[-1])
    assert "xcom_blob_backend.backend" in imported
    assert [name for name in imported if name.startswith(HEAVY)] == []
    assert not (tmp_path / "blobs").exists()


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda file: file.stem)
def test_no_module_imports_the_bundle_or_anything_heavy_at_its_top(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [str(node.module)]
        assert not [name for name in names if name.split(".")[0] in {"include", "dags", "tests"}]
        if node in tree.body:
            roots = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
            assert roots <= {"xcom_blob_backend", "airflow", "msgspec"}


@pytest.mark.parametrize("syntax", ["glob", "regexp"])
def test_airflow_does_not_import_the_modules_one_by_one_as_plugins(tmp_path: Path, syntax: str) -> None:
    """It would import each by its bare name, and ``config`` or ``store`` would hide somebody else's."""
    code = (
        "import json, sys\nfrom airflow import plugins_manager\nplugins_manager.ensure_plugins_loaded()\n"
        "print(json.dumps([plugins_manager.get_import_errors() if hasattr(plugins_manager, 'get_import_errors') else "
        "plugins_manager.import_errors, sorted(sys.modules)]))"
    )
    done = _run(code, tmp_path, AIRFLOW__CORE__DAG_IGNORE_FILE_SYNTAX=syntax)
    assert done.returncode == 0, done.stderr
    errors, modules = json.loads(done.stdout.splitlines()[-1])
    assert errors == {}
    assert {"config", "store", "names", "crypto", "header", "transfer"} & set(modules) == set()
