"""Real servers, started once; a fresh database and a fresh bucket for each test."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.loaders import JSONFileLoader, Loader

from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
from local_stack.azure import Azurite
from local_stack.gcs import GcsEmulator
from local_stack.postgres import PostgresServer
from local_stack.processes import StackError
from local_stack.s3 import MotoS3, RcloneS3
from tests.support.bucket import Bucket
from tests.support.bundle import Bundle
from tests.support.databases import Databases
from tests.support.history import History, SeededRun

REPOSITORY = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever runs whole tasks or an emulator of a cloud counts as slow.

    What takes longest begins first, so that no process is left with it.
    """
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        needed = {*getattr(item, "fixturenames", ()), *(name for name in parameters.values() if isinstance(name, str))}
        if needed & {"bundle", "parsed", "gcs", "azurite"}:
            item.add_marker("slow")
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)


@pytest.fixture(scope="session", autouse=True)
def _airflow_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's own Airflow."""
    for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
        del os.environ[name]
    os.environ["AIRFLOW_HOME"] = str(tmp_path_factory.mktemp("airflow_home"))
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("postgres"), durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: PostgresServer) -> Databases:
    return Databases(postgres)


@dataclass(frozen=True)
class Database:
    """A migrated metadata database of a test's own."""

    server: PostgresServer
    name: str

    def connect(self, **parameters: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(
            **{
                "host": self.server.host,
                "port": self.server.port,
                "user": self.server.user,
                "password": self.server.password,
                "dbname": self.name,
                **parameters,
            }
        )

    def store(self, connect: Callable[[], Any] | None = None, **options: Any) -> PostgresMetadataStore:
        return PostgresMetadataStore(
            connect or self.connect,
            **{"setting": "metadata_conn_id", "lock_timeout": 5, "statement_timeout": 60, **options},
        )


@pytest.fixture
def database(postgres: PostgresServer, databases: Databases) -> Iterator[Database]:
    name = databases.take()
    yield Database(postgres, name)
    databases.give_back(name)


@pytest.fixture
def history(database: Database) -> Iterator[History]:
    with database.connect(autocommit=True) as connection:
        yield History(connection)


@pytest.fixture(scope="session", autouse=True)
def _botocore_reads_a_file_once() -> Iterator[None]:
    """Each session of botocore looks for its files and parses megabytes of JSON anew, and each task makes sessions."""
    load_file, list_services = JSONFileLoader.load_file, Loader.list_available_services
    loads = cache(lambda path: load_file(JSONFileLoader(), path))
    lists = cache(lambda kind: list_services(Loader(), kind))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: loads(path))
        patch.setattr(Loader, "list_available_services", lambda _, type_name: lists(type_name))
        yield


@pytest.fixture(scope="session")
def _short_user_agent() -> Iterator[None]:
    """Amazon's provider looks for its caller's name in the source of the whole stack, and pytest's is a deep one.

    Only what the ``User-Agent`` header says of the caller is another; the tests in ``tests/e2e`` leave it alone.
    """
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AwsGenericHook, "_get_caller", lambda *_: "Unknown")
        yield


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory, _short_user_agent: None) -> Iterator[RcloneS3]:
    with RcloneS3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(_short_user_agent: None) -> Iterator[MotoS3]:
    with MotoS3() as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[GcsEmulator]:
    with GcsEmulator() as server:
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    try:
        server = Azurite()
    except StackError as error:
        # The one server that does not come from PyPI: where there is no npm registry, all else can still be tested.
        pytest.skip(f"AZURE IS NOT TESTED: {error}")
    with server:
        yield server


# -- the bundle over them --------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(database: Database, tmp_path: Path) -> Bundle:
    """The bundle over a migrated database, without a blob store; its tasks log in with the rights of ``role.sql``."""
    connection = database.server.role_connection(database.name)
    return Bundle(f"file://{tmp_path}/reports", connections={"airflow_metadata_db": connection})


@pytest.fixture
def bucket(rclone: RcloneS3, bundle: Bundle) -> Bucket:
    """The bucket that the bundle is configured for."""
    found = Bucket(rclone, f"bucket-{uuid.uuid4().hex[:12]}")
    bundle.connections["aws_xcom"] = json.loads(rclone.airflow_connection_json())
    bundle.common_io["xcom_objectstorage_path"] = found.base
    return found


@pytest.fixture
def live(history: History) -> SeededRun:
    """A young run with a row, so that a base path is never without references for the wrong reason."""
    run = history.run("live", 0.5)
    history.xcom(run, age_days=0.5)
    return run
