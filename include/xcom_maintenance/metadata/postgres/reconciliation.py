"""What the metadata still knows about blobs without a row; and rows without their blob, which can go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import Coordinates, RowReference
from include.xcom_maintenance.core.references import reference_in
from include.xcom_maintenance.metadata.ports.reconciliation import Circumstances, DanglingThatStay
from include.xcom_maintenance.metadata.ports.shared import OpenArchive
from include.xcom_maintenance.metadata.postgres.archive import RETURNING, copy_deleted
from include.xcom_maintenance.metadata.postgres.base import Connected
from include.xcom_maintenance.metadata.postgres.rows import ADDRESS, BY_KEY, BY_NAME, IS_SHORT, SAME_KEY, row_names
from include.xcom_maintenance.metadata.postgres.states import LOCK_RUNS, STATES, UNFINISHED

#: By the indexes of each table: the cost is that of the places asked about. Only short values are read.
_CIRCUMSTANCES = f"""
SELECT c.number, EXISTS (SELECT FROM dag WHERE dag.dag_id = c.dag_id), r.id IS NOT NULL, t.instances > 0,
       coalesce(t.succeeded, false), t.started, x.newest_reference, coalesce(x.elsewhere, false)
FROM unnest(%(dag_ids)s::text[], %(run_ids)s::text[], %(task_ids)s::text[])
     WITH ORDINALITY AS c(dag_id, run_id, task_id, number)
