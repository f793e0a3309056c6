"""What the metadata database says about the ``xcom`` table as a whole: sizes by group, and its health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class GroupKind(StrEnum):
    """What the rows of a ``SizeGroup`` have in common."""

    #: All rows of a DAG, task and key; only the largest groups come.
    KEY = "key"
    #: All rows of a DAG and task; only the largest groups come.
    TASK = "task"
    #: All rows of a DAG pushed on one day; ``number`` is the day.
    DAY = "day"
    #: All rows of a DAG in one class of sizes; ``number`` is the class.
    CLASS = "class"
    #: All rows of a DAG and task pushed on one day; only those with the most rows come.
    BUSY_DAY = "busy day"
    #: All rows of a mapped task; only those with the largest fan-out come.
    MAPPED = "mapped"
    #: How many different (DAG, task) and (DAG, task, key) there are, in ``rows``.
    TASKS = "tasks"
    KEYS = "keys"


@dataclass(frozen=True, slots=True)
class SizeGroup:
    """Some rows, by stored size: what the database keeps for the values, after its own compression."""

    kind: GroupKind
    dag_id: str
    task_id: str
    key: str
    #: Days since 1970-01-01 (UTC), None for all those before the window; or a class of ``core.sizes``.
    number: int | None
    rows: int
    stored_bytes: int
    #: Largest map index and one; 0 if no task instance was mapped.
    fan_out: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class LogicalGroup:
    """Some rows of a sample, by logical size: that of the value as JSON text, which a task pushes and pulls.

    ``number`` is the day or the class, by logical size.
    """

    kind: GroupKind
    dag_id: str
    task_id: str
    key: str
    number: int | None
    rows: int
    stored_bytes: int
    logical_bytes: int
    #: Of the largest value of a class; None elsewhere, and if all are NULL.
    largest_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LogicalSizes:
    """What a look at values says about logical sizes."""

    #: Of the table's pages that were looked at, in (0, 1]; 1 means all rows.
    share: float
    groups: Sequence[LogicalGroup]


@dataclass(frozen=True, slots=True)
class Entry:
    """One XCom row and the stored bytes of its value."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    key: str
    stored_bytes: int
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class ArchiveTable:
    """A table with XCom rows that ``airflow db clean`` or a migration set aside."""

    name: str
    total_bytes: int
    #: By the database's statistics; None if it has never counted.
    rows_estimate: int | None


@dataclass(frozen=True, slots=True)
class TableHealth:
    """What the database says about the table; bytes are its own figures, rows its estimates; None if it cannot tell.

    A replica has no statistics of rows and vacuums.
    """

    heap_bytes: int
    toast_bytes: int
    index_bytes: int
    total_bytes: int
    database_bytes: int
    live_rows_estimate: int | None = None
    dead_rows_estimate: int | None = None
    last_vacuum: datetime | None = None
    last_analyze: datetime | None = None
    is_replica: bool = False
    #: Transactions since the oldest one that is not frozen, and after how many autovacuum freezes whatever happens.
    transaction_age: int | None = None
    freeze_max_age: int | None = None
    #: Of the pages of heap, TOAST and indexes that were asked for since the statistics began, those found in memory.
    cache_hit_share: float | None = None
    #: Space of heap and TOAST beyond what their live rows need, estimated from statistics.
    heap_bloat_bytes: int | None = None
    toast_bloat_bytes: int | None = None
    #: Connections to the server, and how many it allows.
    connections: int | None = None
    max_connections: int | None = None
    archive_tables: list[ArchiveTable] = field(default_factory=list)
