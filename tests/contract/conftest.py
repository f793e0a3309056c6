"""What the suites of the metadata port share."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from include.xcom_maintenance.metadata.ports import MetadataStore
from tests.conftest import Database


@pytest.fixture(params=["psycopg", "psycopg2"])
def store(request: pytest.FixtureRequest, database: Database) -> Iterator[MetadataStore]:
    """The adapter, over either driver that the hook may bring."""

    def with_psycopg2() -> object:
        server = database.server
        return psycopg2.connect(
            host=server.host, port=server.port, user=server.user, password=server.password, dbname=database.name
        )

    with database.store(with_psycopg2 if request.param == "psycopg2" else None) as opened:
        yield opened
