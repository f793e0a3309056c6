"""The settings that more than one DAG has."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from include.xcom_maintenance.core.reference_formats import KNOWN, Formats, Layout, layout
from include.xcom_maintenance.settings.fields import (
    ConnectionId,
    Count,
    Days,
    Place,
    Positive,
    Seconds,
    class_path,
    mode_for_dags,
    no_bool,
)


class BlobFormat(BaseModel):
    """How a backend of one's own names its blobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    #: A Python regular expression for a whole key below the base path, with the named groups ``unique`` (a UUID or 32
    #: hexadecimal digits), ``dag_id``, ``run_id`` and ``task_id``; and ``file`` where several blobs share ``unique``.
    key: Annotated[str, Field(min_length=1, max_length=1_000)]

    @model_validator(mode="after")
    def _usable(self) -> BlobFormat:
        self.layout()
        return self

    def layout(self) -> Layout:
        return layout(self.name, self.key)


class CommonSettings(BaseModel):
    """What more than one DAG has. Times are days or seconds, sizes bytes, as the names say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # What a class says in these is about its own settings; ``layers`` puts together what its bases say.
    #: Settings that the trigger form alone sets.
    FORM_ONLY: ClassVar[frozenset[str]] = frozenset()
    #: Whether the mode, too, is set in the trigger form alone: what lets other DAGs delete says nothing about this one.
    OWN_MODE: ClassVar[bool] = False
    #: For these null means the same as leaving them out: what Airflow itself is configured with.
    DERIVED: ClassVar[frozenset[str]] = frozenset({"blob_base_path", "report_path"})
    #: Settings whose wrong value is not shown, since it may be a secret in the wrong place.
    NOT_SHOWN: ClassVar[frozenset[str]] = frozenset(
        {
            *("metadata_conn_id", "blob_conn_id", "blob_base_path", "report_path", "archive_path"),
            *("notifier", "notifier_kwargs"),
        }
    )
    #: What to do about a wrong value, where there is more to say than to correct it.
    HINTS: ClassVar[dict[str, str]] = {"mode": "Use report (changes nothing) or enforce"}

    #: report changes nothing; enforce deletes. One for all DAGs, or by DAG id.
    mode: Annotated[str | dict[str, str], BeforeValidator(mode_for_dags)] = "report"
    #: A Postgres Connection to the metadata database: tasks cannot use Airflow's own.
    metadata_conn_id: ConnectionId = "airflow_metadata_db"
    #: A schema revision that is not known to the bundle, and that the user vouches for.
    accept_schema_revision: str | None = None
    #: Where the XCom backend keeps its blobs; None: `[common.io] xcom_objectstorage_path`.
    blob_base_path: Place | None = None
    #: The Connection to that store; None: the one in the base path, else the provider's default.
    blob_conn_id: ConnectionId | None = None
    #: Layouts beside the known ones.
    blob_formats: tuple[BlobFormat, ...] = ()
    #: Whether blobs may be deleted for good where the store deletes also what was written again since the last look. If
    #: not, they go into quarantine there.
    delete_without_conditions: bool = False
    #: A manifest.json of an S3 Inventory, or the folder of the dated folders: the listing, instead of LIST calls.
    inventory_manifest: Place | None = None
    #: Any path that ObjectStoragePath takes; None: `xcom_maintenance_reports` in AIRFLOW_HOME.
    report_path: Place | None = None
    #: Where deleted rows are archived: any path that ObjectStoragePath takes; None: they are not.
    archive_path: Place | None = None
    #: How many lines the longest tables of a report have.
    top_entries: Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=1_000)] = 20

    #: The largest batch: one short transaction.
    batch_rows: Annotated[Positive, Field(le=10_000_000)] = 40_000
    batch_bytes: Annotated[Positive, Field(le=2**40)] = 64 * 1024 * 1024
    #: A pause between batches, for the database's other users.
    batch_pause_seconds: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=3_600)] = 0
    lock_timeout_seconds: Seconds = 5
    statement_timeout_seconds: Seconds = 600
    #: How long a batch is tried again after a lost connection, a deadlock or a lock that was not granted.
    retry_seconds: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=3_600)] = 60
    #: Work waits while more locks are waited for, or the slowest replica lags further behind; None: whatever.
    max_lock_waits: Count | None = 10
    max_replication_lag_seconds: Seconds | None = None
    #: Work goes on for so long; what is left goes on in the next run. None: until all is done.
    max_minutes: Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=10_080)] | None = None
    #: So many tasks share a plan at most.
    max_shards: Annotated[Positive, Field(le=1_000)] = 8
    #: VACUUM (ANALYZE) the table after rows were deleted.
    vacuum: bool = False

    #: Above a limit: ask a person in the Airflow UI, approve unasked, or refuse.
    on_limit: Literal["ask", "approve", "refuse"] = "ask"
    #: How long an answer is waited for; then it is no.
    approval_timeout_hours: Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=8_760)] = 24

    #: The class of a provider's notifier, which is told what needs a person; None: nobody is told.
    notifier: Annotated[str, AfterValidator(class_path)] | None = None
    #: What the notifier is made with; never shown, since it may hold the address of a webhook.
    notifier_kwargs: dict[str, Any] = Field(default_factory=dict)
    #: A cleanup that has not enforced for this long says so; None: never.
    warn_not_enforced_days: Days | None = 30

    def mode_of(self, dag_id: str) -> str:
        """The mode of a DAG: ``report`` or ``enforce``."""
        return self.mode.get(dag_id, "report") if isinstance(self.mode, dict) else self.mode

    @property
    def formats(self) -> Formats:
        """In which blobs are named."""
        return KNOWN.and_also(declared.layout() for declared in self.blob_formats)

    def described(self) -> dict[str, Any]:
        """Every setting for the report, as plain values."""
        return {**self.model_dump(mode="json"), "notifier_kwargs": sorted(self.notifier_kwargs)}
