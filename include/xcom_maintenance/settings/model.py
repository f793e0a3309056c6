"""Everything that can be configured, as one validated whole."""

from __future__ import annotations

from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from include.xcom_maintenance.core.records import Scope
from include.xcom_maintenance.core.retention import Rule
from include.xcom_maintenance.settings.audit import AuditSettings
from include.xcom_maintenance.settings.fields import (
    Choice,
    ConnectionId,
    Count,
    Days,
    Globs,
    NoGlobs,
    Place,
    Positive,
    Seconds,
    Share,
    class_path,
    mode_for_dags,
    no_bool,
)
from include.xcom_maintenance.settings.reconciliation import ReconciliationSettings


class RetentionRule(BaseModel):
    """A retention rule as users write it; what it leaves out comes from the settings of the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dag_ids: Globs = ("*",)
    exclude_dag_ids: NoGlobs = ()
    tags: NoGlobs = ()
    exclude_tags: NoGlobs = ()
    task_ids: Globs = ("*",)
    exclude_task_ids: NoGlobs = ()
    keys: Globs = ("*",)
    exclude_keys: NoGlobs = ()
    #: An explicit null means that age takes nothing.
    max_age_days: Days | None = None
    max_runs: Positive | None = None
    min_runs: Count | None = None
    keep_latest_value: bool = False
    hold: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> RetentionRule:
        limits = {"max_age_days", "max_runs", "min_runs", "keep_latest_value"} & self.model_fields_set
        if self.hold and limits:
            raise ValueError(f"hold keeps everything, so it contradicts {', '.join(sorted(limits))}")
        if not self.hold and self.max_runs is None and self.age_is_off:
            raise ValueError("max_age_days is null and max_runs is not set: use hold: true to keep everything")
        if self.max_runs is not None and (self.min_runs or 0) > self.max_runs:
            raise ValueError(f"min_runs ({self.min_runs}) is above max_runs ({self.max_runs})")
        return self

    @property
    def age_is_off(self) -> bool:
        return self.max_age_days is None and "max_age_days" in self.model_fields_set


class Settings(AuditSettings, ReconciliationSettings):
    """Everything that can be configured. Times are days or seconds, sizes bytes, as the names say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: What is set for one run, in the trigger form, and nowhere else.
    FORM_ONLY: ClassVar[frozenset[str]] = frozenset()

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
    #: Any path that ObjectStoragePath takes; None: `xcom_maintenance_reports` in AIRFLOW_HOME.
    report_path: Place | None = None
    #: Where deleted rows are archived: any path that ObjectStoragePath takes; None: they are not.
    archive_path: Place | None = None

    max_age_days: Days = 7
    max_runs: Positive | None = None
    min_runs: Count = 1
    retention: Annotated[tuple[RetentionRule, ...], Field(min_length=1)] = (RetentionRule(),)

    #: The largest batch: one short transaction.
    batch_rows: Annotated[Positive, Field(le=10_000_000)] = 40_000
    batch_bytes: Annotated[Positive, Field(le=2**40)] = 64 * 1024 * 1024
    #: A pause between batches, for the database's other users.
    batch_pause_seconds: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=3_600)] = 0
    lock_timeout_seconds: Seconds = 5
    statement_timeout_seconds: Seconds = 600

    #: How long a batch is tried again after a lost connection, a deadlock or a lock that was not granted.
    retry_seconds: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=3_600)] = 60
    #: The cleanup waits while more locks are waited for, or the slowest replica lags further behind; None: whatever.
    max_lock_waits: Count | None = 10
    max_replication_lag_seconds: Seconds | None = None
    #: Rows are deleted for so long; what is left goes on in the next run. None: until all is done.
    max_minutes: Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=10_080)] | None = None
    #: A worker gets at least so many rows to delete, and so many work at a time.
    shard_rows: Positive = 300_000
    max_shards: Annotated[Positive, Field(le=1_000)] = 8
    #: Values from so many bytes on as JSON are moved into blobs by hand; None: the threshold of the XCom backend.
    offload_threshold_bytes: Annotated[Positive, Field(ge=1_024)] | None = None
    #: VACUUM (ANALYZE) the table after rows were deleted.
    vacuum: bool = False

    #: Above these a cleanup asks first; None: no limit.
    max_delete_rows: Positive | None = None
    max_delete_bytes: Positive | None = None
    max_delete_share: Share | None = None
    #: ask a person in the Airflow UI, approve unasked, or refuse.
    on_limit: Literal["ask", "approve", "refuse"] = "ask"
    #: How long an answer is waited for; then it is no.
    approval_timeout_hours: Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=8_760)] = 24

    #: The class of a provider's notifier, which is told what needs a person; None: nobody is told.
    notifier: Annotated[str, AfterValidator(class_path)] | None = None
    #: What the notifier is made with; never shown, since it may hold the address of a webhook.
    notifier_kwargs: dict[str, Any] = Field(default_factory=dict)
    #: A cleanup that has not enforced for this long says so; None: never.
    warn_not_enforced_days: Days | None = 30

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.max_runs is not None and self.min_runs > self.max_runs:
            raise ValueError(f"min_runs ({self.min_runs}) is above max_runs ({self.max_runs})")
        rules = self.rules()
        for number, rule in enumerate(rules):
            if not rule.hold and rule.max_runs is not None and rule.min_runs > rule.max_runs:
                raise ValueError(
                    f"rule {number} of retention: min_runs ({rule.min_runs}) is above max_runs ({rule.max_runs})"
                )
            for earlier in range(number):
                if rules[earlier].covers(rule):
                    raise ValueError(
                        f"rule {earlier} of retention matches whatever rule {number} does, so rule {number} is never "
                        "tried: the first rule that matches decides, so put the narrower one first"
                    )
        return self

    def mode_of(self, dag_id: str) -> str:
        """The mode of a DAG: ``report`` or ``enforce``."""
        return self.mode.get(dag_id, "report") if isinstance(self.mode, dict) else self.mode

    def rules(self) -> tuple[Rule, ...]:
        """The retention rules, completed from the settings that they inherit."""
        return tuple(self._complete(rule) for rule in self.retention)

    def _complete(self, rule: RetentionRule) -> Rule:
        days = self.max_age_days if rule.max_age_days is None else rule.max_age_days
        return Rule(
            dag_ids=rule.dag_ids,
            exclude_dag_ids=rule.exclude_dag_ids,
            tags=rule.tags,
            exclude_tags=rule.exclude_tags,
            scope=Scope(rule.task_ids, rule.exclude_task_ids, rule.keys, rule.exclude_keys),
            max_age=None if rule.age_is_off else timedelta(days=days),
            max_runs=self.max_runs if rule.max_runs is None else rule.max_runs,
            min_runs=self.min_runs if rule.min_runs is None else rule.min_runs,
            keep_latest_value=rule.keep_latest_value,
            hold=rule.hold,
        )


