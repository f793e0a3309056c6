"""Old reports go, by one rule for all DAGs of the bundle; what they did to the database stays on record.

Only a file is deleted that this bundle wrote for a run which is over: beside it lies a report that says so. Never
touched are the newest reports of a DAG, manifests of what was or may still be changed, lists of what was deleted,
archives, and whatever has a name that is not known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from include.xcom_maintenance.reports.paths import path_errors, stem_of

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: The folders below the report path that are the bundle's own.
DAG_IDS = (
    "xcom_cleanup",
    "xcom_offload_large_values",
    "xcom_orphan_reconciliation",
    "xcom_restore",
    "xcom_rotate_keys",
    "xcom_size_audit",
)
KEPT_OF_EACH_DAG = 10

#: The report itself goes last, so that what is interrupted goes on the next time.
_REPORT = ".json"
_GO_WITH_IT = re.compile(r"\.md|\.html|\.told|\.shard-\d+\.figures")
_MANIFEST = ".manifest.jsonl.gz"
#: Of a run of which there is one of these nothing goes: a manifest of any attempt is still to be carried out.
_PENDING = re.compile(r"(~\d+)?\.pending")
#: Where there is one of these, something was changed, by this attempt or one before it.
_CHANGES = re.compile(r"~\d+\.manifest\.jsonl\.gz|(\.[a-z]+(-\d+)?)?\.delet(ed-\d+|ing-\d+-\d+)\.jsonl\.gz")
#: A run in one of these states is over, and nothing of it is to be carried out.
_OVER = frozenset({"reported", "audited", "enforced", "refused", "rejected", "failed"})
#: A run in one of these states has changed nothing, so its manifest is a record of nothing.
_CHANGED_NOTHING = frozenset({"reported", "audited"})


@dataclass(slots=True)
class Pruned:
    """What went."""

    reports: int = 0
    files: int = 0
    #: What could not be deleted, by the kind of error.
    problems: list[str] = field(default_factory=list)


def prune(root: ObjectStoragePath, *, now: datetime, keep_days: float) -> Pruned:
    """Delete the reports of runs that ended more than ``keep_days`` days ago, with what belongs to them alone.

    :param root: the report path.
    :raises ConfigurationError: if the report path cannot be read.
    """
    pruned = Pruned()
    for dag_id in DAG_IDS:
        with path_errors(root, "read", setting="report_path"):
            names = _files(root / dag_id)
            doomed = list(_old_reports(root, dag_id, names, now - timedelta(days=keep_days)))
        for stem, status in doomed:
            if files := _files_of(stem, status, names):
                _delete(root / dag_id, files, pruned)
    return pruned


def _files(folder: ObjectStoragePath) -> dict[str, datetime | None]:
    """The files right below a folder, and when each was last written, as far as the store says."""
    fs: Any = folder.fs
    fs.invalidate_cache()
    found = []
    with suppress(FileNotFoundError):
        found = fs.ls(folder.path, detail=True)
    return {str(f["name"]).rstrip("/").rsplit("/", 1)[-1]: _modified(f) for f in found if f["type"] == "file"}


def _modified(found: dict[str, Any]) -> datetime | None:
    for name in ("LastModified", "last_modified", "mtime", "updated"):
        value = found.get(name)
        with suppress(ValueError, OverflowError):
            if isinstance(value, int | float):
                return datetime.fromtimestamp(value, UTC)
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None


def _old_reports(
    root: ObjectStoragePath, dag_id: str, names: dict[str, datetime | None], cutoff: datetime
) -> Iterator[tuple[str, str]]:
    """(stem, status) of the reports that go. Only those are read that were last written before the cutoff."""
    newest_first = sorted(
        (name for name in names if name.endswith(_REPORT)),
        key=lambda name: (names[name] or datetime.max.replace(tzinfo=UTC), name),
        reverse=True,
    )
    if not any(_before(names[name], cutoff) for name in newest_first):
        return
    kept = 0
    for name in newest_first:
        if kept >= KEPT_OF_EACH_DAG and not _before(names[name], cutoff):
            continue  # too young, whatever it says
        report = _read(root / dag_id / name)
        stem = name.removesuffix(_REPORT)
        if report is None or report.get("dag_id") != dag_id or stem_of(str(report.get("run_id"))) != stem:
            continue  # not one of ours
        if kept < KEPT_OF_EACH_DAG:
            kept += 1
            continue
        ended = _ended(report)
        if report.get("status") in _OVER and ended is not None and ended < cutoff:
            yield stem, report["status"]


def _before(modified: datetime | None, cutoff: datetime) -> bool:
    return modified is None or modified < cutoff


def _read(path: ObjectStoragePath) -> dict[str, Any] | None:
    with suppress(ValueError, FileNotFoundError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) and "schema_version" in found and "plan_id" in found else None
    return None


def _ended(report: dict[str, Any]) -> datetime | None:
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(report["finished_at"]).astimezone(UTC)
    return None


def _files_of(stem: str, status: str, names: Collection[str]) -> list[str]:
    """What goes with a report, the report last; nothing if a manifest of the run is still to be carried out."""
    own = {name.removeprefix(stem) for name in names if name.startswith(stem)}
    if any(_PENDING.fullmatch(suffix) for suffix in own):
        return []
    going = sorted(suffix for suffix in own if _GO_WITH_IT.fullmatch(suffix))
    if status in _CHANGED_NOTHING and _MANIFEST in own and not any(_CHANGES.fullmatch(suffix) for suffix in own):
        going.append(_MANIFEST)
    return [stem + suffix for suffix in (*going, _REPORT)]


def _delete(folder: ObjectStoragePath, names: list[str], pruned: Pruned) -> None:
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001 - every file system that fsspec knows raises its own errors
            pruned.problems.append(f"{name}: {type(error).__name__}")
            return  # the report stays, so the rest goes the next time
        pruned.files += 1
    pruned.reports += 1
