"""Runs: which there are, whether they are finished, and how they are kept from coming to life meanwhile."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

from include.xcom_maintenance.core.records import Coordinates
from include.xcom_maintenance.core.reference_formats import hash_of
from include.xcom_maintenance.core.runs import Doomed, Run, YoungerRuns
from include.xcom_maintenance.metadata.postgres.schema import SchemaQueries
from include.xcom_maintenance.metadata.postgres.states import (
    PULLING_AMONG,
    RUN_SEEN,
    STATES,
    TASK_SEEN,
    UNFINISHED_RUNS,
    UNFINISHED_STATE,
    CameToLifeError,
)


def ages(*, knows_creation: bool) -> str:
    """Every run, whether it is old, and the DAGs of which a young run is due before an old one.

    :param knows_creation: whether ``dag_run`` says when a run was made, as it does since Airflow 3.2. Elsewhere every
        run is old: when it began says nothing of its rows, for a run that is cleared begins once more and keeps those
        of the tasks that were not.
    """
    old = "created_at IS NULL OR created_at < %(horizon)s::timestamptz" if knows_creation else "true"
    return f"""r AS NOT MATERIALIZED (
    SELECT id, dag_id, run_id, coalesce(state, '') AS state, run_after, {old} AS old, end_date, updated_at
    FROM dag_run
),
d AS MATERIALIZED (
    SELECT dag_id, coalesce(max(run_after) FILTER (WHERE old) >= min(run_after) FILTER (WHERE NOT old), false) AS mixed
    FROM r GROUP BY dag_id
)"""


#: How many unfinished tasks there are, by run; when one of them was touched last, and whether that is known of all.
_BUSY = f"""busy AS MATERIALIZED (
    SELECT t.dag_id, t.run_id, count(*) AS tasks, max({TASK_SEEN}) AS seen, count({TASK_SEEN}) = count(*) AS known
    FROM task_instance t
    WHERE {UNFINISHED_STATE} GROUP BY t.dag_id, t.run_id
)"""
#: When there was a last sign of life of a run with unfinished tasks; NULL if it has none, or one gives no sign.
_LAST_SIGN = f"""CASE WHEN busy.tasks > 0 AND ({RUN_SEEN.format(run="r")} IS NOT NULL OR busy.known)
    THEN greatest({RUN_SEEN.format(run="r")}, busy.seen) END"""


def all_runs(*, knows_creation: bool) -> str:
    """Runs that may lose rows one by one, the others in numbers, by DAG.

    A run that was created after ``%(horizon)s`` counts as young. Of a DAG in which a young run is due before one that
    is not, such as one that is being backfilled, all come one by one: only the order says which are the newest.
    """
    return f"""
WITH {ages(knows_creation=knows_creation)},
{_BUSY}
SELECT r.dag_id, r.id, r.run_id, r.state, r.run_after, coalesce(busy.tasks, 0), {_LAST_SIGN}
FROM r JOIN d USING (dag_id) LEFT JOIN busy USING (dag_id, run_id)
WHERE r.old OR d.mixed
UNION ALL
SELECT r.dag_id, NULL, count(*) FILTER (WHERE r.state = ANY(%(run_states)s))::text,
       count(*) FILTER (WHERE NOT r.state = ANY(%(run_states)s))::text, NULL, NULL, NULL
