"""Runs Airflow's own DAG processor over a folder, once, and says what it wrote into the metadata database."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_stack.processes import ChildProcess, StackError, clean_environment, wait_until
from tests.conftest import Database

#: Far above the 7 s that it takes on an idle machine: the machine may be busy.
_TIMEOUT = 120


@dataclass(frozen=True)
class Parsed:
    """What the UI would show."""

    dags: Mapping[str, str]
    """DAG id -> file, relative to the bundle."""
    import_errors: Mapping[str, str]
    """File -> stack trace."""


def parse_once(
    home: Path,
    database: Database,
    *,
    bundle: Path | None = None,
    git: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Parsed:
    """Parse every DAG file of a bundle once, in the environment of an installation and of nobody else.

    :param bundle: the folder of a LocalDagBundle; without it, the dags folder that ``env`` names.
    :param git: the repository of a GitDagBundle, instead.
    """
    home.mkdir()
    (home / "airflow.cfg").touch()  # else the default one is written, with keys that were made up
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.server.url(database.name),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
    }
    if git is not None:
        settings |= _bundle(
            "airflow.providers.git.bundles.git.GitDagBundle",
            repo_url=str(git),
            tracking_ref=_branch(git),
            git_conn_id=None,
        )
    elif bundle is not None:
        settings |= _bundle("airflow.dag_processing.bundles.local.LocalDagBundle", path=str(bundle))
    command = [sys.executable, "-P", "-m", "airflow", "dag-processor", "--num-runs", "1"]
    with ChildProcess(
        "DAG processor",
        command,
        log_file=home / "dag-processor.log",
        env=clean_environment(settings | dict(env or {})),
        cwd=home,
    ) as processor:
        try:
            wait_until(lambda: not processor.is_running(), timeout=_TIMEOUT, what="The DAG processor is not done")
        except StackError as error:
            raise StackError(f"{error}\n{processor.log_tail(40)}") from None
        parsed = _read(database)
        if not parsed.dags and not parsed.import_errors:
            raise StackError(f"The DAG processor found nothing:\n{processor.log_tail(40)}")
        return parsed


def _bundle(classpath: str, **arguments: Any) -> dict[str, str]:
    bundles = [{"name": "dropped-in", "classpath": classpath, "kwargs": arguments}]
    return {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles)}


def _branch(repository: Path) -> str:
    command = ["git", "-C", str(repository), "rev-parse", "--abbrev-ref", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _read(database: Database) -> Parsed:
    with database.connect() as connection:
        dags = connection.execute("SELECT dag_id, relative_fileloc FROM dag WHERE NOT is_stale").fetchall()
        errors = connection.execute("SELECT filename, stacktrace FROM import_error").fetchall()
    return Parsed(dict(dags), dict(errors))
