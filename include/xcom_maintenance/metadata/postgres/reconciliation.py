"""What the metadata still knows about blobs without a row; and rows without their blob, which can go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import Coordinates, RowReference
from include.xcom_maintenance.metadata.ports.reconciliation import Circumstances
from include.xcom_maintenance.metadata.ports.shared import OpenArchive
from include.xcom_maintenance.metadata.postgres.archive import RETURNING, copy_deleted
from include.xcom_maintenance.metadata.postgres.base import Connected
from include.xcom_maintenance.metadata.postgres.rows import ADDRESS, IS_SHORT
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


#: The rows that still hold just these references, of runs that are finished: a retry that pushed anew wrote another.
DELETE_DANGLING = f"""
DELETE FROM xcom x
USING unnest(%(dag_ids)s::text[], %(run_ids)s::text[], %(task_ids)s::text[], %(map_indexes)s::int[], %(keys)s::text[],
             %(blobs)s::text[]) AS c(dag_id, run_id, task_id, map_index, key, blob), dag_run r
WHERE r.dag_id = c.dag_id AND r.run_id = c.run_id AND x.dag_run_id = r.id
  AND x.task_id = c.task_id AND x.map_index = c.map_index AND x.key = c.key
  AND right(CASE jsonb_typeof(x.value) WHEN 'string' THEN x.value #>> '{{}}'
                                       ELSE coalesce(x.value #>> '{{__data__,uri}}', x.value ->> 'key',
                                                     x.value ->> 's3_key') END, length(c.blob) + 1) = '/' || c.blob
  AND NOT {UNFINISHED.format(run="r")}"""

RUNS_OF = """SELECT r.id FROM unnest(%(dag_ids)s::text[], %(run_ids)s::text[]) AS c(dag_id, run_id)
JOIN dag_run r ON r.dag_id = c.dag_id AND r.run_id = c.run_id"""


def rows_of(references: Sequence[RowReference]) -> dict[str, Any]:
    """The parameters of ``DELETE_DANGLING``, but for the states."""
    return {
        "dag_ids": [found.dag_id for found in references],
        "run_ids": [found.run_id for found in references],
        "task_ids": [found.task_id for found in references],
        "map_indexes": [found.map_index for found in references],
        "keys": [found.xcom_key for found in references],
        "blobs": [found.key for found in references],
    }


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
        found = self._session.rows(
            EXISTING_ROWS,
            {
                "dag_ids": [r.dag_id for r in references],
                "task_ids": [r.task_id for r in references],
                "run_ids": [r.run_id for r in references],
                "map_indexes": [r.map_index for r in references],
                "keys": [r.xcom_key for r in references],
            },
        )
        return [references[number - 1] for (number,) in sorted(found)]

    def delete_dangling(
        self,
        references: Sequence[RowReference],
        *,
        archive: OpenArchive | None = None,
    ) -> int:
        parameters = {**STATES, **rows_of(references)}
        delete = DELETE_DANGLING

        def work(cursor: Any) -> int:
            if self._may_lock_runs:  # a clear waits, or is seen
                cursor.execute(RUNS_OF, parameters)
                cursor.execute(LOCK_RUNS, {"ids": [number for (number,) in cursor.fetchall()]})
            if archive is None:
                cursor.execute(delete, parameters)
                return int(cursor.rowcount)
            with archive() as sink:
                deleting = f"{delete} RETURNING {RETURNING}"
                return copy_deleted(cursor, deleting, parameters, sink)

        return self._session.change(work)


#: Which of some rows are there.
EXISTING_ROWS = """
SELECT c.number
FROM unnest(%(dag_ids)s::text[], %(task_ids)s::text[], %(run_ids)s::text[], %(map_indexes)s::int[], %(keys)s::text[])
     WITH ORDINALITY AS c(dag_id, task_id, run_id, map_index, key, number)
WHERE EXISTS (SELECT FROM xcom x
              WHERE x.dag_id = c.dag_id AND x.task_id = c.task_id AND x.run_id = c.run_id
                AND x.map_index = c.map_index AND x.key = c.key)"""
