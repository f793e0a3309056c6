"""What all queries of the Postgres adapter stand on."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from include.xcom_maintenance.core.reference_formats import Formats
from include.xcom_maintenance.metadata.postgres.session import Session


class Connected:
    """A session, and what ``check`` has found out about the database."""

    def __init__(self, session: Session, *, setting: str, accepted_revision: str | None, formats: Formats) -> None:
        self._session = session
        self._setting = setting
        self._accepted_revision = accepted_revision
        self._formats = formats
        #: Whether the role may lock runs; without that a delete still looks at them before and after.
        self._may_lock_runs = False
        #: Whether ``dag_run`` says when a run was made.
        self._knows_creation = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()
