"""The trigger form of ``xcom_orphan_reconciliation``."""

from __future__ import annotations

from airflow.sdk import Param

from include.xcom_maintenance.flow import form


def fields() -> dict[str, Param]:
    """The fields."""
    return {
        "mode": form.mode(),
        "grace_period_days": form.number("Grace period (days)", "Younger blobs are never orphans.", minimum=1),
        "max_orphan_share": form.number(
            "Orphan limit (share)",
            "More orphans than this share of the blobs need approval.",
            exclusiveMinimum=0,
            maximum=1,
        ),
        "max_orphan_blobs": form.integer("Orphan limit", "More orphan blobs need approval.", minimum=1),
        "max_orphan_bytes": form.integer("Orphan limit (bytes)", "Orphans of more bytes need approval.", minimum=1),
        "on_limit": form.on_limit(),
        "max_reference_shrink": form.number(
            "Reference shrinking limit (share)",
            "Refuse if more than this share of the references has gone since the last run and left orphans.",
            exclusiveMinimum=0,
            maximum=1,
        ),
        "disposal": form.one_of(
            "Disposal",
            "What becomes of an orphan.",
            {"quarantine": "move beside the base path", "delete": "for good"},
        ),
        "delete_dangling_rows": form.switch(
            "Delete dangling rows", "Rows whose blob is gone, of finished runs: tasks then fail aloud."
        ),
        **form.places(),
        **form.blob_places(),
    }