LEFT JOIN dag_run r ON r.dag_id = c.dag_id AND r.run_id = c.run_id
CROSS JOIN LATERAL (
    SELECT count(*) AS instances, bool_or(state = 'success') AS succeeded, max(start_date) AS started
    FROM task_instance WHERE dag_id = c.dag_id AND run_id = c.run_id AND task_id = c.task_id
) t
CROSS JOIN LATERAL (
    SELECT max(timestamp) FILTER (WHERE position(%(marker)s IN text) > 0) AS newest_reference,
           bool_or(position(%(marker)s IN text) = 0
                   AND position('/' || concat_ws('/', c.dag_id, c.run_id, c.task_id) || '/' IN text) > 0) AS elsewhere
    FROM (
        SELECT timestamp, CASE WHEN {IS_SHORT} THEN {ADDRESS} END AS text
        FROM xcom x WHERE dag_run_id = r.id AND task_id = c.task_id
    ) rows
) x"""


#: The values of some rows as they are now, as far as they can be references.
_VALUES = f"""
SELECT c.number, r.id, CASE WHEN {IS_SHORT} THEN x.value::text END
FROM {BY_NAME}
JOIN dag_run r ON r.dag_id = c.dag_id AND r.run_id = c.run_id
JOIN xcom x ON x.dag_run_id = r.id AND x.task_id = c.task_id AND x.map_index = c.map_index AND x.key = c.key"""

#: Which of some rows go: those that still hold just these values, of runs that are finished, since a retry that pushed
#: anew wrote another; and of mapped tasks only whole groups, for what is left of one would be taken for all of it.
_DANGLING = f"""
WITH held AS MATERIALIZED (
    SELECT x.dag_run_id, x.task_id, x.map_index, x.key, x.value
    FROM {BY_KEY.format(more=", %(values)s::text[]", names=", value")}
    JOIN dag_run r ON r.id = c.dag_run_id
    JOIN xcom x ON {SAME_KEY} AND x.value = c.value::jsonb
    WHERE NOT {UNFINISHED.format(run="r")}
),
whole AS MATERIALIZED (
    SELECT h.dag_run_id, h.task_id, h.key FROM held h WHERE h.map_index >= 0 GROUP BY 1, 2, 3
    HAVING count(*) = (SELECT count(*) FROM xcom m WHERE m.dag_run_id = h.dag_run_id AND m.task_id = h.task_id
                         AND m.map_index >= 0 AND m.key = h.key)
)"""
_GOES = "(h.map_index < 0 OR (h.dag_run_id, h.task_id, h.key) IN (SELECT * FROM whole))"

DELETE_DANGLING = f"""{_DANGLING}
DELETE FROM xcom x USING held h
WHERE x.dag_run_id = h.dag_run_id AND x.task_id = h.task_id AND x.map_index = h.map_index AND x.key = h.key
  AND x.value = h.value AND {_GOES}"""

#: Those that stay since others of their group do.
_STAY_WITH_OTHERS = f"{_DANGLING} SELECT count(*) FROM held h WHERE NOT {_GOES}"

RUNS_OF = """SELECT r.id FROM unnest(%(dag_ids)s::text[], %(run_ids)s::text[]) AS c(dag_id, run_id)
JOIN dag_run r ON r.dag_id = c.dag_id AND r.run_id = c.run_id"""


def rows_of(references: Sequence[RowReference]) -> dict[str, Any]:
    """Where the rows of some references are, column by column."""
    return row_names((row.dag_id, row.run_id, row.task_id, row.map_index, row.xcom_key) for row in references)


class ReconciliationQueries(Connected):
    """Blobs without a row, and rows without their blob."""

    def circumstances(self, places: Collection[Coordinates], base: BasePath) -> dict[Coordinates, Circumstances]:
        asked = list(dict.fromkeys(places))
        parameters = {
            "dag_ids": [place.dag_id for place in asked],
            "run_ids": [place.run_id for place in asked],
            "task_ids": [place.task_id for place in asked],
            "marker": base.marker,
        }
        return {
            asked[number - 1]: Circumstances(*found)
            for number, *found in self._session.rows(_CIRCUMSTANCES, parameters)
        }

    def still_there(self, references: Sequence[RowReference]) -> list[RowReference]:
        found = self._session.rows(EXISTING_ROWS, rows_of(references))
        return [references[number - 1] for (number,) in sorted(found)]

    def delete_dangling(
        self,
        references: Sequence[RowReference],
        *,
        archive: OpenArchive | None = None,
    ) -> int:
        asked = rows_of(references)

        def work(cursor: Any) -> int:
            if self._may_lock_runs:  # a clear waits, or is seen
                cursor.execute(RUNS_OF, asked)
                cursor.execute(LOCK_RUNS, {"ids": [number for (number,) in cursor.fetchall()]})
            parameters = _parameters(_held(cursor, references, asked))
            if archive is None:
                cursor.execute(DELETE_DANGLING, parameters)
                return int(cursor.rowcount)
            with archive() as sink:
                return copy_deleted(cursor, f"{DELETE_DANGLING} RETURNING {RETURNING}", parameters, sink)

        return self._session.change(work)

    def dangling_that_stay(self, references: Sequence[RowReference]) -> DanglingThatStay:
        with self._session.transaction() as cursor:
            held = _held(cursor, references, rows_of(references))
            cursor.execute(_STAY_WITH_OTHERS, _parameters(held))
            [in_part] = cursor.fetchone()
        return DanglingThatStay(int(in_part), sum(one.own for one in held))


class _Held(NamedTuple):
    """A row that still holds the very reference that it was found with."""

    dag_run_id: int
    row: RowReference
    #: Its value, as JSON.
    text: str
    own: bool


def _held(cursor: Any, references: Sequence[RowReference], asked: dict[str, Any]) -> list[_Held]:
    cursor.execute(_VALUES, asked)
    found = []
    for number, dag_run_id, text in cursor.fetchall():
        row, held = references[number - 1], reference_in(text)
        # The key by its end, as it was found below the base path.
        if held is not None and held.says_where and f"/{held.key}".endswith(f"/{row.key}"):
            found.append(_Held(dag_run_id, row, text, held.own))
    return found


def _parameters(held: Sequence[_Held]) -> dict[str, Any]:
    """Those of ``_DANGLING``: rows that may go, and their values."""
    found = [one for one in held if not one.own]
    return {
        **STATES,
        "runs": [one.dag_run_id for one in found],
        "tasks": [one.row.task_id for one in found],
        "maps": [one.row.map_index for one in found],
        "keys": [one.row.xcom_key for one in found],
        "values": [one.text for one in found],
    }


#: Which of some rows are there.
EXISTING_ROWS = f"""
SELECT c.number
FROM {BY_NAME}
WHERE EXISTS (SELECT FROM xcom x
              WHERE x.dag_id = c.dag_id AND x.task_id = c.task_id AND x.run_id = c.run_id
                AND x.map_index = c.map_index AND x.key = c.key)"""
