"""The metadata store over a Postgres connection (psycopg 2 or 3, whichever the provider brings)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from include.xcom_maintenance.core.reference_formats import KNOWN, Formats
from include.xcom_maintenance.metadata.postgres.audit import AuditQueries
from include.xcom_maintenance.metadata.postgres.cleanup import CleanupQueries
from include.xcom_maintenance.metadata.postgres.offload import OffloadQueries
from include.xcom_maintenance.metadata.postgres.reconciliation import ReconciliationQueries
from include.xcom_maintenance.metadata.postgres.references import ReferenceQueries
from include.xcom_maintenance.metadata.postgres.restore import RestoreQueries
from include.xcom_maintenance.metadata.postgres.rotation import RotationQueries
from include.xcom_maintenance.metadata.postgres.session import Session
from include.xcom_maintenance.metadata.postgres.table import TableQueries
from include.xcom_maintenance.metadata.postgres.values import SecretsQueries


class PostgresMetadataStore(
    CleanupQueries,
    TableQueries,
    AuditQueries,
    SecretsQueries,
    ReferenceQueries,
    ReconciliationQueries,
    RestoreQueries,
    OffloadQueries,
    RotationQueries,
):
    """The ``xcom`` table and its neighbours, in the schema that the connection's search path names.

    The parameters are those of ``Session``, and
    :param accepted_revision: a schema revision that the user vouches for, beside the known ones.
    :param formats: in which blobs are named.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        setting: str,
        lock_timeout: float,
        statement_timeout: float,
        retry_seconds: float = 60,
        accepted_revision: str | None = None,
        formats: Formats = KNOWN,
    ) -> None:
        session = Session(
            connect,
            setting=setting,
            lock_timeout=lock_timeout,
            statement_timeout=statement_timeout,
            retry_seconds=retry_seconds,
        )
        super().__init__(session, setting=setting, accepted_revision=accepted_revision, formats=formats)
