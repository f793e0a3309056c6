"""The trigger form of ``xcom_restore``."""

from __future__ import annotations

from airflow.sdk import Param

from include.xcom_maintenance.flow import form


def fields() -> dict[str, Param]:
    """The fields. What to restore is chosen only here."""
    return {
        "mode": form.own_mode("restore"),
        "archive": Param(
            None,
            type=["null", "string"],
            title="Archive",
            description="Archive folder or file to restore: its address, or its path below the archive path, such as "
            "xcom_cleanup/scheduled__2026-01-31T02:00:00+00:00. Empty: the error lists the archives.",
        ),
        "quarantine": Param(
            None,
            type=["null", "string"],
            title="Quarantine",
            description="Restore blobs instead of rows: the run id, manifest or quarantine folder of the "
            "xcom_orphan_reconciliation run that moved them there, or all.",
        ),
        "dag_ids": form.choice("DAGs"),
        "run_ids": form.choice("Runs"),
        "task_ids": form.choice("Tasks"),
        "archive_path": form.text("Archive path", "Where cleanups archive the rows they delete."),
        **form.places(),
        **form.blob_places(),
    }
