"""What the metadata still knows about blobs without a row."""

from __future__ import annotations

from collections.abc import Collection

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.causes import Circumstances
from include.xcom_maintenance.core.records import Coordinates
from include.xcom_maintenance.metadata.postgres_session import Session

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
