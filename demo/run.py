"""The demo from start to end: ``python -m demo.run``, or ``make demo``.

Everything it writes lies in ``build/demo``; everything it starts is stopped at its end, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from demo import maintenance
from demo.checks import GRACE, Check, Story, all_checks
from demo.history import SALES, make_history
from demo.maintenance import AUDIT, CLEANUP, RECONCILIATION, RESTORE
from demo.measure import Snapshot, take_snapshot
from demo.screen import Screen
from demo.stack import REPOSITORY, Stack, running_stack
from demo.trouble import make_trouble
from local_stack.processes import StackError

FOLDER = REPOSITORY / "build" / "demo"
_REPORT: dict[str, Any] = {"mode": "report"}
_ENFORCE: dict[str, Any] = {"mode": "enforce"}


def main() -> int:
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    screen = Screen()
    try:
        with _fresh_folder(FOLDER):
            return _demo(screen, keep=arguments.keep)
    except KeyboardInterrupt:
        screen.line("Interrupted; everything is stopped")
        return 130
    except StackError as error:
        screen.heading("The demo failed")
        screen.block(str(error))
        screen.line(f"Logs: {FOLDER / 'airflow' / 'logs'} (also see postgres and s3 next to airflow)")
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo.run", description="XCom maintenance on a real Airflow.")
    parser.add_argument("--keep", action="store_true", help="keep Airflow up afterwards, until Ctrl-C")
    return parser.parse_args()


def _demo(screen: Screen, *, keep: bool) -> int:
    screen.heading("Starting a real Airflow (all files in build/demo)")
    with running_stack(FOLDER, screen) as stack:
        checks = _show(stack, screen)
        if keep:
            _wait_for_the_user(stack, screen)
    failed = [check for check in checks if not check.holds]
    screen.line("Everything is stopped. " + ("The demo passed." if not failed else f"{len(failed)} checks FAILED."))
    return 1 if failed else 0


def _show(stack: Stack, screen: Screen) -> list[Check]:
    screen.heading("Making a history: real runs of real DAGs")
    maintenance.prepare(stack, screen)
    history = make_history(stack, screen)

    screen.heading("Making trouble")
    removed = make_trouble(stack, history, screen)

    screen.heading("Maintenance in report mode")
    before = take_snapshot(stack)
    runs = [(AUDIT, {}), (CLEANUP, _REPORT), (RECONCILIATION, _REPORT)]
    reports = maintenance.run_together(stack, screen, runs)
    after_report = take_snapshot(stack)

    screen.heading("Maintenance in enforce mode")
    cleaned = maintenance.run_and_approve(stack, screen, CLEANUP, _ENFORCE | {"max_delete_rows": 10})
    after_cleanup = take_snapshot(stack)
    maintenance.run(stack, screen, RECONCILIATION, _ENFORCE)
    after = take_snapshot(stack)
    maintenance.run(stack, screen, AUDIT, {})

    screen.heading("Restoring a run deleted by the cleanup, from its archive")
    restored = history.find(SALES, 14)
    chosen = {"archive": f"{CLEANUP}/{cleaned.content['run_id']}", "dag_ids": SALES, "run_ids": restored.run_id}
    restore_report = maintenance.run(stack, screen, RESTORE, _ENFORCE | chosen)
    after_restore = take_snapshot(stack)

    screen.heading(
        "Before and after the deletions, as measured by the demo itself (without rows of the maintenance DAGs)"
    )
    _table(screen, before, after)
    screen.heading("Closing check")
    checks = all_checks(
        Story(
            history=history,
            removed=removed,
            before=before,
            after_report=after_report,
            after_cleanup=after_cleanup,
            after=after,
            restored=restored,
            after_restore=after_restore,
            restore_report=restore_report,
            cleanup_report=reports[CLEANUP],
            reconciliation_report=reports[RECONCILIATION],
        )
    )
    for check in checks:
        screen.line(f"{'ok    ' if check.holds else 'FAILED'} {check.claim}")
        for contradiction in check.contradictions:
            screen.detail(contradiction)
    screen.line(f"Reports: {stack.reports}")
    return checks


def _table(screen: Screen, before: Snapshot, after: Snapshot) -> None:
    def figures(snapshot: Snapshot) -> dict[str, int]:
        old = len(snapshot.orphans_older_than(GRACE))
        return {
            "rows in the xcom table": len(snapshot.rows),
            "bytes of their values": snapshot.row_bytes,
            "blobs": len(snapshot.blobs),
            "bytes in these blobs": snapshot.blob_bytes,
            f"orphan blobs older than {GRACE.days} days": old,
            "younger orphan blobs (kept until they are older)": len(snapshot.orphans) - old,
            "dangling references (reported)": len(snapshot.dangling),
        }

    then, now = figures(before), figures(after)
    screen.table(["", "before", "after"], [[name, f"{then[name]:,}", f"{now[name]:,}"] for name in then])


def _wait_for_the_user(stack: Stack, screen: Screen) -> None:
    user, password = stack.airflow.login
    screen.heading(f"Airflow stays up: {stack.airflow.url}   user: {user}   password: {password}")
    screen.line("Press Ctrl-C to stop it")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    screen.line("Stopping")


@contextlib.contextmanager
def _fresh_folder(folder: Path) -> Iterator[None]:
    """An empty folder for this demo alone: one that another demo is using is not wiped."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"Another demo is running in {folder}; stop it first")
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        yield
    finally:
        os.close(lock)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """End as if by an exception, so that everything is stopped on the way out."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