class RotateSettings(Settings):
    """The settings of ``xcom_rotate_keys``: what lets other DAGs delete does not let this one rewrite rows."""

    FORM_ONLY: ClassVar[frozenset[str]] = frozenset({"mode"})


class RestoreSettings(Settings):
    """The settings of ``xcom_restore``, whose own ones are set for one run, in the trigger form, and nowhere else."""

    #: Also the mode: one that lets a cleanup delete says nothing about putting rows back.
    FORM_ONLY: ClassVar[frozenset[str]] = frozenset({"mode", "archive", "quarantine", "dag_ids", "run_ids", "task_ids"})

    #: A folder or a file of an archive; what is no address is taken below archive_path.
    archive: Place | None = None
    #: Blobs instead of rows: what a run of the reconciliation put into quarantine, by its run id, its manifest or the
    #: folder in the quarantine; or all.
    quarantine: Annotated[str, Field(min_length=1)] | None = None
    #: Globs of what to restore; empty: everything.
    dag_ids: Choice = ()
    run_ids: Choice = ()
    task_ids: Choice = ()

    def chooses(self, dag_id: str, run_id: str, task_id: str) -> bool:
        """Whether the rows of a task instance are among those to restore."""
        chosen = ((dag_id, self.dag_ids), (run_id, self.run_ids), (task_id, self.task_ids))
        return all(not globs or any(fnmatchcase(name, glob) for glob in globs) for name, globs in chosen)


class OffloadSettings(Settings):
    """The settings of ``xcom_offload_large_values``; its own ones are set in the trigger form, and nowhere else."""

    #: Also the mode: one that lets a cleanup delete says nothing about moving values.
    FORM_ONLY: ClassVar[frozenset[str]] = frozenset({"mode", "direction", "dag_ids"})

    #: offload moves values from rows into blobs, inline brings them back.
    direction: Literal["offload", "inline"] = "offload"
    #: Globs of the DAGs whose values move; empty: all.
    dag_ids: Choice = ()

    def chooses(self, dag_id: str) -> bool:
        """Whether the values of a DAG are among those to move."""
        return not self.dag_ids or any(fnmatchcase(dag_id, glob) for glob in self.dag_ids)
