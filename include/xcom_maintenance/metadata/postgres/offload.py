"""Values that move between rows and blobs: which there are, what they hold, and how one takes the place of another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.values import Movable, ReadValue, Replacement
from include.xcom_maintenance.metadata.postgres.base import Connected
from include.xcom_maintenance.metadata.postgres.rows import (
    BY_KEY,
    IS_BLOB_REFERENCE,
    IS_NO_CANARY,
    LINES,
    PLACE,
    ROWS_BY_KEY,
    SAME_KEY,
    in_lines,
    primary_keys,
)
from include.xcom_maintenance.metadata.postgres.states import (
    LOCK_RUNS,
    STATES,
    UNFINISHED,
    UNFINISHED_AMONG,
    CameToLifeError,
)

#: Postgres' compressions make no more than 255 bytes of one. Values that are stored in less than the 256th part of the
#: threshold are not decompressed to find out that they are below it.
_SHRINKS_AT_MOST = 256
_OURS = r"(x.value ->> '__classname__') LIKE 'xcom\_blob\_backend.%%'"
_FINISHED = f"NOT {UNFINISHED.format(run='r')}"

#: Values of finished runs that are as long as JSON and are not in a blob of this project's backend. OFFSET 0: each
#: value is written out once, whatever asks for its length.
_LARGE = f"""
SELECT {PLACE}, x.bytes, x.stored
FROM (
    SELECT {PLACE}, pg_column_size(x.value) AS stored,
           CASE WHEN pg_column_size(x.value) >= %(stored)s AND ({_OURS}) IS NOT TRUE
                THEN octet_length(x.value::text) END AS bytes
    FROM xcom x
    WHERE x.value IS NOT NULL AND {IS_NO_CANARY}
    OFFSET 0
) x
JOIN dag_run r ON r.id = x.dag_run_id
WHERE x.bytes >= %(bytes)s AND {_FINISHED}"""

#: Rows of finished runs that refer to a blob of this project's backend.
_OFFLOADED = f"""
SELECT {PLACE}, coalesce((x.value #>> '{{__data__,bytes}}')::bigint, 0), pg_column_size(x.value)
FROM xcom x JOIN dag_run r ON r.id = x.dag_run_id
WHERE CASE WHEN pg_column_size(x.value) < 4096
           THEN {IS_BLOB_REFERENCE} END AND {_FINISHED}"""

_TEXTS = f"""
SELECT c.number, x.timestamp, x.value::text
FROM {ROWS_BY_KEY}
WHERE x.value IS NOT NULL
ORDER BY c.number"""

_LOCK = f"""
SELECT FROM {ROWS_BY_KEY}
ORDER BY x.dag_run_id, x.task_id, x.map_index, x.key
FOR UPDATE OF x"""

#: The digest is that of the value that was read: to send it back as a whole would double what goes over the line.
_REPLACE = f"""
UPDATE xcom x SET value = c.new::jsonb
FROM {BY_KEY.format(more=f", %(digests)s::text[], %(stamps)s::timestamptz[], {LINES.format(name='news')}",
                    names=", digest, stamp, new")}
WHERE {SAME_KEY} AND x.timestamp = c.stamp
  AND encode(sha256(convert_to(x.value::text, 'UTF8')), 'hex') = c.digest
  AND NOT x.dag_run_id = ANY(ARRAY({{unfinished}}))
RETURNING c.number"""  # fmt: skip


def _movable(rows: Iterator[Any]) -> Iterator[Movable]:
    for *place, value_bytes, stored_bytes in rows:
        yield Movable(ValuePlace(*place), value_bytes, stored_bytes)


class _CannotHoldError(Exception):
    """The database has no JSONB value for a text."""


class OffloadQueries(Connected):
    """Values that move between rows and blobs."""

    def large_values(self, min_bytes: int) -> Iterator[Movable]:
        parameters = {**STATES, "bytes": min_bytes, "stored": min_bytes // _SHRINKS_AT_MOST}
        return _movable(self._session.stream(_LARGE, parameters))

    def offloaded_values(self) -> Iterator[Movable]:
        return _movable(self._session.stream(_OFFLOADED, STATES))

    def read_values(self, places: Sequence[ValuePlace]) -> list[ReadValue]:
        found = self._session.rows(_TEXTS, primary_keys(places))
        return [ReadValue(places[number - 1], timestamp, text) for number, timestamp, text in found]

    def as_stored(self, texts: Sequence[str]) -> list[str | None]:
        return [self._as_stored(text) for text in texts]

    def _as_stored(self, text: str) -> str | None:
        try:
            with self._session.transaction() as cursor:
                try:
                    cursor.execute("SELECT %(text)s::jsonb::text", {"text": text})
                    return str(cursor.fetchone()[0])
                except Exception as error:
                    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
                    if not state.startswith(("22", "54")):  # a character, a number or a length that JSONB does not have
                        raise
                    raise _CannotHoldError from None
        except _CannotHoldError:
            return None

    def replace_values(self, replacements: Sequence[Replacement]) -> list[Replacement]:
        left = list(replacements)
        while left:
            try:
                numbers = self._session.change(partial(self._replace, replacements=tuple(left)))
                return [left[number - 1] for number in sorted(numbers)]
            except CameToLifeError as error:
                left = [one for one in left if one.old.place.dag_run_id not in error.dag_run_ids]
        return []

    def _replace(self, cursor: Any, replacements: Sequence[Replacement]) -> list[int]:
        """In one transaction; the numbers of those that took place.

        :raises CameToLifeError: if a run came to life while the statement ran; nothing was changed then.
        """
        places = primary_keys([one.old.place for one in replacements])
        runs = {**STATES, "ids": sorted(set(places["runs"]))}
        if self._may_lock_runs:  # whoever clears a run waits, or is seen
            cursor.execute(LOCK_RUNS, runs)
        cursor.execute(_LOCK, places)
        cursor.execute(
            _REPLACE.format(unfinished=UNFINISHED_AMONG),
            {
                **runs,
                **places,
                "digests": [hashlib.sha256(one.old.text.encode()).hexdigest() for one in replacements],
                "stamps": [one.old.timestamp for one in replacements],
                "news": in_lines(one.text for one in replacements),
            },
        )
        done = [number for (number,) in cursor.fetchall()]
        changed = {replacements[number - 1].old.place.dag_run_id for number in done}
        cursor.execute(UNFINISHED_AMONG, {**runs, "ids": sorted(changed)})
        if revived := {row[0] for row in cursor.fetchall()}:
            raise CameToLifeError(revived)
        return done
