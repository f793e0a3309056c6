"""Which values hold secrets: a bounded scan of the newest ones, continued by each audit.

First come the values pushed since the last audit, then, within the limits, older ones that no audit has seen yet.
No value or part of one is kept, logged or put into an error.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from include.xcom_maintenance.core.errors import MaintenanceError
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.detection.port import Detector
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.metadata.ports.size_audit import PushedValue, ValuePosition, ValueSpan
from include.xcom_maintenance.reports.report import Report, Table
from include.xcom_maintenance.size_audit.job import AuditJob
from include.xcom_maintenance.size_audit.leaves import leaves, path_of
from include.xcom_maintenance.size_audit.results import SecretFinding, SecretScan
from include.xcom_maintenance.size_audit.scan_position import ScanPosition, read_position, write_position

#: A push under way when the last scan began may have become visible since.
_OVERLAP = timedelta(minutes=5)
#: The most findings that are kept.
_MOST_FINDINGS = 2_000
SENSITIVE_NAME = "Sensitive name"


def scan(job: AuditJob, make_detector: Callable[[], Detector]) -> SecretScan:
    """Look for secrets in the values of the ``xcom`` table. Reads only.

    :param make_detector: raises ImportError if there is nothing to detect with.
    """
    try:
        detector = make_detector()
    except ImportError as missing:
        return SecretScan(problem=f"{(missing.name or 'a package').split('.')[0]} is not installed")
    before = read_position(job.place, job.identity.owner)
    began = job.metadata.now()
    look = _Look(job, detector)
    problem, left_out = "", 0
    older = before and before.older and ValuePosition(*before.older)
    try:
        if before is not None:
            span = ValueSpan(pushed_until=began, pushed_after=before.seen_until)
            stopped_at = look.through(span)
            if stopped_at is not None:
                left_out = job.metadata.count_values(replace(span, older_than=stopped_at))
        if before is None or (older is not None and not look.exhausted):
            until = began if before is None else before.seen_until
            older = look.through(ValueSpan(pushed_until=until, older_than=older or None))
    except MaintenanceError as error:
        # Report what was seen; the next scan starts where this one did.
        problem = f"it stopped early: {error}"
        seen = look.scan(before.findings if before else [], _no_longer_there(job))
        return replace(seen, cut_short=True, problem=problem, seen_until=before.seen_until if before else None)
    found = look.scan(before.findings if before else [], _no_longer_there(job))
    position = ScanPosition(
        job.identity.owner,
        began - _OVERLAP,
        (older.dag_run_id, older.pushed_at) if older else None,
        found.findings,
    )
    if not write_position(job.place, position):
        problem = "its position could not be saved (setting: report_path), so the next audit scans these values again"
    return replace(
        found,
        cut_short=look.exhausted,
        left_out=left_out,
        older_left=older is not None,
        seen_until=position.seen_until,
        problem=problem,
    )


def _no_longer_there(job: AuditJob) -> Callable[[list[SecretFinding]], set[SecretFinding]]:
    """Which earlier findings have no rows left."""

    def gone(findings: list[SecretFinding]) -> set[SecretFinding]:
        keys = [(f.dag_id, f.task_id, f.key, f.newest) for f in findings]
        try:
            there = job.metadata.values_still_there(keys) if keys else []
        except MaintenanceError:
            return set()
        return {finding for finding, is_there in zip(findings, there, strict=True) if not is_there}

    return gone


@dataclass(slots=True)
class _Seen:
    values: int
    newest: datetime


@dataclass(slots=True)
class _Look:
    """One scan, within the limits of the settings."""

    job: AuditJob
    detector: Detector
    values: int = 0
    bytes: int = 0
    skipped: int = 0
    exhausted: bool = False
    found: dict[tuple[str, str, str, str, str], _Seen] = field(default_factory=dict)
    deadline: float = 0

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.job.settings.secrets_max_seconds

    def through(self, span: ValueSpan) -> ValuePosition | None:
        """Scan the values of a span; returns the last position if a limit was reached, None if all were seen."""
        settings = self.job.settings
        progress = Progress(self.job.log, "Values scanned for secrets")
        last: ValuePosition | None = span.older_than
        with closing(_stream(self.job, span)) as values:
            for value in values:
                if (
                    self.values >= settings.secrets_max_values
                    or self.bytes >= settings.secrets_max_bytes
                    or time.monotonic() >= self.deadline
                ):
                    self.exhausted = True
                    # If none was seen, start again at the newest.
                    return last or ValuePosition(value.position.dag_run_id + 1, value.pushed_at)
                self._take(value)
                last = value.position
                progress.add()
        return None

    def _take(self, value: PushedValue) -> None:
        if value.text is None:
            self.skipped += 1
            return
        self.values += 1
        self.bytes += len(value.text)
        try:
            places = self._secrets_in(value)
        except Exception as error:  # noqa: BLE001 - a value can break a detector in any way; its text must not get out
            self.skipped += 1
            self.job.log.warning("A value could not be scanned: %s", type(error).__name__)
            return
        for path, kind in places:
            key = (value.dag_id, value.task_id, value.key, path, kind)
            seen = self.found.get(key)
            if seen is not None:
                seen.values += 1
                seen.newest = max(seen.newest, value.pushed_at)
            elif len(self.found) < _MOST_FINDINGS:
                self.found[key] = _Seen(1, value.pushed_at)

    def _secrets_in(self, value: PushedValue) -> set[tuple[str, str]]:
        """(path, kind) of the secrets in one value."""
        parsed = json.loads(value.text or "null")
        found: list[tuple[tuple[str | None, ...], str]] = []
        secrets: set[str] = set()
        for leaf in leaves(
            parsed, is_sensitive=self.detector.is_sensitive, sensitive=self.detector.is_sensitive(value.key)
        ):
            kinds = self.detector.find(leaf.text)
            for kind, texts in kinds.items():
                found.append((leaf.fields, kind))
                secrets.update(texts)
            # The path of a blob is not a secret, whatever its key is called.
            named = leaf.sensitive and not leaf.is_name and not kinds and "://" not in leaf.text
            if named and not self.detector.is_placeholder(leaf.text):
                found.append((leaf.fields, SENSITIVE_NAME))
                secrets.add(leaf.text)
        return {(path_of(fields, secrets), kind) for fields, kind in found}

    def scan(
        self, earlier: list[SecretFinding], gone: Callable[[list[SecretFinding]], set[SecretFinding]]
    ) -> SecretScan:
        """What this scan found, and earlier findings that still have rows."""
        together = {
            key: SecretFinding(*key, values=seen.values, newest=seen.newest) for key, seen in self.found.items()
        }
        vanished = gone(earlier)
        for finding in earlier:
            key = (finding.dag_id, finding.task_id, finding.key, finding.json_path, finding.kind)
            now = together.get(key)
            if now is not None:
                together[key] = replace(now, values=now.values + finding.values, newest=max(now.newest, finding.newest))
            elif finding not in vanished and len(together) < _MOST_FINDINGS:
                together[key] = finding
        ordered = sorted(together.values(), key=lambda f: f.newest, reverse=True)
        return SecretScan(ordered, self.values, self.bytes, self.skipped)


def _stream(job: AuditJob, span: ValueSpan) -> Generator[PushedValue, None, None]:
    yield from job.metadata.values(span, max_value_bytes=job.settings.secrets_max_value_bytes)


def describe_secrets(report: Report, found: SecretScan, *, top: int) -> None:
    """Put what was found into the report.

    :param top: lines of the table.
    """
    report.headline |= {"secrets_found": len(found.findings), "values_scanned_for_secrets": found.values}
    kinds = Counter(finding.kind for finding in found.findings)
    note = [
        f"Scanned {counted(found.values, 'value')}, newest first; skipped {found.skipped:,} as too large.",
        "Values in blobs are not scanned.",
    ]
    if kinds:
        note.insert(0, f"{', '.join(f'{count:,} {kind}' for kind, count in kinds.most_common())}.")
        note.append(
            "An entry stays listed until all rows of its key pushed up to then are deleted. What to do: rotate the "
            "secret, store it in a Connection or a Variable, push its name instead, and let a cleanup delete the rows."
        )
    if len(found.findings) > top:
        note.append(f"Showing the newest {top} of {len(found.findings):,}.")
    if found.left_out:
        note.append(
            f"Left out {counted(found.left_out, 'value')} pushed since the last audit, because a limit was reached."
        )
    if found.older_left:
        note.append("Older values remain to be scanned; the next audits continue with them.")
    if found.problem:
        report.warnings.append(f"The secrets scan is incomplete: {found.problem}.".replace("..", "."))
    report.put(
        Table(
            "Secrets",
            ["DAG", "task", "key", "path in the value", "kind", "values", "newest"],
            [
                [f.dag_id, f.task_id, f.key, f.json_path, f.kind, f.values, f.newest.isoformat(timespec="seconds")]
                for f in found.findings[:top]
            ],
            " ".join(note),
        )
    )
