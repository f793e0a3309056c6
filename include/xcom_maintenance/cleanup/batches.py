"""Batches in a manifest: one line is the work of one transaction. ``plan`` writes them, ``delete_rows`` reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from include.xcom_maintenance.cleanup.job import CleanupJob
from include.xcom_maintenance.core.runs import Cut, Doomed, Run, Scope, Selection
from include.xcom_maintenance.reports.place import ManifestWriter
from include.xcom_maintenance.retention.policy import Part
from include.xcom_maintenance.retention.wording import rule_number

KIND = "rows"


def batch_bounds(job: CleanupJob) -> tuple[int, int]:
    """The most rows and stored bytes that one transaction deletes.

    Archiving takes longer, so with an archive it is a quarter of the bytes.
    """
    part = 1 if job.archives.root is None else 4
    return job.settings.batch_rows, max(1, job.settings.batch_bytes // part)


@dataclass(slots=True)
class Batches:
    """Writes runs to a manifest, as many per line as one transaction may delete.

    A larger run gets a line of its own, and takes several transactions.
    """

    manifest: ManifestWriter
    max_rows: int
    #: Stored bytes.
    max_bytes: int
    _runs: list[list[Any]] = field(default_factory=list)
    _parts: list[Part] = field(default_factory=list)
    #: Position among the parts, by identity.
    _numbers: dict[int, int] = field(default_factory=dict)
    _rows: int = 0
    _bytes: int = 0

    def add(self, run: Run, part: Part, *, rows: int, size: int) -> None:
        """Add the rows of a run that are to be deleted.

        :param part: the part of the verdict that says so.
        :param size: stored bytes.
        """
        if self._runs and (self._rows + rows > self.max_rows or self._bytes + size > self.max_bytes):
            self.flush()
        which = self._numbers.setdefault(id(part), len(self._parts))
        if which == len(self._parts):
            self._parts.append(part)
        self._runs.append([run.dag_run_id, run.dag_id, run.run_id, which, rows, size])
        self._rows += rows
        self._bytes += size

    def flush(self) -> None:
        """Write the current line, if it has any runs."""
        if self._runs:
            cuts = [_cut_to_json(part) for part in self._parts]
            self.manifest.add(KIND, rows=self._rows, bytes=self._bytes, cuts=cuts, runs=self._runs)
        self._runs, self._parts, self._numbers, self._rows, self._bytes = [], [], {}, 0, 0


def _cut_to_json(part: Part) -> dict[str, Any]:
    cut = part.cut
    assert cut is not None  # noqa: S101 - rows are deleted only by a cut
    return {
        "rule": rule_number(part.rule),
        "reason": part.reason,
        "cutoff": cut.cutoff.isoformat(),
        "keep_latest_value": cut.keep_latest_value,
        "selection": asdict(cut.selection) if cut.selection else None,
        "stuck_before": cut.stuck_before.isoformat() if cut.stuck_before else None,
    }


def _cut_from_json(line: Mapping[str, Any]) -> Cut:
    selection = line["selection"]
    return Cut(
        datetime.fromisoformat(line["cutoff"]),
        line["keep_latest_value"],
        Selection(_scope(selection["scope"]), tuple(map(_scope, selection["before"]))) if selection else None,
        datetime.fromisoformat(line["stuck_before"]) if line.get("stuck_before") else None,
    )


def _scope(globs: Mapping[str, Any]) -> Scope:
    return Scope(**{name: tuple(values) for name, values in globs.items()})


@dataclass(frozen=True, slots=True)
class Batch:
    """What one line asks for and the policy still allows."""

    doomed: Doomed
    #: As planned.
    rows: int
    bytes: int
    #: The most rows that one transaction may delete; None: all at once.
    limit: int | None


def read(
    lines: Iterable[Mapping[str, Any]],
    allowed: Callable[[int, str], tuple[Cut, ...]],
    *,
    max_rows: int,
    max_bytes: int,
) -> Iterator[Batch]:
    """The batches of a manifest: only what both the plan and the current policy would delete.

    :param allowed: the cuts that the policy makes now in a run, by its id and DAG; equal cuts are one object.
    """
    for line in lines:
        planned = [_cut_from_json(cut) for cut in line["cuts"]]
        agreed: dict[tuple[int, int], int | None] = {}  # (cut, policy) -> position in cuts, or None
        cuts: list[Cut] = []
        ids: list[int] = []
        which: list[int] = []
        rows = size = 0
        for dag_run_id, dag_id, _, number, run_rows, run_bytes in line["runs"]:
            now = allowed(dag_run_id, dag_id)
            if (number, id(now)) not in agreed:
                cut = _agreed(planned[number], now)
                agreed[number, id(now)] = None if cut is None else len(cuts)
                cuts += [] if cut is None else [cut]
            position = agreed[number, id(now)]
            if position is not None:
                ids.append(dag_run_id)
                which.append(position)
                rows += run_rows
                size += run_bytes
        limit = None
        if rows > max_rows or size > max_bytes:
            limit = max(1, min(max_rows, rows * max_bytes // max(1, size)))
        if ids:
            yield Batch(Doomed(tuple(cuts), ids, which), rows, size, limit)


def _agreed(planned: Cut, allowed: tuple[Cut, ...]) -> Cut | None:
    """What both the plan and the policy delete; None if they cover different rows."""
    for cut in allowed:
        if cut.selection == planned.selection:
            stuck = [one.stuck_before for one in (cut, planned) if one.stuck_before is not None]
            return Cut(
                min(cut.cutoff, planned.cutoff),
                cut.keep_latest_value or planned.keep_latest_value,
                cut.selection,
                min(stuck) if len(stuck) == 2 else None,
            )
    return None
