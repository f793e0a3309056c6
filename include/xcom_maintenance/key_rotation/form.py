"""The trigger form of ``xcom_rotate_keys``."""

from __future__ import annotations

from airflow.sdk import Param

from include.xcom_maintenance.flow import form


def fields() -> dict[str, Param]:
    """The fields."""
    return {
        "mode": form.own_mode("re-encrypt"),
        "batch_rows": form.integer("Batch (rows)", "The most rows that one transaction replaces.", minimum=1),
        "max_minutes": form.number("Time budget (minutes)", "Stop then; the next run goes on.", exclusiveMinimum=0),
        **form.places(),
    }
