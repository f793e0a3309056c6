"""The trigger form of ``xcom_offload_large_values``."""

from __future__ import annotations

from airflow.sdk import Param

from include.xcom_maintenance.flow import form


def fields() -> dict[str, Param]:
    """The fields."""
    return {
        "mode": form.own_mode("move the values"),
        "direction": form.one_of(
            "Direction",
            "Which way values move. Leave empty for offload.",
            {"offload": "from rows into blobs", "inline": "from blobs back into rows"},
            configured=False,
        ),
        "dag_ids": form.choice("DAGs"),
        "key_order": form.one_of(
            "Order of keys",
            "For dicts that move back into rows, where the database sorts their keys. Leave empty for keep.",
            {"keep": "leave such a value in its blob", "any": "the order means nothing"},
            configured=False,
        ),
        "offload_threshold_bytes": form.integer(
            "Threshold (bytes)", "Move values at least this large as JSON.", minimum=1024
        ),
        "max_minutes": form.number(
            "Time budget (minutes)", "Stop after this time; the next run continues.", exclusiveMinimum=0
        ),
        **form.places(),
    }
