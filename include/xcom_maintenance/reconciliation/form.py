"""The trigger form of ``xcom_orphan_reconciliation``."""

from __future__ import annotations

from airflow.sdk import Param

from include.xcom_maintenance.flow import form


def fields() -> dict[str, Param]:
    """The fields."""
    return {
        "mode": form.mode(),
        "grace_period_days": form.number(
            "Grace period (days)", "Blobs younger than this are never treated as orphans.", minimum=1
        ),
        "max_orphan_share": form.number(
            "Orphan limit (share)",
            "A plan needs approval if more than this share of the blobs are orphans.",
            exclusiveMinimum=0,
            maximum=1,
        ),
        "max_orphan_blobs": form.integer(
            "Orphan limit", "A plan with more orphan blobs than this needs approval.", minimum=1
        ),
        "max_orphan_bytes": form.integer(
            "Orphan limit (bytes)", "A plan with more bytes of orphan blobs than this needs approval.", minimum=1
        ),
        "on_limit": form.on_limit(),
        "max_reference_shrink": form.number(
            "Lost references limit (share)",
            "Refuse if more than this share of the references disappeared since the last run and left orphans.",
            exclusiveMinimum=0,
            maximum=1,
        ),
        "disposal": form.one_of(
            "Disposal",
            "What to do with orphan blobs.",
            {"quarantine": "move them to a folder next to the base path", "delete": "delete them permanently"},
        ),
        "delete_dangling_rows": form.switch(
            "Delete dangling rows",
            "Delete rows of finished runs whose blob is missing, so that tasks get None instead of a path.",
        ),
        **form.places(),
        **form.blob_places(),
    }
