"""What the metadata still knows about blobs without a row; and rows without their blob, which can go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import Coordinates, RowReference
from include.xcom_maintenance.metadata.ports.reconciliation import Circumstances
from include.xcom_maintenance.metadata.postgres import rows as sql
from include.xcom_maintenance.metadata.postgres.session import Session

#: By the indexes of each table: the cost is that of the places asked about. Only short values are read.
_CIRCUMSTANCES = """
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
        SELECT timestamp, CASE WHEN pg_column_size(value) <= 1500 THEN
            CASE WHEN jsonb_typeof(value) = 'string' THEN value #>> '{}'
                 WHEN jsonb_typeof(value) = 'object' THEN value #>> '{__data__,uri}' END END AS text
        FROM xcom WHERE dag_run_id = r.id AND task_id = c.task_id
    ) rows
) x"""


def circumstances(
    session: Session, places: Collection[Coordinates], base: BasePath
) -> dict[Coordinates, Circumstances]:
    """See ``MetadataStore.circumstances``."""
    asked = list(dict.fromkeys(places))
    parameters = {
        "dag_ids": [place.dag_id for place in asked],
        "run_ids": [place.run_id for place in asked],
        "task_ids": [place.task_id for place in asked],
        "marker": base.marker,
    }
    return {asked[number - 1]: Circumstances(*found) for number, *found in session.rows(_CIRCUMSTANCES, parameters)}


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
  AND NOT {sql.UNFINISHED.format(run="r")}"""

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
