"""A cleanup that is killed at any moment and run again ends where one ends that was not killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from include.xcom_maintenance.blobs.files import FileBlobStore
from include.xcom_maintenance.metadata.postgres import PostgresMetadataStore
from include.xcom_maintenance.reports.place import ReportPlace
from tests.conftest import REPOSITORY
from tests.support.bundle import Bundle
from tests.support.history import History

#: Every call that reads or changes something outside the process.
CALLS = [
    *((PostgresMetadataStore, name) for name in ("check", "measure", "delete", "referenced", "unfinished_runs")),
    *((FileBlobStore, name) for name in ("check", "_stat", "_delete")),
    *((ReportPlace, name) for name in ("write", "mark_pending", "clear_pending")),
]


class Killed(BaseException):
    """Not an Exception: no handler of the bundle sees it, as none would see a kill."""


@contextmanager
def killed_at(moment: int | None) -> Iterator[Callable[[], int]]:
    """Kill before (odd moments) or after (even ones) the n-th call; yields a count of the moments there were."""
    calls = 0

    def wrap(original: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment:
                raise Killed
            result = original(*args, **kwargs)
            calls += 1
            if calls == moment:
                raise Killed
            return result

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, wrap(getattr(owner, name)))
        yield lambda: calls


class Deployment:
    """Some history with blobs, which can be laid out again and compared."""

    def __init__(self, bundle: Bundle, history: History, folder: Path) -> None:
        self.bundle, self.history, self.base = bundle, history, folder / "blobs"
        bundle.common_io["xcom_objectstorage_path"] = f"file://{self.base}"
        bundle.variable = {"batch_rows": 2}

    def lay_out(self) -> None:
        self.history.connection.execute("TRUNCATE dag_run CASCADE")
        for age in (30, 20, 10, 1):
            run = self.history.run("a", age, run_id=f"run_{age}", state="running" if age == 20 else "success")
            for key in ("x", "y"):
                name = f"11111111-2222-4333-8444-{age:010}0{int(key == 'x')}"
                blob = self.base / "a" / run.run_id / "t" / name
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_text("x")
                os.utime(blob, (1_700_000_000, 1_700_000_000))
                self.history.xcom(run, f"file://{blob}", age_days=age, key=key)

    def state(self) -> tuple[object, object]:
        return self.history.rows(), {str(p.relative_to(self.base)) for p in self.base.rglob("*") if p.is_file()}


@pytest.fixture
def deployment(bundle: Bundle, history: History, tmp_path: Path) -> Deployment:
    return Deployment(bundle, history, tmp_path)


def enforce(deployment: Deployment, run_id: str) -> None:
    deployment.bundle.run("xcom_cleanup", run_id=run_id, mode="enforce").succeeded()


def test_killed_at_every_moment_and_run_again_it_ends_in_the_same_state(deployment: Deployment) -> None:
    deployment.lay_out()
    with killed_at(None) as moments:
        enforce(deployment, "whole")
    expected = deployment.state()
    assert moments() > 40
    for moment in range(1, moments() + 1):
        for again in ("same", "next"):
            deployment.lay_out()
            with killed_at(moment), pytest.raises(Killed):
                enforce(deployment, f"killed_{moment}_{again}")
            # Airflow tries the same run again, or the next scheduled run comes along.
            enforce(deployment, f"killed_{moment}_{again}" if again == "same" else f"after_{moment}")
            assert deployment.state() == expected, f"killed at moment {moment}, then the {again} run"


def test_a_real_kill_in_the_middle_of_deleting_converges(deployment: Deployment, tmp_path: Path) -> None:
    """SIGKILL a process that is deleting, wherever it happens to be."""
    deployment.lay_out()
    enforce(deployment, "whole")
    expected = deployment.state()
    script = tmp_path / "cleanup.py"
    script.write_text(
        "import json, sys, time\n"
        "from tests.support.bundle import Bundle\n"
        "from include.xcom_maintenance.metadata.postgres import PostgresMetadataStore\n"
        "delete = PostgresMetadataStore.delete\n"
        "def slow(*args, **kwargs):\n"
        "    result = delete(*args, **kwargs)\n"
        "    print('deleted', flush=True)\n"
        "    time.sleep(0.2)\n"
        "    return result\n"
        "PostgresMetadataStore.delete = slow\n"
        "Bundle(**json.loads(sys.argv[1])).run('xcom_cleanup', run_id='killed', mode='enforce').succeeded()\n"
    )
    deployment.lay_out()
    process = subprocess.Popen(
        [sys.executable, str(script), json.dumps(dataclasses.asdict(deployment.bundle))],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "deleted":
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert deployment.state() != expected
    enforce(deployment, "next")
    assert deployment.state() == expected
