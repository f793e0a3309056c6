"""A real Airflow: scheduler with LocalExecutor, DAG processor, API server and triggerer, a process each.

``airflow standalone`` would do the same, but it mixes the four logs, migrates the database on every start,
serves logs on all interfaces, and leaves its children behind when it is stopped.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from local_stack.processes import ChildProcess, StackError, Stoppable, clean_environment, free_port, wait_until

_USER = "admin"
_AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
_FINISHED = {"success", "failed"}
# The API server comes last: until they have ended, the others talk to it.
_COMPONENTS: tuple[tuple[str, ...], ...] = (
    ("scheduler", "--skip-serve-logs"),
    ("dag-processor",),
    ("triggerer", "--skip-serve-logs"),
    ("api-server",),
)


class Airflow(Stoppable):
    """One Airflow deployment in ``home``, on a database whose schema exists (see ``postgres.migrate``).

    DAGs come from ``dags_folder``, or from ``bundles`` (name to folder) where one folder is not enough.
    Settings reach Airflow by environment variables only; ``env`` adds to those set here, and wins.
    """

    def __init__(
        self,
        home: Path,
        database_url: str,
        dags_folder: Path | None = None,
        env: Mapping[str, str] | None = None,
        *,
        bundles: Mapping[str, Path] | None = None,
    ) -> None:
        self.home = home.resolve()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.login = (_USER, secrets.token_urlsafe(9))
        self.logs = self.home / "logs"
        self.env = clean_environment(
            self._settings(database_url) | _dag_settings(self.home, dags_folder, bundles) | dict(env or {})
        )
        self._children: list[ChildProcess] = []
        self._http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def start(self) -> None:
        """Start the four processes. Returns at once; see ``wait_healthy``."""
        self.logs.mkdir(parents=True, exist_ok=True)
        (self.home / "plugins").mkdir(exist_ok=True)
        # Without a file each of the four would write the default one, all at the same moment.
        (self.home / "airflow.cfg").touch()
        passwords = self.home / "passwords.json"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps(dict([self.login])))
        for name, *options in _COMPONENTS:
            self._children.append(
                ChildProcess(
                    f"airflow {name}",
                    _airflow(name, *options),
                    log_file=self.logs / f"{name}.log",
                    env=self.env,
                    cwd=self.home,
                    grace=5,  # the triggerer takes twice as long; nothing of it is worth the wait
                )
            )

    def wait_healthy(self, timeout: float = 120) -> None:
        """Wait until the API server says that it and the three other components are healthy."""
        with _with_logs(self._children):
            wait_until(self._is_healthy, timeout=timeout, what="Airflow is not healthy", interval=0.25)
        user, password = self.login
        token = self.rest("POST", "/auth/token", json={"username": user, "password": password})
        self._http.headers["Authorization"] = f"Bearer {token['access_token']}"

    def rest(self, method: str, path: str, json: Any = None, params: Mapping[str, Any] | None = None) -> Any:
        """The parsed answer of the REST API to, say, ``GET /api/v2/dags``; None if it has no body."""
        answer = self._http.request(method, path, json=json, params=params)
        if answer.is_error:
            raise StackError(f"{method} {path}: {answer.status_code} {answer.text[:2000]}")
        return answer.json() if answer.content else None

    def cli(self, *args: str, check: bool = True) -> str:
        """Run an ``airflow`` command in this deployment's environment and return what it printed."""
        done = subprocess.run(
            _airflow(*args),
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            command = " ".join(["airflow", *args])
            raise StackError(f"{command} ended with exit code {done.returncode}:\n{done.stdout}")
        return done.stdout

    def wait_for_dag(self, dag_id: str, timeout: float = 90) -> None:
        """Wait until the DAG processor has stored the DAG."""
        what = f"DAG {dag_id} is not there"
        try:
            wait_until(lambda: self._knows(dag_id), timeout=timeout, what=what, interval=0.25)
        except StackError as error:
            raise StackError(f"{error}; import errors: {self.import_errors()}") from None

    def import_errors(self) -> dict[str, str]:
        """Stack trace by file name, for the files that could not be imported."""
        found = self.rest("GET", "/api/v2/importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in found}

    def unpause(self, dag_id: str) -> None:
        self.rest("PATCH", _dag(dag_id), json={"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run now, and return its run id."""
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self.rest("POST", f"{_dag(dag_id)}/dagRuns", json=body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.rest("GET", _run(dag_id, run_id))["state"])

    def wait_run(self, dag_id: str, run_id: str, timeout: float = 120) -> str:
        """Wait until the run is finished and return its state; ``StackError`` if it takes longer."""
        state = ""

        def finished() -> bool:
            nonlocal state
            state = self.run_state(dag_id, run_id)
            return state in _FINISHED

        wait_until(finished, timeout=timeout, what=f"Run {run_id} of {dag_id} is not finished", interval=0.25)
        return state

    def wait_for_question(self, dag_id: str, run_id: str, task_id: str = "approve", timeout: float = 120) -> None:
        """Wait until a task of the run waits for a person; ``StackError`` if one fails first."""

        def waits() -> bool:
            states = {task["task_id"]: task["state"] for task in self.task_instances(dag_id, run_id)}
            if "failed" in states.values():
                raise StackError(f"{dag_id} failed (run {run_id}): {states}")
            return states[task_id] in {"awaiting_input", "deferred"}

        wait_until(waits, timeout=timeout, what=f"{dag_id} {run_id} does not wait for a person", interval=0.25)

    def question(self, dag_id: str, run_id: str, task_id: str = "approve") -> dict[str, Any]:
        """What a waiting task asks: subject, body, options, and who answered what."""
        return dict(self.rest("GET", _question(dag_id, run_id, task_id)))

    def answer(self, dag_id: str, run_id: str, option: str, task_id: str = "approve") -> None:
        """Answer a waiting task, such as "Approve" or "Reject"."""
        # An answer that overtakes the executor's word that the task has parked makes Airflow fail the task.
        time.sleep(3)
        self.rest("PATCH", _question(dag_id, run_id, task_id), json={"chosen_options": [option]})

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        """Clear tasks of a run, and those that come after them, so that they run again."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": list(task_ids), "include_downstream": True}
        body |= {"only_failed": False, "reset_dag_runs": True}
        self.rest("POST", f"{_dag(dag_id)}/clearTaskInstances", json=body)

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        path = f"{_run(dag_id, run_id)}/taskInstances"
        return list(self.rest("GET", path, params={"limit": 100})["task_instances"])

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """The log of one try of a task, a line per event, with the stack trace of an error."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}/logs/{try_number}"
        answer = self.rest("GET", path, params={"map_index": map_index, "full_content": True})
        return "\n".join(_log_lines(answer["content"]))

    def stop(self) -> None:
        """Stop all four processes and whatever they started. May be called more than once."""
        self._http.close()
        for child in self._children[:-1]:
            child.ask_to_stop()
        for child in self._children:
            child.stop()
        self._children.clear()

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def _is_healthy(self) -> bool:
        for child in self._children:
            if not child.is_running():
                raise StackError(f"{child.name} has ended")
        try:
            health = self._http.get("/api/v2/monitor/health").raise_for_status().json()
        except httpx.HTTPError:
            return False
        return all(
            (health.get(part) or {}).get("status") == "healthy"
            for part in ("metadatabase", "scheduler", "dag_processor", "triggerer")
        )

    def _knows(self, dag_id: str) -> bool:
        answer = self._http.get(_dag(dag_id))
        return answer.is_success and not answer.json()["is_stale"]

    def _settings(self, database_url: str) -> dict[str, str]:
        def key() -> str:
            return base64.urlsafe_b64encode(os.urandom(32)).decode()

        sections: dict[str, dict[str, object]] = {
            "core": {
                "executor": "LocalExecutor",
                "parallelism": 8,
                "load_examples": False,
                "plugins_folder": self.home / "plugins",
                "fernet_key": key(),
                "execution_api_server_url": f"{self.url}/execution/",
                "auth_manager": _AUTH_MANAGER,
                "simple_auth_manager_users": f"{_USER}:admin",
                "simple_auth_manager_passwords_file": self.home / "passwords.json",
                # A look-up of the full name takes seconds where no name server answers.
                "hostname_callable": "socket.gethostname",
            },
            "api": {
                "host": "127.0.0.1",
                "port": self.port,
                "base_url": self.url,
                "workers": 1,
                "secret_key": key(),
            },
            "api_auth": {"jwt_secret": key()},
            "database": {"sql_alchemy_conn": database_url},
            "dag_processor": {
                "parsing_processes": 1,
                "min_file_process_interval": 10,
                "refresh_interval": 5,
                "bundle_refresh_check_interval": 2,
                "dag_bundle_storage_path": self.home / "bundles",
            },
            "scheduler": {"scheduler_heartbeat_sec": 1, "scheduler_idle_sleep_time": 0.25},
            # A task's slot stays taken for up to this long after its end (default: 5 s).
            "workers": {"min_heartbeat_interval": 1},
            "logging": {"base_log_folder": self.logs, "colored_console_log": False},
        }
        named = {
            f"AIRFLOW__{section}__{name}".upper(): str(value)
            for section, options in sections.items()
            for name, value in options.items()
        }
        scripts = str(Path(sys.executable).parent)
        return {
            "AIRFLOW_HOME": str(self.home),
            "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_COLOR": "1",
        } | named


def _dag_settings(home: Path, dags_folder: Path | None, bundles: Mapping[str, Path] | None) -> dict[str, str]:
    settings = {"AIRFLOW__CORE__DAGS_FOLDER": str((dags_folder or home / "dags").resolve())}
    if bundles:
        classpath = "airflow.dag_processing.bundles.local.LocalDagBundle"
        settings["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"] = json.dumps(
            [
                {"name": name, "classpath": classpath, "kwargs": {"path": str(folder.resolve())}}
                for name, folder in bundles.items()
            ]
        )
    return settings


def _airflow(*args: str) -> list[str]:
    # As the installed command, whose "#!" line may be too long: "-P" keeps the current folder off the path.
    return [sys.executable, "-P", "-m", "airflow", *args]


def _dag(dag_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}"


def _run(dag_id: str, run_id: str) -> str:
    return f"{_dag(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _question(dag_id: str, run_id: str, task_id: str) -> str:
    return f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}/-1/hitlDetails"


def _log_lines(content: Iterable[Any]) -> Iterator[str]:
    """Structured log events as text: time, level, event, and the fields that only some events have."""
    for event in content:
        if isinstance(event, str):
            yield event
            continue
        yield " ".join(str(event[part]) for part in ("timestamp", "level", "event") if event.get(part))
        for error in event.get("error_detail") or []:
            for frame in error.get("frames", []):
                yield f"    {frame['filename']}:{frame['lineno']} in {frame['name']}"
            yield f"  {error.get('exc_type')}: {error.get('exc_value')}"


@contextlib.contextmanager
def _with_logs(children: Iterable[ChildProcess]) -> Iterator[None]:
    """Add the end of each log to a failure to start: the cause is nearly always there."""
    try:
        yield
    except StackError as error:
        logs = "\n".join(f"--- {child.log_file}\n{child.log_tail()}" for child in children)
        raise StackError(f"{error}\n{logs}") from None
