"""What a cleanup deletes, and the references that go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.core.runs import Doomed
from include.xcom_maintenance.metadata.ports.cleanup import Deleted
from include.xcom_maintenance.metadata.ports.reconciliation import UnparsableReference
from include.xcom_maintenance.metadata.ports.shared import OpenArchive
from include.xcom_maintenance.metadata.postgres import references as refs
from include.xcom_maintenance.metadata.postgres.archive import RETURNING, copy_deleted
from include.xcom_maintenance.metadata.postgres.retention import Retention, RetentionQueries
from include.xcom_maintenance.metadata.postgres.session import BY_INDEX
from include.xcom_maintenance.metadata.postgres.states import LOCK_RUNS, STATES, CameToLifeError


class CleanupQueries(RetentionQueries):
    """Delete by the retention rules; every condition stands in the statement itself."""

    def doomed_references(self, doomed: Doomed, base: BasePath) -> Iterator[RowReference]:
        found_in_cuts = (
            self._session.stream(wanted.references, {**wanted.parameters, "marker": base.marker}, access=BY_INDEX)
            for wanted in self._retentions(doomed)
        )
        for *place, size, text in chain.from_iterable(found_in_cuts):
            # One that cannot be read names no blob that a backend wrote.
            with suppress(UnparsableReference):
                found = refs.by_uri(
                    ("xcom", *place), text, stored_bytes=size, entire=True, whole=True, base=base, formats=self._formats
                )
                if found is not None:
                    yield found

    def delete(
        self,
        doomed: Doomed,
        *,
        limit: int | None = None,
        archive: OpenArchive | None = None,
    ) -> Deleted:
        remaining = doomed
        while True:
            try:
                return self._delete(remaining, limit, archive)
            except CameToLifeError as error:
                remaining = remaining.without(error.dag_run_ids)
            if not remaining.dag_run_ids:
                return Deleted(0)

    def _delete(self, doomed: Doomed, limit: int | None, archive: OpenArchive | None) -> Deleted:
        """One transaction.

        :raises CameToLifeError: if a run of the batch did while the statement ran; nothing was deleted then.
        """
        wanted = self._retentions(doomed)
        runs = {**STATES, "ids": sorted(set(doomed.dag_run_ids))}

        def work(cursor: Any) -> Deleted:
            cursor.execute(BY_INDEX)
            if self._may_lock_runs:
                cursor.execute(LOCK_RUNS, runs)
            if archive is None:
                deleted = _delete_each(wanted, limit, partial(_affected, cursor))
                self._check_still_finished(cursor, runs)
                return deleted
            # The archive is complete and safe on disk when its context ends, which is before the commit.
            with archive() as sink:
                deleted = _delete_each(
                    wanted,
                    limit,
                    lambda statement, parameters: copy_deleted(cursor, statement, parameters, sink),
                    returning=RETURNING,
                )
                self._check_still_finished(cursor, runs)
            return deleted

        return self._session.change(work)


def _delete_each(
    wanted: Sequence[Retention],
    limit: int | None,
    execute: Callable[[str, Mapping[str, Any]], int],
    *,
    returning: str | None = None,
) -> Deleted:
    """Delete what each cut takes, until there are ``limit`` rows.

    :param execute: runs a statement and says how many rows it deleted.
    :param returning: what the statements are to return of each row.
    """
    rows = 0
    for cut in wanted:
        if limit is not None and rows >= limit:
            break
        statement = cut.delete(limited=limit is not None, returning=returning)
        left = None if limit is None else limit - rows
        rows += execute(statement, {**cut.parameters, "limit": left})
    return Deleted(rows)


def _affected(cursor: Any, statement: str, parameters: Mapping[str, Any]) -> int:
    cursor.execute(statement, parameters)
    return int(cursor.rowcount)
