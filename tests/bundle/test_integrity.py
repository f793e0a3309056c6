"""What holds for every DAG file of the bundle, and for the directions in which its code imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.models import DagBag

from local_stack.processes import clean_environment
from tests.conftest import REPOSITORY

DAGS = REPOSITORY / "dags"
LIBRARY = REPOSITORY / "include" / "xcom_maintenance"
STEMS = sorted(file.stem for file in DAGS.glob("*.py"))


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(str(DAGS))


# -- what people see -------------------------------------------------------------------------------------------------


def test_no_dag_file_fails_to_import(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert [stat.warning_num for stat in bag.dagbag_stats] == [0] * len(STEMS)


def test_no_dag_is_missing_or_named_unlike_its_file(bag: DagBag) -> None:
    assert {dag_id: Path(dag.fileloc).stem for dag_id, dag in bag.dags.items()} == {stem: stem for stem in STEMS}
    assert {
        "xcom_cleanup",
        "xcom_offload_large_values",
        "xcom_orphan_reconciliation",
        "xcom_restore",
        "xcom_rotate_keys",
        "xcom_size_audit",
    } <= set(STEMS)


@pytest.mark.parametrize("dag_id", STEMS)
def test_no_dag_lacks_tags_retries_documentation_or_a_guard_against_itself(bag: DagBag, dag_id: str) -> None:
    dag = bag.dags[dag_id]
    assert {"xcom", "maintenance"} <= set(dag.tags)
    assert dag.default_args["retries"] >= 2
    assert all(task.retries >= 2 for task in dag.tasks)
    assert all(task.owner != "airflow" for task in dag.tasks)
    assert dag.has_on_failure_callback
    # Of shares that failed the task after them tells, once for all.
    assert {task.task_id for task in dag.tasks if not task.has_on_failure_callback} <= {"delete_rows", "sweep"}
    assert dag.doc_md
    assert dag.max_active_runs == 1
    assert not dag.catchup


@pytest.mark.parametrize(
    ("dag_id", "cron"),
    {
        "xcom_cleanup": "0 2 * * *",
        "xcom_size_audit": "0 1 * * *",
        "xcom_orphan_reconciliation": "0 3 * * 0",
        "xcom_restore": None,
        "xcom_offload_large_values": None,
        "xcom_rotate_keys": None,
    }.items(),
)
def test_no_dag_runs_at_another_time_than_documented(bag: DagBag, dag_id: str, cron: str | None) -> None:
    assert bag.dags[dag_id].schedule == cron


@pytest.mark.parametrize("dag_id", STEMS)
def test_no_field_of_a_trigger_form_overrules_the_configuration_unless_it_is_filled_in(
    bag: DagBag, dag_id: str
) -> None:
    params = bag.dags[dag_id].params
    assert params.dump() == dict.fromkeys(params)
    assert params
    for name in params:
        field = params.get_param(name)
        assert "null" in field.schema["type"], name
        assert field.schema["title"], name
        assert field.description, name


# -- what parsing must not do ----------------------------------------------------------------------------------------


#: In a process of its own, so that no module is there already. First under an audit hook: what do the DAG files import
#: that `airflow.sdk` alone does not, and what do they touch? Then as `astro dev parse` does it: what is not set yields
#: some text, and a Connection nothing.
_PARSE = """
import json, os, runpy, sys
import airflow.models, airflow.sdk
from airflow.models import DagBag

files = json.load(sys.stdin)
with airflow.sdk.DAG("warm_up", schedule="0 0 * * *"):  # much of the SDK is imported when it is first asked for
    airflow.sdk.task(task_id="warm_up")(lambda: None)()

touched = []

def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "sqlite3.", "urllib.", "http.")):
        touched.append(f"{event} {arguments!r}")
    elif event == "open" and not str(arguments[0]).endswith((".py", ".pyc")) and sys.prefix not in str(arguments[0]):
        touched.append(f"open {arguments[0]}")

def refuse(name):
    def refused(*arguments, **options):
        touched.append(f"{name} {arguments!r}")
        raise AssertionError(f"{name} was called while parsing")
    return refused

secrets = [(airflow.sdk.Variable, "get"), (airflow.models.Variable, "get"), (airflow.sdk.Connection, "get"),
           (airflow.models.Connection, "get_connection_from_secrets"), (airflow.sdk.BaseHook, "get_connection")]
for owner, name in secrets:
    setattr(owner, name, refuse(f"{owner.__name__}.{name}"))
before = set(sys.modules)
sys.addaudithook(watch)
for file in files:
    runpy.run_path(file)
seen = list(touched)
imported = sorted(set(sys.modules) - before)

for name in [name for name in sys.modules if name.split(".")[0] == "include"]:
    del sys.modules[name]
os.getenv = lambda key, default=None: os.environ.get(key) or default or f"MOCKED_{key.upper()}_VALUE"
for owner, name in secrets:
    setattr(owner, name, lambda key="", *_, **__: f"MOCKED_{str(key).upper()}_VALUE")
