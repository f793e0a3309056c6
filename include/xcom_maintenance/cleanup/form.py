"""The trigger form of ``xcom_cleanup``."""

from __future__ import annotations

from airflow.sdk import Param

from include.xcom_maintenance.flow import form


def fields() -> dict[str, Param]:
    """The fields."""
    return {
        "mode": form.mode(),
        "max_age_days": form.number(
            "Maximum age (days)",
            "Rows pushed longer ago go, unless a rule has an age of its own.",
            exclusiveMinimum=0,
        ),
        "max_runs": form.integer(
            "Maximum runs",
            "Rows beyond this many newest finished runs of a DAG go, unless a rule has its own.",
            minimum=1,
        ),
        "max_delete_rows": form.integer("Row limit", "A plan that deletes more rows needs approval.", minimum=1),
        "max_delete_bytes": form.integer(
            "Byte limit", "A plan that deletes more stored bytes needs approval.", minimum=1
        ),
        "max_delete_share": form.number(
            "Row limit (share)",
            "A plan that deletes a larger share of all rows needs approval.",
            exclusiveMinimum=0,
            maximum=1,
        ),
        "on_limit": form.on_limit(),
        "max_minutes": form.number("Time budget (minutes)", "Stop then; the next run goes on.", exclusiveMinimum=0),
        "archive_path": form.text("Archive path", "Where rows are kept before they are deleted."),
        **form.places(),
        **form.blob_places(),
    }
