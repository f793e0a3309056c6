"""A download that fails on its first try, after it has pushed a value, and succeeds on the second."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, get_current_context, task


@dag(schedule=None, tags=["workload"])
def partner_import() -> None:
    @task(retries=2, retry_delay=timedelta(seconds=1))
    def download() -> list[str]:
        ti = get_current_context()["ti"]
        ti.xcom_push("attempt", ti.try_number)
        ti.xcom_push("response_headers", {f"x-header-{number}": "v" * 80 for number in range(20)})
        if ti.try_number == 1:
            raise ConnectionError("The partner's server closed the connection (the demo makes this happen once)")
        return [f"{random.getrandbits(128):032x}" for _ in range(2_000)]

    @task
    def load(records: list[str]) -> dict[str, Any]:
        ti = get_current_context()["ti"]
        ti.xcom_push("rows_loaded", len(records))
        ti.xcom_push("rejected", records[:5])
        return {"first": min(records), "last": max(records)}

    load(download())


partner_import()
