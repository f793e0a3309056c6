"""The trigger form of ``xcom_restore``."""

from __future__ import annotations

from airflow.sdk import Param

from include.xcom_maintenance.flow import form


def fields() -> dict[str, Param]:
    """The fields; what to restore is chosen here and nowhere else."""
    return {
        "mode": form.own_mode("put the rows back"),
        "archive": Param(
            None,
            type=["null", "string"],
            title="Archive",
            description="A folder or a file: its address, or its path below the archive path, such as "
            "xcom_cleanup/scheduled__2026-01-31T02:00:00+00:00. Empty: the error says what there is.",
        ),
        "quarantine": Param(
            None,
            type=["null", "string"],
            title="Quarantine",
            description="Put blobs back instead of rows: what a run of xcom_orphan_reconciliation moved into "
            "quarantine, by its run id, its manifest or its folder there; or all.",
        ),
        "dag_ids": form.choice("DAGs"),
        "run_ids": form.choice("Runs"),
        "task_ids": form.choice("Tasks"),
        "archive_path": form.text("Archive path", "Where cleanups keep the rows that they delete."),
        **form.places(),
        **form.blob_places(),
    }