airflow.sdk.BaseHook.get_connection = lambda *_, **__: None
bags = [DagBag(file) for file in files]
dags = sorted(dag_id for bag in bags for dag_id in bag.dags)
errors = [error for bag in bags for error in bag.import_errors.values()]
print(json.dumps({"imported": imported, "touched": seen, "dags": dags, "errors": errors}))
"""


@pytest.fixture(scope="module")
def fresh_parse(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    home = tmp_path_factory.mktemp("airflow_home")
    (home / "airflow.cfg").touch()
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PARSE],
        input=json.dumps([str(DAGS / f"{stem}.py") for stem in STEMS]),
        env=clean_environment({"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}),
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_parsing_does_not_import_what_only_tasks_need(fresh_parse: dict[str, list[str]]) -> None:
    """Drivers, cloud SDKs, other providers, the library but for what is light: every parse would pay for them."""
    imported = set(fresh_parse["imported"])
    assert {name for name in imported if name.split(".")[0] == "include"} == {
        "include",
        "include.xcom_maintenance",
        "include.xcom_maintenance.flow",
        "include.xcom_maintenance.flow.approval",
        "include.xcom_maintenance.flow.callbacks",
        "include.xcom_maintenance.flow.form",
        "include.xcom_maintenance.reports",
        "include.xcom_maintenance.reports.report",
        *(f"include.xcom_maintenance.{room}{form}" for room in ROOMS for form in ("", ".form")),
    }
    others = {name for name in imported if name.split(".")[0] not in {"include", *sys.stdlib_module_names}}
    # The operator that asks for approval imports its trigger, and that imports asgiref.
    light = ("airflow.sdk.", "airflow.providers.standard.", "asgiref")
    assert {name for name in others if not name.startswith(light)} == set()


def test_parsing_does_not_read_a_variable_a_connection_or_a_file_or_reach_for_the_network(
    fresh_parse: dict[str, list[str]],
) -> None:
    assert fresh_parse["touched"] == []


def test_no_dag_is_lost_in_an_environment_that_has_an_arbitrary_answer_to_every_question(
    fresh_parse: dict[str, list[str]],
) -> None:
    assert fresh_parse["errors"] == []
    assert fresh_parse["dags"] == STEMS


# -- the floors: imports only downwards ------------------------------------------------------------------------------

#: From the top. What is in a room may import from the room itself and from lower floors.
FLOORS = (
    "bundle",
    "cleanup size_audit reconciliation offload restore key_rotation",
    "retention sweep",
    "flow xcom_backend",
    "blobs detection metadata reports",
    "settings",
    "core",
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(reversed(FLOORS)) for room in rooms.split()}
ROOMS = FLOORS[1].split()
#: Of rooms with adapters the rooms above the flow see these modules.
PORTS = {"blobs": "port", "detection": "port", "metadata": "ports", "xcom_backend": "port"}
#: What they, and the core, may import from outside the standard library, by the name of the module.
THIRD_PARTY = {"form": {"airflow"}, "settings": {"pydantic"}}
PACKAGE = "include.xcom_maintenance"


def _imports(file: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """The full names of what a file imports: modules, and names in packages."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: one spelling of imports, and it is absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(file for file in LIBRARY.rglob("*.py") if file != LIBRARY / "__init__.py")


def _room_of(name: str) -> str | None:
    """The room that an imported name belongs to; None if it is none of ours."""
    return name.removeprefix(f"{PACKAGE}.").split(".")[0] if name.startswith(f"{PACKAGE}.") else None


@pytest.mark.parametrize("file", [pytest.param(file, id=str(file.relative_to(LIBRARY))) for file in FILES])
def test_no_module_imports_upwards_sideways_or_an_adapter_that_it_should_not_know(file: Path) -> None:
    room = file.relative_to(LIBRARY).parts[0]
    sees_ports_only = FLOOR_OF[room] > FLOOR_OF["flow"] and room != "bundle"
    for name in _imports(file):
        other, root = _room_of(name), name.split(".")[0]
        if other is not None and other != room:
            assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} imports {name}, which is not below it"
            if sees_ports_only and other in PORTS:
                assert name.startswith(f"{PACKAGE}.{other}.{PORTS[other]}."), f"a step sees ports, never {name}"
        elif other is None and root not in sys.stdlib_module_names:
            assert root != "include", f"{name} is none of ours"
            if sees_ports_only or room in {"bundle", "core"}:
                assert root in THIRD_PARTY.get(file.stem, ()), f"{file.name} imports {name}"


def test_nothing_lies_loose_beside_the_rooms() -> None:
    assert {file.name for file in LIBRARY.iterdir() if file.is_file()} <= {"__init__.py", ".airflowignore"}
    assert {folder.name for folder in LIBRARY.iterdir() if folder.is_dir()} - {"__pycache__"} == set(FLOOR_OF)


@pytest.mark.parametrize("dag_id", STEMS)
def test_no_dag_file_imports_more_at_its_top_than_the_sdk_and_light_modules(dag_id: str) -> None:
    light = ("flow.approval", "flow.callbacks", *(f"{room}.form" for room in ROOMS))
    allowed = {"include", *(f"{PACKAGE}.{name}" for name in light)}
    for name in _imports(DAGS / f"{dag_id}.py", top_level_only=True):
        root = name.split(".")[0]
        assert name in allowed or root in sys.stdlib_module_names or name.startswith("airflow.sdk."), name


def test_include_is_not_a_package_that_would_hide_the_users_own() -> None:
    assert not (REPOSITORY / "include" / "__init__.py").exists()
    assert (LIBRARY / "__init__.py").exists()
