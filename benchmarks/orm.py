"""Reads sizes by DAG, task and key through Airflow's own model, as a task of Airflow 2 would have, and prints figures.

Usage: ``python -m benchmarks.orm <rows>``, with Airflow's database in the environment. Reads the first so many rows.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select


def main(rows: int) -> None:
    sizes: Counter[tuple[str, str, str]] = Counter()
    count = 0
    with create_session() as session:
        session.execute(select(XComModel.key).limit(1)).all()
        started = time.monotonic()
        for row in session.scalars(select(XComModel).limit(rows).execution_options(yield_per=1_000)):
            sizes[row.dag_id, row.task_id, row.key] += len(json.dumps(row.value))
            session.expunge(row)
            count += 1
        seconds = time.monotonic() - started
    print(json.dumps({"rows": count, "seconds": seconds, "bytes": sizes.total()}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
