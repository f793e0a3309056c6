"""The trigger form of ``xcom_rotate_keys``."""

from __future__ import annotations

from airflow.sdk import Param

from include.xcom_maintenance.flow import form


def fields() -> dict[str, Param]:
    """The fields."""
    return {
        "mode": form.own_mode("re-encrypt the values"),
        "batch_rows": form.integer("Batch size (rows)", "The most rows one transaction may update.", minimum=1),
        "max_minutes": form.number(
            "Time budget (minutes)", "Stop after this time; the next run continues.", exclusiveMinimum=0
        ),
        **form.places(),
    }
