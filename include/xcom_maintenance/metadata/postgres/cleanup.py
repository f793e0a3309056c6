"""What a cleanup deletes, and the references that go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import accumulate, chain
from typing import Any, NamedTuple

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.core.runs import Cut, Doomed
from include.xcom_maintenance.metadata.ports.cleanup import Deleted
from include.xcom_maintenance.metadata.ports.shared import OpenArchive
from include.xcom_maintenance.metadata.postgres import references as refs
from include.xcom_maintenance.metadata.postgres.archive import RETURNING, copy_deleted
from include.xcom_maintenance.metadata.postgres.retention import Retention, RetentionQueries
from include.xcom_maintenance.metadata.postgres.session import BY_INDEX
from include.xcom_maintenance.metadata.postgres.states import LOCK_RUNS, CameToLifeError


class CleanupQueries(RetentionQueries):
    """Delete by the retention rules; every condition stands in the statement itself."""

    def doomed_references(self, doomed: Doomed, base: BasePath) -> Iterator[RowReference]:
        found_in_cuts = (
            self._session.stream(wanted.references, {**wanted.parameters, "marker": base.marker}, access=BY_INDEX)
            for wanted in self._retentions(doomed)
        )
        for *place, size, text in chain.from_iterable(found_in_cuts):
            found = refs.held(("xcom", *place), text, stored_bytes=size, base=base, formats=self._formats)
            if found is not None:
                yield found

    def delete(
        self,
        doomed: Doomed,
        *,
        limit: int | None = None,
        archive: OpenArchive | None = None,
    ) -> Deleted:
        remaining = doomed
        while True:
            try:
                return self._delete(remaining, limit, archive)
            except CameToLifeError as error:
                remaining = remaining.without(error.dag_run_ids)
            if not remaining.dag_run_ids:
                return Deleted(0)

    def _delete(self, doomed: Doomed, limit: int | None, archive: OpenArchive | None) -> Deleted:
        """One transaction.

        :raises CameToLifeError: if a run of the batch did while the statement ran; nothing was deleted then.
        """
        runs = {"ids": sorted(set(doomed.dag_run_ids))}

        def work(cursor: Any) -> Deleted:
            cursor.execute(BY_INDEX)
            if self._may_lock_runs:
                cursor.execute(LOCK_RUNS, runs)
            if archive is None:
                deleted = _delete_each(cursor, doomed, limit, partial(_affected, cursor))
                self._check_still_finished(cursor, doomed)
                return deleted
            # The archive is complete and safe on disk when its context ends, which is before the commit.
            with archive() as sink:
                deleted = _delete_each(
                    cursor,
                    doomed,
                    limit,
                    lambda statement, parameters: copy_deleted(cursor, statement, parameters, sink),
                    returning=RETURNING,
                )
                self._check_still_finished(cursor, doomed)
            return deleted

        return self._session.change(work)


#: Runs a statement and says how many rows it deleted.
Execute = Callable[[str, Mapping[str, Any]], int]


def _delete_each(
    cursor: Any, doomed: Doomed, limit: int | None, execute: Execute, *, returning: str | None = None
) -> Deleted:
    """Delete what each cut takes, until there are ``limit`` rows.

    :param returning: what the statements are to return of each row.
    """
    rows = 0
    for which, runs in doomed.by_cut().items():
        if limit is None:
            rows += _delete_whole(cursor, Retention(doomed.cuts[which], runs), execute, returning)
            continue
        for run in runs:
            room = _Room(limit - rows, is_all=not rows)
            gone, more = _delete_some(cursor, doomed.cuts[which], run, room, execute, returning)
            rows += gone
            if more or rows >= limit:
                return Deleted(rows, more=True)
    return Deleted(rows)


def _delete_whole(cursor: Any, wanted: Retention, execute: Execute, returning: str | None, **more: Any) -> int:
    """
    :raises CameToLifeError: if a mapped row was pushed meanwhile, whose group the statement has not seen as a whole.
    """
    parameters = {**wanted.parameters, **more}
    rows = execute(wanted.delete(returning=returning), parameters)
    cursor.execute(wanted.just_pushed, parameters)
    if late := {run for (run,) in cursor.fetchall()}:
        raise CameToLifeError(late)
    return rows


class _Room(NamedTuple):
    """How many rows a transaction may still take."""

    rows: int
    #: Whether it has taken none so far.
    is_all: bool


def _delete_some(
    cursor: Any, cut: Cut, run: int, room: _Room, execute: Execute, returning: str | None
) -> tuple[int, bool]:
    """Delete rows of one run, in the order of the primary key, and never only some of a mapped group.

    A group that is larger than what a transaction may take goes alone, and all at once: nothing of it is in our memory.

    :returns: how many went, and whether there may be more.
    """
    after, place = "", {}  # type: tuple[str, dict[str, Any]]
    while True:
        place |= {"run": run, "limit": room.rows}
        wanted = Retention(cut, [run], after)
        cursor.execute(wanted.next_row, {**wanted.parameters, **place})
        beyond = cursor.fetchone()
        if beyond is None:
            return _delete_whole(cursor, wanted, execute, returning, **place), False
        task_id, map_index, key = beyond
        place |= {"task_id": task_id, "key": key}
        unmapped = map_index < 0
        bound = "({row}.task_id, {row}.map_index" + (
            ", {row}.key) < (%(task_id)s, -1, %(key)s)" if unmapped else ") < (%(task_id)s, 0)"
        )
        rows = _delete_whole(cursor, Retention(cut, [run], f"{after} AND {bound}"), execute, returning, **place)
        if rows:
            return rows, True
        of_groups = None if unmapped else _delete_groups(cursor, cut, run, room, execute, returning, place)
        if of_groups is not None:
            return of_groups, True
        # All of these stay with others of their group, or as the latest of their key.
        after = " AND " + (
            "({row}.task_id, {row}.map_index, {row}.key) >= (%(after_task)s, -1, %(after_key)s)"
            if unmapped
            else "{row}.task_id > %(after_task)s"
        )
        place |= {"after_task": task_id, "after_key": key}


def _delete_groups(
    cursor: Any, cut: Cut, run: int, room: _Room, execute: Execute, returning: str | None, place: Mapping[str, Any]
) -> int | None:
    """Delete whole groups of the mapped task ``%(task_id)s``, as many as there is room for; one that is larger alone.

    :returns: how many rows went; None if none of the task's are to go.
    """
    of_task = " AND {row}.task_id = %(task_id)s AND {row}.map_index >= 0"
    wanted = Retention(cut, [run], of_task)
    cursor.execute(wanted.groups, {**wanted.parameters, **place})
    found = cursor.fetchall()
    up_to = accumulate(rows for _, rows in found)
    keys = [key for (key, _), total in zip(found, up_to, strict=True) if total <= place["limit"]]
    if not found:
        return None
    if not keys and not room.is_all:
        return 0
    keys = keys or [found[0][0]]
    wanted = Retention(cut, [run], of_task + " AND {row}.key = ANY(%(keys)s::text[])")
    return _delete_whole(cursor, wanted, execute, returning, **{**place, "keys": keys})


def _affected(cursor: Any, statement: str, parameters: Mapping[str, Any]) -> int:
    cursor.execute(statement, parameters)
    return int(cursor.rowcount)
