"""Values for those who look into them: newest runs first, in bounded pieces, each read by the primary key.

There is no index on the time of a push. Runs are walked from the newest down, and for what was pushed since a moment
only those are looked at that had not ended then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

from include.xcom_maintenance.metadata.ports.size_audit import PushedValue, ValuePosition, ValueSpan
from include.xcom_maintenance.metadata.postgres.base import Connected
from include.xcom_maintenance.metadata.postgres.rows import IS_NO_CANARY, ROWS_BY_KEY

_RUNS_AT_ONCE = 200
#: Of one statement that reads values: rows, and stored bytes.
_VALUES_AT_ONCE = 200
_BYTES_AT_ONCE = 4 * 1024 * 1024

#: A run that ended before could have pushed nothing since; one without an end goes on, or never began.
_RUNS = """
SELECT id FROM dag_run
WHERE id <= %(from_run)s AND (%(after)s::timestamptz IS NULL OR end_date IS NULL OR end_date >= %(after)s)
ORDER BY id DESC LIMIT %(limit)s"""

_IN_SPAN = f"""x.timestamp <= %(until)s AND (%(after)s::timestamptz IS NULL OR x.timestamp > %(after)s)
  AND (x.dag_run_id < %(from_run)s OR %(before)s::timestamptz IS NULL OR x.timestamp < %(before)s)
  AND x.value IS NOT NULL AND {IS_NO_CANARY}"""

_PLACES = f"""
SELECT x.dag_run_id, x.dag_id, x.task_id, x.map_index, x.key, x.timestamp, pg_column_size(x.value)
FROM xcom x WHERE x.dag_run_id = ANY(%(runs)s) AND {_IN_SPAN}
ORDER BY x.dag_run_id DESC, x.timestamp DESC"""

#: OFFSET 0 keeps the value from being read twice.
_TEXTS = f"""
SELECT c.number, CASE WHEN octet_length(t.text) <= %(max_bytes)s THEN t.text END
FROM {ROWS_BY_KEY}
CROSS JOIN LATERAL (SELECT x.value::text AS text OFFSET 0) t"""

_COUNT = f"""
SELECT count(*) FROM xcom x
WHERE x.dag_run_id IN (SELECT id FROM dag_run WHERE id <= %(from_run)s
                         AND (%(after)s::timestamptz IS NULL OR end_date IS NULL OR end_date >= %(after)s))
  AND {_IN_SPAN}"""

_STILL_THERE = """
SELECT c.number FROM unnest(%(dags)s::text[], %(tasks)s::text[], %(keys)s::text[], %(until)s::timestamptz[])
     WITH ORDINALITY AS c(dag_id, task_id, key, until, number)
WHERE EXISTS (SELECT FROM xcom x
              WHERE x.dag_id = c.dag_id AND x.task_id = c.task_id AND x.key = c.key AND x.timestamp <= c.until)"""


def _bounds(span: ValueSpan) -> dict[str, Any]:
    """A run id is 32 bits wide."""
    return {
        "from_run": span.older_than.dag_run_id if span.older_than else 2**31 - 1,
        "before": span.older_than.pushed_at if span.older_than else None,
        "after": span.pushed_after,
        "until": span.pushed_until,
    }


class SecretsQueries(Connected):
    """The newest values, one by one."""

    def values(self, span: ValueSpan, *, max_value_bytes: int) -> Iterator[PushedValue]:
        bounds = _bounds(span)
        next_run = bounds["from_run"]
        while runs := [
            row[0] for row in self._session.rows(_RUNS, {**bounds, "from_run": next_run, "limit": _RUNS_AT_ONCE})
        ]:
            with closing(self._session.stream(_PLACES, {**bounds, "runs": runs})) as places:
                chunk: list[Any] = []
                size = 0
                for place in places:
                    readable = place[-1] <= max_value_bytes
                    chunk.append(place)
                    size += place[-1] if readable else 0
                    if len(chunk) >= _VALUES_AT_ONCE or size >= _BYTES_AT_ONCE:
                        yield from self._read(chunk, max_value_bytes)
                        chunk, size = [], 0
                yield from self._read(chunk, max_value_bytes)
            next_run = runs[-1] - 1

    def _read(self, places: Sequence[Any], max_value_bytes: int) -> Iterator[PushedValue]:
        wanted = [place for place in places if place[-1] <= max_value_bytes]
        texts: dict[int, str | None] = {}
        if wanted:
            runs, _, tasks, maps, keys, *_ = (list(column) for column in zip(*wanted, strict=True))
            parameters = {"runs": runs, "tasks": tasks, "maps": maps, "keys": keys, "max_bytes": max_value_bytes}
            texts = dict(self._session.rows(_TEXTS, parameters))
        number = 0
        for run, dag_id, task_id, _, key, timestamp, stored in places:
            text = None
            if stored <= max_value_bytes:
                number += 1
                if number not in texts:
                    continue  # deleted meanwhile
                text = texts[number]
            yield PushedValue(dag_id, task_id, key, timestamp, stored, ValuePosition(run, timestamp), text)

    def count_values(self, span: ValueSpan) -> int:
        return int(self._session.rows(_COUNT, _bounds(span))[0][0])

    def values_still_there(self, keys: Sequence[tuple[str, str, str, datetime]]) -> list[bool]:
        columns = [list(column) for column in zip(*keys, strict=True)] or [[], [], [], []]
        found = self._session.rows(_STILL_THERE, dict(zip(("dags", "tasks", "keys", "until"), columns, strict=True)))
        there = {number for (number,) in found}
        return [number in there for number in range(1, len(keys) + 1)]
