"""Which values hold secrets: a bounded look at the newest ones, which goes on where the last audit stopped.

First what was pushed since the last audit, then, as far as the limits allow, older values that no audit has seen yet.
Nothing here keeps, logs or raises a value or a part of one.
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
from include.xcom_maintenance.detection.port import Detector
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.metadata.ports.size_audit import PushedValue, ValuePosition, ValueSpan
from include.xcom_maintenance.reports.report import Report, Table
from include.xcom_maintenance.size_audit.job import AuditJob
from include.xcom_maintenance.size_audit.leaves import leaves, path_of
from include.xcom_maintenance.size_audit.results import SecretFinding, SecretScan
from include.xcom_maintenance.size_audit.scan_position import ScanPosition, read_position, write_position

#: A push that was on its way when the last scan began may have become visible since.
_OVERLAP = timedelta(minutes=5)
#: Kinds at places that are told apart; a table of more helps nobody.
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
        # What was seen is worth a report; the next scan begins where this one did.
        problem = f"it broke off: {error}"
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
        problem = "where it stopped could not be written down, so the next scan sees the same values (report_path)"
    return replace(
        found,
        cut_short=look.exhausted,
        left_out=left_out,
        older_left=older is not None,
        seen_until=position.seen_until,
        problem=problem,
    )


def _no_longer_there(job: AuditJob) -> Callable[[list[SecretFinding]], set[SecretFinding]]:
    """Of what earlier scans found, that whose rows are all gone."""

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
    """One look at values, within the limits of the settings."""

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
        """Look at the values of a span; returns the last position if a limit ended that, None if all were seen."""
        settings = self.job.settings
        progress = Progress(self.job.log, "Values looked at for secrets")
        last: ValuePosition | None = span.older_than
        with closing(_stream(self.job, span)) as values:
            for value in values:
                if (
                    self.values >= settings.secrets_max_values
                    or self.bytes >= settings.secrets_max_bytes
                    or time.monotonic() >= self.deadline
                ):
                    self.exhausted = True
                    # From the newest on if not one was seen.
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
        except Exception as error:  # noqa: BLE001 - whatever a value does to a detector; its text must not get out
            self.skipped += 1
            self.job.log.warning("A value could not be looked into: %s", type(error).__name__)
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
            # The path of a blob is no secret, whatever the name of what lies there.
            named = leaf.sensitive and not leaf.is_name and not kinds and "://" not in leaf.text
            if named and not self.detector.is_placeholder(leaf.text):
                found.append((leaf.fields, SENSITIVE_NAME))
                secrets.add(leaf.text)
        return {(path_of(fields, secrets), kind) for fields, kind in found}

    def scan(
        self, earlier: list[SecretFinding], gone: Callable[[list[SecretFinding]], set[SecretFinding]]
    ) -> SecretScan:
        """What was found, and what earlier scans found whose rows are still there."""
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
        f"{found.values:,} values were looked into, newest first; {found.skipped:,} were too large.",
        "Values in blobs were not looked into.",
    ]
    if kinds:
        note.insert(0, f"{', '.join(f'{count:,} {kind}' for kind, count in kinds.most_common())}.")
        note.append(
            "A line stays until all rows of its key that were pushed up to then are gone. What to do: change the "
            "secret, keep it in a Connection or a Variable, pass its name instead, and let a cleanup delete the rows."
        )
    if len(found.findings) > top:
        note.append(f"The {top} newest of {len(found.findings):,}.")
    if found.left_out:
        note.append(f"{found.left_out:,} values pushed since the last audit are beyond the limits and not scanned.")
    if found.older_left:
        note.append("Older values are still to be seen; the next audits go on with them.")
    if found.problem:
        report.warnings.append(f"The scan for secrets is not complete: {found.problem}.".replace("..", "."))
    report.put(
        Table(
            "Secrets",
            ["DAG", "task", "key", "where in the value", "kind", "values", "newest"],
            [
                [f.dag_id, f.task_id, f.key, f.json_path, f.kind, f.values, f.newest.isoformat(timespec="seconds")]
                for f in found.findings[:top]
            ],
            " ".join(note),
        )
    )
