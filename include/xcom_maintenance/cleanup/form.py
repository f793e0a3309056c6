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
            "Delete rows pushed longer ago than this, unless a rule sets its own max_age_days.",
            exclusiveMinimum=0,
        ),
        "max_runs": form.integer(
            "Maximum runs",
            "Delete rows beyond this many newest finished runs of a DAG, unless a rule sets its own max_runs.",
            minimum=1,
        ),
        "max_delete_rows": form.integer("Row limit", "A plan to delete more rows than this needs approval.", minimum=1),
        "max_delete_bytes": form.integer(
            "Byte limit", "A plan to delete more stored bytes than this needs approval.", minimum=1
        ),
        "max_delete_share": form.number(
            "Row limit (share)",
            "A plan to delete a larger share of all rows than this needs approval.",
            exclusiveMinimum=0,
            maximum=1,
        ),
        "on_limit": form.on_limit(),
        "max_minutes": form.number(
            "Time budget (minutes)", "Stop after this long; the next run continues.", exclusiveMinimum=0
        ),
        "archive_path": form.text("Archive path", "Where rows are archived before they are deleted."),
        **form.places(),
        **form.blob_places(),
    }
