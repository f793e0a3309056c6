"""What the bundle needs of the database: tables, rights, and a schema revision that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.records import DatabaseIdentity
from include.xcom_maintenance.metadata.postgres import rows as sql
from include.xcom_maintenance.metadata.postgres.base import Connected

#: What the bundle reads and writes; a database without it is not one that this code was written for.
REQUIRED_COLUMNS = {
    "xcom": {
        "dag_run_id": "integer",
        "task_id": "character varying",
        "map_index": "integer",
        "key": "character varying",
        "dag_id": "character varying",
        "run_id": "character varying",
        "value": "jsonb",
        "timestamp": "timestamp with time zone",
    },
    "dag_run": {
        "id": "integer",
        "dag_id": "character varying",
        "run_id": "character varying",
        "state": "character varying",
        "logical_date": "timestamp with time zone",
        "run_after": "timestamp with time zone",
        "start_date": "timestamp with time zone",
        "end_date": "timestamp with time zone",
        "updated_at": "timestamp with time zone",
    },
    "task_instance": {
        "dag_id": "character varying",
        "run_id": "character varying",
        "state": "character varying",
        "updated_at": "timestamp with time zone",
        "last_heartbeat_at": "timestamp with time zone",
        "start_date": "timestamp with time zone",
        "end_date": "timestamp with time zone",
        "queued_dttm": "timestamp with time zone",
        "scheduled_dttm": "timestamp with time zone",
    },
    "dag": {"dag_id": "character varying", "next_dagrun": "timestamp with time zone"},
    "dag_tag": {"dag_id": "character varying", "name": "character varying"},
    "alembic_version": {"version_num": "character varying"},
}


COLUMNS = """
SELECT c.relname, jsonb_object_agg(a.attname, format_type(a.atttypid, NULL))
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)
GROUP BY c.relname"""


#: In place of ``xcom`` since Airflow 3.4.
_NEWER_TABLE = "xcom_v2"

#: Alembic heads of the Airflow versions that the bundle knows, from ``airflow.utils.db._REVISION_HEADS_MAP``.
KNOWN_REVISIONS = {
    "cc92b33c6709": "3.1",
    "509b94a1042d": "3.1.8",
    "1d6611b6ab7c": "3.2",
    "d2f4e1b3c5a7": "3.3",
}


class SchemaQueries(Connected):
    """Which database this is, and whether it can be worked with."""

    def check(
        self, *, may_delete: bool, reads_references: bool, may_insert: bool = False, may_update: bool = False
    ) -> DatabaseIdentity:
        tables = [*REQUIRED_COLUMNS, _NEWER_TABLE]
        columns = {name: dict(found) for name, found in self._session.rows(COLUMNS, {"tables": tables})}
        wrong = [
            f"{table}.{name}"
            for table, required in REQUIRED_COLUMNS.items()
            for name, kind in required.items()
            if columns.get(table, {}).get(name) != kind
        ]
        if wrong:
            missing_tables = sorted(set(REQUIRED_COLUMNS) - set(columns))
            if missing_tables == ["xcom"] and _NEWER_TABLE in columns:
                raise ConfigurationError(
                    "This metadata database is of Airflow 3.4 or later, which keeps XComs in the tables xcom_v1 and "
                    "xcom_v2; this version of the bundle knows the table xcom of Airflow 3.1 to 3.3",
                    setting=self._setting,
                    remedy="Update the bundle. Nothing was changed",
                )
            if missing_tables:
                raise ConfigurationError(
                    "This is not an Airflow metadata database: it has no table " + ", ".join(missing_tables),
                    setting=self._setting,
                    remedy="Point the connection at the database (and, with the extra 'options', at the schema) "
                    "in which Airflow keeps its own tables",
                )
            raise ConfigurationError(
                "Unknown schema in this metadata database: these columns are missing or have another type: "
                + ", ".join(wrong),
                setting=self._setting,
                remedy="Airflow 3.1 to 3.3 on Postgres is required; run `airflow db migrate`, or update the bundle",
            )
        wanted = {"DELETE": may_delete, "INSERT": may_insert, "UPDATE (value)": may_update}
        rights = [right for right, needed in wanted.items() if needed]
        self._knows_creation = "created_at" in columns["dag_run"]
        self._check_rights(rights, reads_references=reads_references)
        return self._identity()

    def _check_rights(self, on_xcom: Sequence[str], *, reads_references: bool) -> None:
        needed = [(table, "SELECT") for table in REQUIRED_COLUMNS]
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
                f"The role {role!r} of the metadata connection lacks privileges: "
                + ", ".join(f"{right} on {table}" for _, table, right in missing),
                setting=self._setting,
                remedy=f"As the owner of the tables, run: {grants}",
            )
        # FOR SHARE needs a right to write; without it the delete still looks at the runs before and after.
        lockable = self._session.rows("SELECT has_any_column_privilege('dag_run', 'UPDATE')", {})[0][0]
        self._may_lock_runs = bool(lockable)

    def _identity(self) -> DatabaseIdentity:
        [(cluster, database)] = self._session.rows(
            "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text", {}
        )
        revisions = [row[0] for row in self._session.rows("SELECT version_num FROM alembic_version", {})]
        revision = ", ".join(revisions) or "none"
        if revision not in KNOWN_REVISIONS and revision != self._accepted_revision:
            raise ConfigurationError(
                f"The schema revision {revision!r} of this metadata database is unknown; the bundle knows "
                + ", ".join(f"{known} (Airflow {version})" for known, version in KNOWN_REVISIONS.items()),
                setting="accept_schema_revision",
                remedy=f"Update the bundle, or set accept_schema_revision to {revision!r} and read a report first",
            )
        return DatabaseIdentity(cluster, database, revision)

    def now(self) -> datetime:
        now: datetime
        [(now,)] = self._session.rows("SELECT clock_timestamp()", {})
        # In UTC, whatever the session says: a day of a zone with summer time can have 23 hours.
        return now.astimezone(UTC)

    def _may_read(self, table: str) -> bool:
        rows = self._session.rows("SELECT has_table_privilege(to_regclass(%(t)s), 'SELECT')", {"t": table})
        return bool(rows[0][0])
