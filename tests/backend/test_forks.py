"""A process that is forked from one that has used the store: both go on, whichever is first. Never does either hang."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.execution_time import task_runner
from xcom_blob_backend import XComBlobBackend, native
from xcom_blob_backend.errors import StoreFailed

from tests.backend.conftest import AT, KEYS, Configure, pull, push
from tests.support.versions import HAS_ASYNC

#: Seconds after which what hangs is ended, and the test fails.
DEADLINE = 20
VALUE = {"rows": ["x" * 200] * 50}


def in_a_fork(work: Callable[[], object]) -> None:
    """Run in a forked process, and fail if it fails or does not end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _end_in_time()
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, pytest must not go on in here
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert _status(child) == 0


def _end_in_time() -> None:
    """The default action of the signal ends a process wherever it hangs."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(DEADLINE - 1)


def _status(child: int) -> int:
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the forked process hangs")


def in_time(work: Callable[[], Any]) -> Any:
    """What it returns; fails if it does not. In a thread, since a hanging native call cannot be ended."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert found, "it hangs, or has failed"
    return found[0]


def reads_and_writes(row: Any) -> None:
    assert pull(row) == VALUE
    assert pull(push([VALUE])) == [VALUE]


def test_neither_a_forked_process_nor_its_parent_hangs(any_store: str) -> None:
    row = push(VALUE)
    pull(row)
    in_a_fork(lambda: reads_and_writes(row))
    in_time(lambda: reads_and_writes(row) or True)
    in_a_fork(lambda: reads_and_writes(row))
    in_time(lambda: reads_and_writes(row) or True)


def test_a_process_that_is_forked_from_a_forked_one_does_not_hang(any_store: str) -> None:
    row = push(VALUE)

    def child() -> None:
        reads_and_writes(row)
        in_a_fork(lambda: reads_and_writes(row))
        reads_and_writes(row)

    in_a_fork(child)
    in_time(lambda: reads_and_writes(row) or True)


def test_the_processes_of_multiprocessing_do_not_hang(any_store: str) -> None:
    row = push(VALUE)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=reads_and_writes, args=(row,)) for _ in range(3)]
    for child in children:
        child.start()
    in_time(lambda: reads_and_writes(row) or True)
    for child in children:
        child.join(DEADLINE)
        if child.is_alive():
            child.kill()
    assert [child.exitcode for child in children] == [0, 0, 0]
    in_time(lambda: reads_and_writes(row) or True)


def test_a_pool_of_forked_workers_does_not_hang(on_files: Path) -> None:
    row = push(VALUE)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(pull, [row] * 6).get(DEADLINE)
        rows = pool.map_async(push, [[n] for n in range(6)]).get(DEADLINE)
    assert found == [VALUE] * 6
    assert [in_time(lambda row=row: pull(row)) for row in rows] == [[n] for n in range(6)]


def test_a_fork_while_other_threads_read_and_write_does_not_hang(any_store: str) -> None:
    row, stop = push(VALUE), threading.Event()

    def work() -> None:
        while not stop.is_set():
            reads_and_writes(row)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            in_a_fork(lambda: reads_and_writes(row))
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    in_time(lambda: reads_and_writes(row) or True)


def test_a_forked_process_that_ends_in_the_ordinary_way_does_not_make_its_parent_hang(any_store: str) -> None:
    """It frees what it inherited, connections among it."""
    row = push(VALUE)
    child = os.fork()
    if child == 0:
        _end_in_time()
        from xcom_blob_backend import store

        reads_and_writes(row)
        store._store_for.cache_clear()
        native._abandoned.clear()
        os._exit(0)
    assert _status(child) == 0
    in_time(lambda: reads_and_writes(row) or True)


def test_encrypted_and_compressed_values_are_read_and_written_in_a_forked_process(
    on_files: Path, configure: Configure
) -> None:
    for compression in ("zstd", "gzip", "lz4"):
        configure(compression=compression, encryption_keys=f"new:{KEYS['new']}")
        row = push(VALUE)
        in_a_fork(lambda row=row: reads_and_writes(row))


@pytest.mark.skipif(not HAS_ASYNC, reason="this version of Airflow has no asynchronous tasks")
def test_asynchronous_pushes_do_not_hang_in_a_forked_process(on_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool of threads that they go through is copied without its threads."""
    from tests.backend.test_interface import Supervisor

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(), raising=False)
    here = {name: AT[name] for name in ("dag_id", "run_id", "task_id")}

    def work() -> None:
        async def both() -> Any:
            await asyncio.gather(*(XComBlobBackend.aset(f"k{n}", VALUE, **here) for n in range(10)))
            return await XComBlobBackend.aget_one(key="k3", **here)

        assert asyncio.run(both()) == VALUE

    work()
    in_a_fork(work)
    work()


def test_where_the_client_cannot_be_loaded_again_a_forked_process_gets_an_error_at_once(
    on_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = push(VALUE)

    def refuse(*_: Any) -> Any:
        raise OSError("it is forbidden here")

    monkeypatch.setattr(native, "_load", refuse)

    def work() -> None:
        for attempt in (lambda: pull(row), lambda: push(VALUE)):
            with pytest.raises(StoreFailed, match=r"forked.*forbidden here.*'spawn'"):
                attempt()

    in_a_fork(work)
    assert in_time(lambda: pull(row)) == VALUE


@pytest.mark.parametrize("way", ["_load_from_memory", "_load_from_file"])
def test_either_way_of_loading_the_client_again_works(
    on_files: Path, monkeypatch: pytest.MonkeyPatch, way: str, tmp_path: Path
) -> None:
    row = push(VALUE)

    def refuse(_: str) -> Any:
        raise OSError("not this way")

    other = ({"_load_from_memory", "_load_from_file"} - {way}).pop()
    monkeypatch.setattr(native, other, refuse)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    in_a_fork(lambda: (reads_and_writes(row), in_a_fork(lambda: reads_and_writes(row))))
    assert not list(tmp_path.glob("xcom_blob_backend-*"))


def test_a_process_that_was_not_forked_loads_the_client_once(on_files: Path) -> None:
    push(VALUE)
    assert native.library() is native.library()
    if not native._Process.inherited:
        import obstore

        assert native.library().put is obstore.put
