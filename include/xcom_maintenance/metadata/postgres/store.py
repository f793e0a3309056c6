"""The metadata store over a Postgres connection (psycopg 2 or 3, whichever the provider brings)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, Self

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.records import ArchivedRow, Coordinates, DatabaseIdentity, RowReference, ValuePlace
from include.xcom_maintenance.core.reference_formats import KNOWN, Formats
from include.xcom_maintenance.core.runs import Cut, Doomed, Run, RunRows, Sample, SampledRows, Scope, YoungerRuns
from include.xcom_maintenance.core.table_figures import Entry, LogicalSizes, SizeGroup, TableHealth
from include.xcom_maintenance.core.values import Movable, ReadValue, Replacement, StoredRow
from include.xcom_maintenance.metadata.ports.cleanup import Deleted
from include.xcom_maintenance.metadata.ports.reconciliation import Circumstances, UnparsableReference
from include.xcom_maintenance.metadata.ports.restore import Return
from include.xcom_maintenance.metadata.ports.shared import OpenArchive, Pressure
from include.xcom_maintenance.metadata.ports.size_audit import PushedValue, StoredValue, ValueSpan
from include.xcom_maintenance.metadata.postgres import (
    archive as postgres_archive,
)
from include.xcom_maintenance.metadata.postgres import (
    audit as postgres_audit,
)
from include.xcom_maintenance.metadata.postgres import (
    offload as postgres_offload,
)
from include.xcom_maintenance.metadata.postgres import (
    reconciliation as postgres_reconciliation,
)
from include.xcom_maintenance.metadata.postgres import references as refs
from include.xcom_maintenance.metadata.postgres import (
    restore as postgres_restore,
)
from include.xcom_maintenance.metadata.postgres import retention
from include.xcom_maintenance.metadata.postgres import (
    rotation as postgres_rotation,
)
from include.xcom_maintenance.metadata.postgres import rows as sql
from include.xcom_maintenance.metadata.postgres import (
    values as postgres_values,
)
from include.xcom_maintenance.metadata.postgres.session import BY_INDEX, IN_PAGE_ORDER, Session


class PostgresMetadataStore:
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
        self._session = Session(
            connect,
            setting=setting,
            lock_timeout=lock_timeout,
            statement_timeout=statement_timeout,
            retry_seconds=retry_seconds,
        )
        self._audit = postgres_audit.AuditQueries(self._session)
        self._setting = setting
        self._accepted_revision = accepted_revision
        self._formats = formats
        self._may_lock_runs = False
        self._few_unfinished = self._knows_creation = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    # -- what this database is -------------------------------------------------------------------------------------

    def check(
        self, *, may_delete: bool, reads_references: bool, may_insert: bool = False, may_update: bool = False
    ) -> DatabaseIdentity:
        columns = {
            name: dict(found) for name, found in self._session.rows(sql.COLUMNS, {"tables": list(sql.REQUIRED_COLUMNS)})
        }
        wrong = [
            f"{table}.{name}"
            for table, required in sql.REQUIRED_COLUMNS.items()
            for name, kind in required.items()
            if columns.get(table, {}).get(name) != kind
        ]
        if wrong:
            missing_tables = sorted(set(sql.REQUIRED_COLUMNS) - set(columns))
            if missing_tables:
                raise ConfigurationError(
                    "This is not an Airflow metadata database: it has no table " + ", ".join(missing_tables),
                    setting=self._setting,
                    remedy="Point the connection at the database (and, with the extra 'options', at the schema) "
                    "in which Airflow keeps its own tables",
                )
            raise ConfigurationError(
                "The schema of this metadata database is not known: missing or of another type are " + ", ".join(wrong),
                setting=self._setting,
                remedy="Airflow 3.1 or later on Postgres is needed; run `airflow db migrate`, or update the bundle",
            )
        wanted = {"DELETE": may_delete, "INSERT": may_insert, "UPDATE (value)": may_update}
        rights = [right for right, needed in wanted.items() if needed]
        self._knows_creation = "created_at" in columns["dag_run"]
        self._check_rights(rights, reads_references=reads_references)
        return self._identity()

    def _check_rights(self, on_xcom: Sequence[str], *, reads_references: bool) -> None:
        needed = [(table, "SELECT") for table in sql.REQUIRED_COLUMNS]
        if reads_references:
            needed += [(name, "SELECT") for name, _, _ in self._session.rows(sql.ARCHIVE_TABLES, {})]
        needed += [("xcom", right) for right in on_xcom]
        tables, rights = [n[0] for n in needed], [n[1] for n in needed]
        missing = self._session.rows(
            """SELECT current_user, needed.name, needed.privilege
               FROM unnest(%(tables)s::text[], %(rights)s::text[]) AS needed(name, privilege)
               WHERE NOT CASE WHEN needed.privilege = 'UPDATE (value)'
                              THEN has_column_privilege(to_regclass(needed.name), 'value', 'UPDATE')
                              ELSE has_table_privilege(to_regclass(needed.name), needed.privilege) END""",
            {"tables": tables, "rights": rights},
        )
        if missing:
            role = missing[0][0]
            grants = "; ".join(f'GRANT {right} ON {table} TO "{role}"' for _, table, right in missing)
            raise ConfigurationError(
                f"The role {role!r} of the metadata connection lacks rights: "
                + ", ".join(f"{right} on {table}" for _, table, right in missing),
                setting=self._setting,
                remedy=f"As the owner of the tables, run: {grants}",
            )
        # FOR SHARE needs a right to write; without it the delete still looks at the runs before and after.
        lockable = self._session.rows("SELECT has_any_column_privilege('dag_run', 'UPDATE')", {})[0][0]
        self._may_lock_runs = bool(lockable)
        self._few_unfinished = bool(self._session.rows(retention.FEW_UNFINISHED)[0][0])

    def _identity(self) -> DatabaseIdentity:
        [(cluster, database)] = self._session.rows(
            "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text", {}
        )
        revisions = [row[0] for row in self._session.rows("SELECT version_num FROM alembic_version", {})]
        revision = ", ".join(revisions) or "none"
        if revision not in sql.KNOWN_REVISIONS and revision != self._accepted_revision:
            raise ConfigurationError(
                f"The schema revision {revision!r} of this metadata database is not known; known are "
                + ", ".join(f"{known} (Airflow {version})" for known, version in sql.KNOWN_REVISIONS.items()),
                setting="accept_schema_revision",
                remedy=f"Update the bundle, or set accept_schema_revision to {revision!r} and read a report first",
            )
        return DatabaseIdentity(cluster, database, revision)

    def now(self) -> datetime:
        [(now,)] = self._session.rows("SELECT clock_timestamp()", {})
        # In UTC, whatever the session says: a day of a zone with summer time can have 23 hours.
        return now.astimezone(UTC)  # type: ignore[no-any-return]

    # -- retention -------------------------------------------------------------------------------------------------

    def dag_tags(self) -> dict[str, frozenset[str]]:
        rows = self._session.rows("SELECT dag_id, array_agg(name::text) FROM dag_tag GROUP BY dag_id", {})
        return {dag_id: frozenset(names) for dag_id, names in rows}

    def runs(self, *, created_before: datetime | None = None) -> Iterator[Run | YoungerRuns]:
        parameters = {**retention.STATES, "horizon": _horizon(created_before)}
        statement = retention.runs(few_unfinished=self._few_unfinished, knows_creation=self._knows_creation)
        for dag_id, number, run_id, state, run_after, unfinished in self._session.stream(statement, parameters):
            if number is None:
                yield YoungerRuns(dag_id, finished=int(run_id), unfinished=int(state))
            else:
                yield Run(number, dag_id, run_id, state, run_after, unfinished)

    def newest_finished_runs(self, count: int) -> Iterator[Run]:
        statement = retention.newest_finished_runs(few_unfinished=self._few_unfinished)
        for dag_id, number, *rest in self._session.rows(statement, {**retention.STATES, "count": count}):
            yield Run(number, dag_id, *rest)

    def sample(self, scopes: Sequence[Scope], *, created_before: datetime | None = None) -> Sample:
        statement, parameters = retention.sample(scopes, knows_creation=self._knows_creation)
        found = self._session.rows(statement, {**parameters, "horizon": _horizon(created_before)})
        groups = [
            SampledRows(dag, run, done, bits, n, int(size))
            for _, dag, run, done, bits, n, size in found
            if dag is not None
        ]
        return Sample(float(found[0][0]) / 100, groups)

    def measure(self, pieces: Iterable[Doomed]) -> Iterator[RunRows]:
        wanted = list(self._measuring(pieces))
        queries = [(statements.measure, statements.parameters, statements.access) for _, statements in wanted]
        with closing(self._session.side_by_side(queries)) as answers:
            for (which, _), rows in zip(wanted, answers, strict=True):
                for run, *figures in rows:
                    yield _run_rows(run, which, *figures)

    def _measuring(self, pieces: Iterable[Doomed]) -> Iterator[tuple[int, retention.Retention]]:
        """The statements of each cut of each piece, by its position."""
        # To find the latest values is a look at all rows of a DAG, which is done once.
        later: dict[int, tuple[Cut, list[int]]] = {}
        for piece in pieces:
            for which, runs in piece.by_cut().items():
                cut = piece.cuts[which]
                if cut.keep_latest_value:
                    later.setdefault(which, (cut, []))[1].extend(runs)
                else:
                    yield which, self._retention(cut, runs)
        for which, (cut, runs) in later.items():
            yield which, self._retention(cut, runs)

    def doomed_references(self, doomed: Doomed, base: BasePath) -> Iterator[RowReference]:
        found_in_cuts = (
            self._session.stream(wanted.references, {**wanted.parameters, "marker": base.marker}, access=wanted.access)
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
            except retention.CameToLifeError as error:
                remaining = remaining.without(error.dag_run_ids)
            if not remaining.dag_run_ids:
                return Deleted(0)

    def _delete(self, doomed: Doomed, limit: int | None, archive: OpenArchive | None) -> Deleted:
        """One transaction.

        :raises CameToLifeError: if a run of the batch did while the statement ran; nothing was deleted then.
        """
        wanted = self._retentions(doomed)
        # A limited scan ends early, so it must not look for all places before it begins.
        in_page_order = limit is None and all(statements.access == IN_PAGE_ORDER for statements in wanted)
        runs = {**retention.STATES, "ids": retention.array(sorted(set(doomed.dag_run_ids)))}

        def work(cursor: Any) -> Deleted:
            cursor.execute(IN_PAGE_ORDER if in_page_order else BY_INDEX)
            if self._may_lock_runs:
                cursor.execute(retention.LOCK_RUNS, runs)
            if archive is None:
                deleted = _delete_each(wanted, limit, partial(_affected, cursor))
                self._check_still_finished(cursor, runs)
                return deleted
            # The archive is complete and safe on disk when its context ends, which is before the commit.
            with archive() as sink:
                deleted = _delete_each(
                    wanted,
                    limit,
                    lambda statement, parameters: postgres_archive.copy_deleted(cursor, statement, parameters, sink),
                    returning=postgres_archive.RETURNING,
                )
                self._check_still_finished(cursor, runs)
            return deleted

        return self._session.change(work)

    def _check_still_finished(self, cursor: Any, runs: Mapping[str, Any]) -> None:
        cursor.execute(retention.unfinished(few_unfinished=self._few_unfinished), runs)
        revived = {row[0] for row in cursor.fetchall()}
        if revived:
            raise retention.CameToLifeError(revived)

    def _retentions(self, doomed: Doomed) -> list[retention.Retention]:
        """The statements of each cut."""
        return [self._retention(doomed.cuts[which], runs) for which, runs in doomed.by_cut().items()]

    def _retention(self, cut: Cut, runs: Sequence[int]) -> retention.Retention:
        return retention.Retention(cut, runs, few_unfinished=self._few_unfinished)

    def pressure(self) -> Pressure:
        [(waits, lag)] = self._session.rows(sql.PRESSURE)
        return Pressure(waits, None if lag is None else float(lag))

    def may_see_replication(self) -> bool:
        return bool(self._session.rows("SELECT pg_has_role('pg_read_all_stats', 'USAGE')")[0][0])

    def may_vacuum(self) -> bool:
        return bool(self._session.rows(sql.MAY_VACUUM)[0][0])

    def vacuum(self) -> None:
        self._session.outside_transactions("VACUUM (ANALYZE) xcom")

    # -- references ------------------------------------------------------------------------------------------------

    def references(self, base: BasePath) -> Iterator[RowReference]:
        return refs.references(self._session, base, self._formats)

    def referenced(self, keys: Collection[str]) -> set[str]:
        return refs.meant(self._session, refs.names_of(keys, self._formats))

    def still_there(self, references: Sequence[RowReference]) -> list[RowReference]:
        found = self._session.rows(
            sql.EXISTING_ROWS,
            {
                "dag_ids": [r.dag_id for r in references],
                "task_ids": [r.task_id for r in references],
                "run_ids": [r.run_id for r in references],
                "map_indexes": [r.map_index for r in references],
                "keys": [r.xcom_key for r in references],
            },
        )
        return [references[number - 1] for (number,) in sorted(found)]

    def delete_dangling(
        self,
        references: Sequence[RowReference],
        *,
        archive: OpenArchive | None = None,
    ) -> int:
        parameters = {**retention.STATES, **postgres_reconciliation.rows_of(references)}
        delete = postgres_reconciliation.DELETE_DANGLING

        def work(cursor: Any) -> int:
            if self._may_lock_runs:  # a clear waits, or is seen
                cursor.execute(postgres_reconciliation.RUNS_OF, parameters)
                cursor.execute(retention.LOCK_RUNS, {"ids": [number for (number,) in cursor.fetchall()]})
            if archive is None:
                cursor.execute(delete, parameters)
                return int(cursor.rowcount)
            with archive() as sink:
                deleting = f"{delete} RETURNING {postgres_archive.RETURNING}"
                return postgres_archive.copy_deleted(cursor, deleting, parameters, sink)

        return self._session.change(work)

    def unfinished_runs(self, runs: Collection[Coordinates]) -> set[tuple[str, str]]:
        pairs = sorted({(run.dag_id, run.run_id) for run in runs})
        parameters = {"dag_ids": [p[0] for p in pairs], "run_ids": [p[1] for p in pairs], **retention.STATES}
        return {(dag_id, run_id) for dag_id, run_id in self._session.rows(sql.UNFINISHED_RUNS, parameters)}

    def circumstances(self, places: Collection[Coordinates], base: BasePath) -> dict[Coordinates, Circumstances]:
        return postgres_reconciliation.circumstances(self._session, places, base)

    def known_dags(self, dag_ids: Collection[str]) -> set[str]:
        # A DAG that was deleted in the UI is gone from every table but the log, which remembers that it was ours.
        logged = "OR EXISTS (SELECT FROM log WHERE log.dag_id = c.id)" if self._may_read("log") else ""
        rows = self._session.rows(
            f"""SELECT c.id FROM unnest(%(ids)s::text[]) AS c(id)
                WHERE EXISTS (SELECT FROM dag WHERE dag.dag_id = c.id)
                   OR EXISTS (SELECT FROM dag_run WHERE dag_run.dag_id = c.id) {logged}""",
            {"ids": sorted(dag_ids)},
        )
        return {row[0] for row in rows}

    def _may_read(self, table: str) -> bool:
        rows = self._session.rows("SELECT has_table_privilege(to_regclass(%(t)s), 'SELECT')", {"t": table})
        return bool(rows[0][0])

    # -- sizes -----------------------------------------------------------------------------------------------------

    def sizes(self, top: int, *, since: datetime, wanted: Sequence[tuple[str, str, str]] = ()) -> Iterator[SizeGroup]:
        return self._audit.sizes(top, since=since, wanted=wanted)

    def logical_sizes(
        self,
        share: float,
        *,
        since: datetime,
        seconds: float,
        tasks: Sequence[tuple[str, str]] = (),
        keys: Sequence[tuple[str, str, str]] = (),
    ) -> LogicalSizes:
        return self._audit.logical_sizes(share, since=since, seconds=seconds, tasks=tasks, keys=keys)

    def largest_entries(self, limit: int) -> list[Entry]:
        return self._audit.largest_entries(limit)

    def logical_bytes(self, entry: Entry, *, seconds: float) -> int | None:
        return self._audit.logical_bytes(entry, seconds=seconds)

    def table_health(self) -> TableHealth:
        return self._audit.table_health()

    def dags(self) -> dict[str, bool]:
        return self._audit.dags()

    def whole_references(self, base: BasePath) -> Iterator[RowReference]:
        for *place, size, text in self._session.stream(postgres_audit.WHOLE_REFERENCES, {"marker": base.marker}):
            # One that cannot be read names no blob that a backend wrote.
            with suppress(UnparsableReference):
                found = refs.by_uri(
                    ("xcom", *place), text, stored_bytes=size, entire=True, whole=True, base=base, formats=self._formats
                )
                if found is not None and found.whole:
                    yield found

    def row_count_estimate(self) -> int:
        [(estimate,)] = self._session.rows("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass('xcom')", {})
        if estimate > 100_000:
            return int(estimate)
        # Never analysed (-1) or small enough to count.
        [(exact,)] = self._session.rows("SELECT count(*) FROM xcom", {})
        return int(exact)

    # -- values ----------------------------------------------------------------------------------------------------

    def values(self, span: ValueSpan, *, max_value_bytes: int) -> Iterator[PushedValue]:
        return postgres_values.values(self._session, span, max_value_bytes=max_value_bytes)

    def count_values(self, span: ValueSpan) -> int:
        return postgres_values.count(self._session, span)

    def values_still_there(self, keys: Sequence[tuple[str, str, str, datetime]]) -> list[bool]:
        return postgres_values.still_there(self._session, keys)

    def stored(self, dag_id: str, run_id: str, task_id: str, map_index: int, key: str) -> StoredValue | None:
        place = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index, "key": key}
        found = self._session.rows(postgres_values.STORED, place)
        return StoredValue(*found[0]) if found else None

    # -- rotating keys ---------------------------------------------------------------------------------------------

    def stored_rows(self) -> Iterator[StoredRow]:
        return postgres_rotation.stored_rows(self._session)

    def stored_rows_at(self, places: Sequence[ValuePlace]) -> list[StoredRow]:
        return postgres_rotation.stored_rows_at(self._session, places)

    def replace_stored(self, changes: Sequence[tuple[StoredRow, str]]) -> list[bool]:
        return postgres_rotation.replace_stored(self._session, changes)

    # -- restoring -------------------------------------------------------------------------------------------------

    def restorable(self, rows: Sequence[ArchivedRow]) -> list[Return]:
        found = dict(self._session.rows(postgres_restore.RESTORABLE, postgres_restore.places(rows)))
        return [Return[found[number]] for number in range(1, len(rows) + 1)]

    def restore(self, rows: Sequence[ArchivedRow]) -> int:
        if not rows:
            return 0

        def work(cursor: Any) -> int:
            with postgres_restore.unreadable_rows():
                cursor.execute(postgres_restore.COLUMNS, {"line": min((row.line for row in rows), key=len)})
                columns = [name for (name,) in cursor.fetchall()]
                cursor.execute(postgres_restore.restore(columns), {"lines": sql.in_lines(row.line for row in rows)})
                return int(cursor.rowcount)

        return self._session.change(work)

    # -- values that move ------------------------------------------------------------------------------------------

    def large_values(self, min_bytes: int) -> Iterator[Movable]:
        return postgres_offload.large_values(self._session, min_bytes)

    def offloaded_values(self) -> Iterator[Movable]:
        return postgres_offload.offloaded_values(self._session)

    def read_values(self, places: Sequence[ValuePlace]) -> list[ReadValue]:
        return postgres_offload.texts(self._session, places)

    def as_stored(self, text: str) -> str | None:
        return postgres_offload.as_stored(self._session, text)

    def replace_values(self, replacements: Sequence[Replacement]) -> list[Replacement]:
        return postgres_offload.replace(
            self._session, replacements, few_unfinished=self._few_unfinished, may_lock_runs=self._may_lock_runs
        )


def _delete_each(
    wanted: Sequence[retention.Retention],
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


def _run_rows(
    dag_run_id: int, which: int, rows: int, size: int, staying: int, staying_size: int, latest: int, latest_size: int
) -> RunRows:
    younger, younger_size = staying - latest, staying_size - latest_size
    return RunRows(dag_run_id, which, rows - staying, size - staying_size, younger, younger_size, latest, latest_size)


def _affected(cursor: Any, statement: str, parameters: Mapping[str, Any]) -> int:
    cursor.execute(statement, parameters)
    return int(cursor.rowcount)


def _horizon(created_before: datetime | None) -> str:
    return "infinity" if created_before is None else created_before.isoformat()
