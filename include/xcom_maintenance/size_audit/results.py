"""What an audit learns besides sizes: how the backend performs, and which values hold secrets."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One canary value's round trip through the configured XCom backend."""

    #: Of the value as JSON text.
    value_bytes: int
    push_seconds: float | None = None
    pull_seconds: float | None = None
    #: Bytes in the row and its blob together; None if unknown.
    stored_bytes: int | None = None
    in_blob: bool | None = None
    #: What the backend's encryption added to the push; None if it has none.
    encryption_seconds: float | None = None
    #: Whether what was pulled equals what was pushed.
    intact: bool = False
    #: Whether the row and its blob are gone again.
    removed: bool = False
    #: What went wrong, without any value; empty if nothing did.
    error: str = ""


@dataclass(frozen=True, slots=True)
class SecretFinding:
    """A secret of one kind at one place of the values of one (DAG, task, key); never the secret or a part of it."""

    dag_id: str
    task_id: str
    key: str
    #: Such as ``$.connections[*].password``: names only as they stand in the value's own keys.
    json_path: str
    kind: str
    #: Values in which it was found.
    values: int
    newest: datetime


@dataclass(frozen=True, slots=True)
class SecretScan:
    """What a bounded look at the newest values found."""

    findings: list[SecretFinding] = field(default_factory=list)
    values: int = 0
    #: Of the values as JSON text.
    bytes: int = 0
    #: Values that were too large to scan.
    skipped: int = 0
    #: Whether a limit ended the scan before all new values were seen.
    cut_short: bool = False
    #: Values pushed up to this moment have been seen, by this scan or an earlier one.
    seen_until: datetime | None = None
    #: Values pushed since the last scan that no scan will see: there were more than the limits allow.
    left_out: int = 0
    #: Whether older values are left for the next scans.
    older_left: bool = False
    #: Why there was no scan, or why it broke off; empty if neither.
    problem: str = ""
