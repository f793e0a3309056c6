"""Runs ``airflow db clean`` in this process and prints how long its deleting took, without the start-up of the command.

Usage: ``python -m benchmarks.db_clean <days> <batch size, or 0 for none> [archive]``, with Airflow's database in the
environment.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta

from airflow.utils.db_cleanup import run_cleanup


def main(days: float, batch_size: int, *, archive: bool) -> None:
    started = time.monotonic()
    run_cleanup(
        clean_before_timestamp=datetime.now(UTC) - timedelta(days=days),
        table_names=["xcom"],
        skip_archive=not archive,
        confirm=False,
        batch_size=batch_size or None,
    )
    print(f"seconds={time.monotonic() - started}")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), archive="archive" in sys.argv)
