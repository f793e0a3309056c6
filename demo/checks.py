"""The closing check: what should have happened between the snapshots did happen, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from demo.history import History, Run
from demo.maintenance import Report
from demo.measure import Row, RowId, Snapshot
from demo.stack import GRACE_PERIOD_DAYS
from demo.trouble import BYSTANDERS, RemovedBlob

GRACE = timedelta(days=GRACE_PERIOD_DAYS)


@dataclass(frozen=True)
class Check:
    """One claim, and what contradicts it."""

    claim: str
    contradictions: list[str]

    @property
    def holds(self) -> bool:
        return not self.contradictions


@dataclass(frozen=True)
class Story:
    """The snapshots in the order they were taken, and what the maintenance said in between."""

    history: History
    removed: RemovedBlob
    before: Snapshot
    after_report: Snapshot
    after_cleanup: Snapshot
    after: Snapshot
    cleanup_report: Report
    reconciliation_report: Report
    restored: Run
    after_restore: Snapshot
    restore_report: Report


def all_checks(story: Story) -> list[Check]:
    return [
        Check("Report mode changed neither the table nor the bucket", _changed_by_report(story)),
        Check("The cleanup deleted exactly the rows and blobs that report mode listed", _cleanup(story)),
        Check(
            "The reconciliation deleted exactly the orphan blobs that report mode listed, and no row",
            _reconciliation(story),
        ),
        Check("There was something to delete: rows, their blobs, orphan blobs", _idle(story)),
        Check(
            "Every reference in the table resolves, except to the blob removed on purpose, which is reported",
            _unresolved(story),
        ),
        Check("The unfinished run lost no rows and no blobs", _lost_by_unfinished_run(story)),
        Check(f"Nothing younger than {GRACE.days} days was deleted: no row, no orphan blob", _young_losses(story)),
        Check("The blobs of archived rows and other people's objects are untouched", _bystanders(story)),
        Check(
            f"No orphan blob older than {GRACE.days} days is left",
            _some("orphans", story.after.orphans_older_than(GRACE)),
        ),
        Check("The restored run has its rows back unchanged, except those whose blobs are gone", _restored(story)),
    ]


def _changed_by_report(story: Story) -> list[str]:
    return [] if story.before == story.after_report else ["the snapshots before and after differ"]


def _cleanup(story: Story) -> list[str]:
    before, after = story.after_report, story.after_cleanup
    rows = Counter(row_id[:2] for row_id in before.rows.keys() - after.rows.keys())
    listed_blobs = story.cleanup_report.listed_blobs("blob") & before.objects.keys()
    return [
        *_difference("rows", rows.items(), story.cleanup_report.listed_rows().items()),
        *_difference("blobs", before.objects.keys() - after.objects.keys(), listed_blobs),
        *_changed(before, after),
    ]


def _reconciliation(story: Story) -> list[str]:
    before, after = story.after_cleanup, story.after
    listed = story.reconciliation_report.listed_blobs("orphan")
    return [
        *_difference("blobs", before.objects.keys() - after.objects.keys(), listed),
        *_some("rows deleted", before.rows.keys() - after.rows.keys()),
        *_changed(before, after),
    ]


def _idle(story: Story) -> list[str]:
    deleted = {
        "rows": len(story.before.rows) - len(story.after_cleanup.rows),
        "blobs of rows": len(story.after_report.blobs) - len(story.after_cleanup.blobs),
        "orphan blobs": len(story.after_cleanup.blobs) - len(story.after.blobs),
    }
    return [f"no {what} were deleted" for what, count in deleted.items() if count <= 0]


def _unresolved(story: Story) -> list[str]:
    # The row of the removed blob is young, so it must still be there, and reported.
    expected = {(story.removed.row, story.removed.key)}
    reported = story.reconciliation_report.listed_blobs("dangling")
    return [
        *_some("references", story.after.dangling.items() ^ expected),
        *_difference("dangling references", reported, {story.removed.key}),
    ]


def _lost_by_unfinished_run(story: Story) -> list[str]:
    run = (story.history.unfinished.dag_id, story.history.unfinished.run_id)

    def rows(snapshot: Snapshot) -> set[tuple[RowId, Row]]:
        return {(row_id, row) for row_id, row in snapshot.rows.items() if row_id[:2] == run}

    before = rows(story.before)
    blobs = {row.blob for _, row in before if row.blob}
    return [
        *([] if before and blobs else ["it had no rows or blobs to lose"]),
        *_some("rows", before ^ rows(story.after)),
        *_some("blobs", blobs - story.after.objects.keys()),
    ]


def _young_losses(story: Story) -> list[str]:
    limit = datetime.now(UTC) - GRACE
    rows = story.before.rows.keys() - story.after.rows.keys()
    orphans = story.before.orphans.keys() - story.after.orphans.keys()
    return [
        *_some("rows", {row for row in rows if story.before.rows[row].pushed > limit}),
        *_some("orphans", {key for key in orphans if story.before.orphans[key].modified > limit}),
    ]


def _bystanders(story: Story) -> list[str]:
    keys = {*BYSTANDERS, *story.before.archived}
    return _some("objects", {k for k in keys if story.before.objects.get(k) != story.after.objects.get(k)})


def _restored(story: Story) -> list[str]:
    run = (story.restored.dag_id, story.restored.run_id)
    deleted = {
        (row_id, row)
        for row_id, row in story.before.rows.items()
        if row_id[:2] == run and row_id not in story.after.rows
    }
    expected = {(row_id, row) for row_id, row in deleted if row.blob is None}
    found = story.after_restore.rows.items() - story.after.rows.items()
    reported = {"rows_restored": len(expected), "rows_whose_blob_is_gone": len(deleted) - len(expected)}
    headline = story.restore_report.content["headline"]
    return [
        *([] if expected else ["there were no rows to restore"]),
        *_some("rows", found ^ expected),
        *_some("rows lost", story.after.rows.keys() - story.after_restore.rows.keys()),
        *_difference("figures", {(name, headline[name]) for name in reported}, reported.items()),
    ]


def _changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Rows and objects that are there before and after but differ, and blobs that are new."""
    rows = {row_id for row_id in before.rows.keys() & after.rows.keys() if before.rows[row_id] != after.rows[row_id]}
    kept = before.objects.keys() & after.objects.keys()
    objects = {key for key in kept if before.objects[key] != after.objects[key]}
    return [
        *_some("changed rows", rows),
        *_some("changed objects", objects),
        *_some("new blobs", after.blobs.keys() - before.blobs.keys()),
    ]


def _difference(what: str, found: Collection[object], listed: Collection[object]) -> list[str]:
    found, listed = set(found), set(listed)
    return [*_some(f"{what} that were not listed", found - listed), *_some(f"{what} only listed", listed - found)]


def _some(what: str, things: Iterable[object]) -> list[str]:
    """How many and the first of them, or nothing if there are none."""
    found = sorted(map(str, things))
    return [f"{what}: {len(found)}, such as {found[0]}"] if found else []
