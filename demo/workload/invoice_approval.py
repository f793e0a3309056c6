"""Invoices that wait for a person: until somebody answers, the run is unfinished and its values are needed."""

from __future__ import annotations

import random
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import dag, get_current_context, task


@dag(schedule=None, tags=["workload"])
def invoice_approval() -> None:
    @task
    def collect() -> list[dict[str, Any]]:
        invoices = [{"invoice": number, "amount": random.randint(10, 9_000)} for number in range(1_000)]
        ti = get_current_context()["ti"]
        ti.xcom_push("count", len(invoices))
        ti.xcom_push("total", sum(invoice["amount"] for invoice in invoices))
        return invoices

    @task
    def pay(invoices: list[dict[str, Any]]) -> int:
        return len(invoices)

    approve = ApprovalOperator(task_id="approve", subject="Pay these invoices?")
    invoices = collect()
    invoices >> approve >> pay(invoices)


invoice_approval()
