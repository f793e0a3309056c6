"""The interface to Airflow: what the Task SDK calls when a task pushes, pulls and deletes."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.xcom import BaseXCom

from xcom_blob_backend import transfer
from xcom_blob_backend.errors import StoreFailed
from xcom_blob_backend.header import Coordinates

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger("airflow.task.xcom_blob_backend")

#: How many blobs are read at a time when a task pulls the values of many.
_READERS = 8
#: What the SDK is being asked for. ``deserialize_value`` gets the value of a row only, not whose it is.
_asked: contextvars.ContextVar[Coordinates | None] = contextvars.ContextVar("xcom_blob_backend_asked", default=None)
#: Whether ``deserialize_value`` is to leave blobs for later, when all rows are there.
_later: contextvars.ContextVar[bool] = contextvars.ContextVar("xcom_blob_backend_later", default=False)


class _Stored:
    """A row whose value is still to be read."""

    def __init__(self, row: Any) -> None:
        self.row = row


class _Ready:
    """What ``serialize_value`` is to pass on, since the value is stored already."""

    def __init__(self, row: Any) -> None:
        self.row = row


class XComBlobBackend(BaseXCom):  # type: ignore[misc]  # mypy is not shown Airflow
    """Values from a threshold on go to object storage, smaller ones to the database."""

    # -- push ---------------------------------------------------------------------------------------------------------

    @staticmethod
    def serialize_value(
        value: Any,
        *,
        key: str | None = None,
        task_id: str | None = None,
        dag_id: str | None = None,
        run_id: str | None = None,
        map_index: int | None = None,
    ) -> Any:
        """What the row is to hold: the value as the default backend has it, or a reference to its blob."""
        if type(value) is _Ready:
            return value.row
        return transfer.save(value, Coordinates(dag_id, run_id, task_id, key, map_index))

    @classmethod
    async def aset(
        cls, key: str, value: Any, *, dag_id: str, task_id: str, run_id: str, map_index: int = -1, **options: Any
    ) -> None:
        """Store a value without blocking the event loop."""
        at = Coordinates(dag_id, run_id, task_id, key, map_index)
        ready: Any = _Ready(await _in_thread(transfer.save, value, at))
        where: dict[str, Any] = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id, "map_index": map_index}
        await super().aset(key, ready, **where, **options)

    @classmethod
    def probe_report(cls) -> dict[str, float | None]:
        """What the last push of this process spent on encryption, in seconds; None if it encrypted nothing."""
        return {"encryption_seconds": transfer.last_push.encryption_seconds}

    # -- pull ---------------------------------------------------------------------------------------------------------

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        """The value of a row: of one that this backend, the default one or the stock object storage one wrote."""
        row = result.value
        if _later.get() and transfer.is_stored(row):
            return _Stored(row)
        return transfer.load(row, _asked.get())

    @classmethod
    def get_one(cls, *, key: str, dag_id: str, task_id: str, run_id: str, **options: Any) -> Any:
        """One value; checked to be the one that was written for this entry."""
        asked = _coordinates(key, dag_id, task_id, run_id, options)
        with _asking(asked):
            return super().get_one(key=key, dag_id=dag_id, task_id=task_id, run_id=run_id, **options)

    @classmethod
    async def aget_one(cls, *, key: str, dag_id: str, task_id: str, run_id: str, **options: Any) -> Any:
        """One value, without blocking the event loop."""
        asked = _coordinates(key, dag_id, task_id, run_id, options)
        with _asking(asked, later=True):
            found = await super().aget_one(key=key, dag_id=dag_id, task_id=task_id, run_id=run_id, **options)
        return await _in_thread(_read, found, asked)

    @classmethod
    def get_all(cls, *, key: str, dag_id: str, task_id: str, run_id: str, **options: Any) -> Any:
        """The values of all map indexes, several blobs at a time."""
        asked = _coordinates(key, dag_id, task_id, run_id, options)
        with _asking(asked, later=True):
            found = super().get_all(key=key, dag_id=dag_id, task_id=task_id, run_id=run_id, **options)
        return _read_all(found, asked)

    @classmethod
    async def aget_all(cls, *, key: str, dag_id: str, task_id: str, run_id: str, **options: Any) -> Any:
        """The values of all map indexes, without blocking the event loop."""
        asked = _coordinates(key, dag_id, task_id, run_id, options)
        with _asking(asked, later=True):
            found = await super().aget_all(key=key, dag_id=dag_id, task_id=task_id, run_id=run_id, **options)
        return await _in_thread(_read_all, found, asked)

    # -- delete -------------------------------------------------------------------------------------------------------

    @classmethod
    def purge(cls, xcom: Any, *_: Any) -> None:
        """Delete the blob of a row that is deleted."""
        transfer.purge(xcom.value)

    @classmethod
    def delete(cls, key: str, task_id: str, dag_id: str, run_id: str, map_index: int | None = None) -> None:
        """Delete a row, and then its blob: a crash in between leaks a blob, and never leaves a row without one."""
        from airflow.sdk.execution_time.comms import DeleteXCom
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

        where: dict[str, Any] = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id, "map_index": map_index}
        found = cls._get_xcom_db_ref(key=key, **where)
        SUPERVISOR_COMMS.send(DeleteXCom(key=key, **where))
        try:
            transfer.purge(found.value, Coordinates(dag_id, run_id, task_id, key, map_index))
        except StoreFailed as why:
            # The row is gone; a task that is to run again should not fail for what its former try has left.
            log.warning(
                "The blob of a deleted XCom could not be removed; the orphan reconciliation will find it: %s", why
            )


@contextmanager
def _asking(asked: Coordinates, *, later: bool = False) -> Iterator[None]:
    tokens = _asked.set(asked), _later.set(later)
    try:
        yield
    finally:
        _asked.reset(tokens[0])
        _later.reset(tokens[1])


async def _in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    """Work that blocks, in a thread of this backend's own.

    Not in those of asyncio: a first push asks for a Connection and waits for the SDK's channel, whose holder needs one
    of asyncio's threads to let go of it.
    """
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_threads(os.getpid()), context.run, work, *arguments)


@functools.cache
def _threads(_process: int) -> ThreadPoolExecutor:
    """Of this process: a fork copies the pool and none of its threads, and what it is given then never begins."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_READERS, thread_name_prefix="xcom_blob_backend")


def _coordinates(key: str, dag_id: str, task_id: str, run_id: str, options: dict[str, Any]) -> Coordinates:
    """The entry that is asked for; its run is not known if former runs are asked for, too."""
    run = None if options.get("include_prior_dates") else run_id
    return Coordinates(dag_id, run, task_id, key, options.get("map_index"))


def _read(found: Any, asked: Coordinates) -> Any:
    return transfer.load(found.row, asked) if type(found) is _Stored else found


def _read_all(found: list[Any] | None, asked: Coordinates) -> list[Any] | None:
    """What rows hold, in their order; where it is in blobs, several are read at a time."""
    if not found or not any(type(each) is _Stored for each in found):
        return found
    from concurrent.futures import ThreadPoolExecutor

    first, *rest = found
    # The first one by itself: it may have to ask for a Connection, which all of them share.
    values = [_read(first, asked)]
    with ThreadPoolExecutor(_READERS) as readers:
        return values + list(readers.map(lambda each: _read(each, asked), rest))