FROM r JOIN d USING (dag_id)
WHERE NOT r.old AND NOT d.mixed
GROUP BY r.dag_id
ORDER BY 1, 5 DESC NULLS FIRST, 2 DESC"""


#: The ``%(count)s`` newest finished runs of each DAG.
_NEWEST_FINISHED = f"""
WITH {_BUSY}
SELECT r.dag_id, r.id, r.run_id, r.state, r.run_after, coalesce(busy.tasks, 0), {_LAST_SIGN}
FROM (
    SELECT *, row_number() OVER (PARTITION BY dag_id ORDER BY run_after DESC, id DESC) AS place
    FROM dag_run WHERE state = ANY(%(run_states)s)
) r LEFT JOIN busy USING (dag_id, run_id)
WHERE r.place <= %(count)s
ORDER BY r.dag_id, r.place"""


#: Where ids are looked for of which only a hash is known.
_DAGS = "SELECT dag_id AS id FROM dag UNION SELECT DISTINCT dag_id FROM dag_run"
_LOGGED_DAGS = "SELECT DISTINCT dag_id AS id FROM log WHERE dag_id IS NOT NULL"
_RUNS = "SELECT run_id AS id FROM dag_run WHERE dag_id = %(dag_id)s"
_TASKS = "SELECT DISTINCT task_id AS id FROM task_instance WHERE dag_id = %(dag_id)s"


class RunQueries(SchemaQueries):
    """Runs, and the DAGs that they are of."""

    def dag_tags(self) -> dict[str, frozenset[str]]:
        rows = self._session.rows("SELECT dag_id, array_agg(name::text) FROM dag_tag GROUP BY dag_id", {})
        return {dag_id: frozenset(names) for dag_id, names in rows}

    def runs(self, *, created_before: datetime | None = None) -> Iterator[Run | YoungerRuns]:
        parameters = {**STATES, "horizon": horizon(created_before)}
        statement = all_runs(knows_creation=self._knows_creation)
        for dag_id, number, run_id, state, *rest in self._session.stream(statement, parameters):
            if number is None:
                yield YoungerRuns(dag_id, finished=int(run_id), unfinished=int(state))
            else:
                yield Run(number, dag_id, run_id, state, *rest)

    def newest_finished_runs(self, count: int) -> Iterator[Run]:
        for dag_id, number, *rest in self._session.rows(_NEWEST_FINISHED, {**STATES, "count": count}):
            yield Run(number, dag_id, *rest)

    def unfinished_runs(
        self, runs: Collection[Coordinates], *, stuck_before: datetime | None = None
    ) -> set[tuple[str, str]]:
        pairs = sorted({(run.dag_id, run.run_id) for run in runs})
        names = {"dag_ids": [p[0] for p in pairs], "run_ids": [p[1] for p in pairs]}
        parameters = {**STATES, **names, "stuck_before": stuck_before}
        return {(dag_id, run_id) for dag_id, run_id in self._session.rows(UNFINISHED_RUNS, parameters)}

    def named_in_full(self, places: Collection[Coordinates]) -> dict[Coordinates, Coordinates]:
        cut = [place for place in places if any(hash_of(part) or not part.isascii() for part in place.parts)]
        if not cut:
            return {}
        dags = self._of_hashes(_DAGS, {place.dag_id for place in cut})
        if self._may_read("log") and (gone := {p.dag_id for p in cut if hash_of(p.dag_id)} - dags.keys()):
            dags |= self._of_hashes(_LOGGED_DAGS, gone)
        found = {}
        for dag_id in {place.dag_id for place in cut}:
            dag = dags.get(dag_id, dag_id)
            of_dag = [place for place in cut if place.dag_id == dag_id]
            runs = self._of_hashes(_RUNS, {place.run_id for place in of_dag}, dag_id=dag)
            tasks = self._of_hashes(_TASKS, {place.task_id for place in of_dag}, dag_id=dag)
            for place in of_dag:
                run_id, task_id = place.run_id, place.task_id
                found[place] = Coordinates(dag, runs.get(run_id, run_id), tasks.get(task_id, task_id))
        return {place: full for place, full in found.items() if place != full}

    def _of_hashes(self, ids: str, cut: Collection[str], **parameters: str) -> dict[str, str]:
        """Cut ids, and ids in another Unicode form -> the ids among some that are meant.

        :param ids: a query for the ids.
        """
        return self._spelled(ids, cut, **parameters) | self._hashed(ids, cut, **parameters)

    def _spelled(self, ids: str, listed: Collection[str], **parameters: str) -> dict[str, str]:
        """A store may list names in another Unicode form than the one that they were written in."""
        forms = {unicodedata.normalize(form, name): name for name in listed for form in ("NFC", "NFD")}
        forms = {form: name for form, name in forms.items() if not form.isascii()}
        if not forms:
            return {}
        asked = sorted({*forms, *forms.values()})
        rows = self._session.rows(
            f"SELECT id FROM ({ids}) AS all_ids WHERE id = ANY(%(asked)s::text[])", {"asked": asked, **parameters}
        )
        known = {name for (name,) in rows}
        return {forms[name]: name for name in known if name in forms and forms[name] not in known}

    def _hashed(self, ids: str, cut: Collection[str], **parameters: str) -> dict[str, str]:
        """Ids that were too long end in a hash."""
        hashes = {digest: name for name in cut if (digest := hash_of(name)) is not None}
        if not hashes:
            return {}
        rows = self._session.rows(
            f"""SELECT h.hash, i.id FROM (
                    SELECT id, left(encode(sha256(convert_to(id, 'UTF8')), 'hex'), 24) AS hash FROM ({ids}) AS all_ids
                ) AS i JOIN unnest(%(hashes)s::text[]) AS h(hash) ON h.hash = i.hash""",
            {"hashes": sorted(hashes), **parameters},
        )
        return {hashes[digest]: name for digest, name in rows}

    def known_dags(self, dag_ids: Collection[str]) -> set[str]:
        # A DAG that was deleted in the UI is gone from every table but the log, which remembers that it was ours.
        logged = "OR EXISTS (SELECT FROM log WHERE log.dag_id = c.id)" if self._may_read("log") else ""
        rows = self._session.rows(
            f"""SELECT c.id FROM unnest(%(ids)s::text[]) AS c(id)
                WHERE EXISTS (SELECT FROM dag WHERE dag.dag_id = c.id)
                   OR EXISTS (SELECT FROM dag_run WHERE dag_run.dag_id = c.id) {logged}""",
            {"ids": sorted(dag_ids)},
        )
        return {row[0] for row in rows}

    def _check_still_finished(self, cursor: Any, doomed: Doomed) -> None:
        revived = set()
        for which, runs in doomed.by_cut().items():
            stuck_before = doomed.cuts[which].stuck_before
            cursor.execute(PULLING_AMONG, {**STATES, "ids": list(runs), "stuck_before": stuck_before})
            revived |= {row[0] for row in cursor.fetchall()}
        if revived:
            raise CameToLifeError(revived)


def horizon(created_before: datetime | None) -> str:
    return "infinity" if created_before is None else created_before.isoformat()
