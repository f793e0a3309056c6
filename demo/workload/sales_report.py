"""Orders by region: large values that go to object storage, a mapped task, and small values that stay inline."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

from airflow.sdk import dag, get_current_context, task

REGIONS = ["north", "south", "west"]


@dag(schedule=None, tags=["workload"])
def sales_report() -> None:
    @task
    def extract() -> list[dict[str, Any]]:
        orders = [
            {"order": number, "region": random.choice(REGIONS), "amount": round(random.uniform(5, 500), 2)}
            for number in range(800)
        ]
        ti = get_current_context()["ti"]
        ti.xcom_push("orders", len(orders))
        ti.xcom_push("read_at", datetime.now().isoformat())
        return orders

    @task
    def aggregate(region: str, orders: list[dict[str, Any]]) -> dict[str, Any]:
        own = [order for order in orders if order["region"] == region]
        ti = get_current_context()["ti"]
        ti.xcom_push("total", round(sum(order["amount"] for order in own), 2))
        ti.xcom_push("count", len(own))
        return {"region": region, "largest": sorted(own, key=lambda order: -order["amount"])[:60]}

    @task
    def publish(reports: list[dict[str, Any]]) -> str:
        best = max(reports, key=lambda report: report["largest"][0]["amount"])
        ti = get_current_context()["ti"]
        ti.xcom_push("regions", len(reports))
        ti.xcom_push("best_region", best["region"])
        return "published"

    publish(aggregate.partial(orders=extract()).expand(region=REGIONS))


sales_report()
