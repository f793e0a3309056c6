"""The fields of the trigger form. One left empty means "as configured"."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

_AS_CONFIGURED = "Empty: as configured."


def mode() -> Param:
    return _one_of(
        "Mode",
        "Reporting writes the same plan and changes nothing.",
        {"report": "change nothing", "enforce": "delete"},
    )


def on_limit() -> Param:
    return _one_of(
        "Above a limit",
        "What becomes of a plan above one of the limits.",
        {"ask": "wait for an answer", "approve": "carry it out unasked", "refuse": "change nothing"},
    )


def number(title: str, description: str, **schema: Any) -> Param:
    """A number, or nothing."""
    return Param(None, type=["null", "number"], title=title, description=f"{description} {_AS_CONFIGURED}", **schema)


def integer(title: str, description: str, **schema: Any) -> Param:
    """A whole number, or nothing."""
    return Param(None, type=["null", "integer"], title=title, description=f"{description} {_AS_CONFIGURED}", **schema)


def text(title: str, description: str) -> Param:
    """A line of text, or nothing."""
    return Param(None, type=["null", "string"], title=title, description=f"{description} {_AS_CONFIGURED}")


def places() -> dict[str, Param]:
    """Where things are: the fields that every DAG of the bundle has."""
    return {
        "metadata_conn_id": text("Metadata connection", "A Postgres Connection to Airflow's own database."),
        "report_path": text("Report path", "Where reports go, such as s3://conn_id@bucket/reports."),
    }


def blob_places() -> dict[str, Param]:
    """Where the blobs are."""
    return {
        "blob_base_path": text("Blob base path", "Where the XCom backend keeps its blobs."),
        "blob_conn_id": text("Blob connection", "The Connection to that store."),
    }


def cleanup() -> dict[str, Param]:
    """The form of ``xcom_cleanup``."""
    return {
        "mode": mode(),
        "max_age_days": number(
            "Maximum age (days)",
            "Rows pushed longer ago go, unless a rule has an age of its own.",
            exclusiveMinimum=0,
        ),
        "max_runs": integer(
            "Maximum runs",
            "Rows beyond this many newest finished runs of a DAG go, unless a rule has its own.",
            minimum=1,
        ),
        "max_delete_rows": integer("Row limit", "A plan that deletes more rows needs approval.", minimum=1),
        "max_delete_bytes": integer("Byte limit", "A plan that deletes more stored bytes needs approval.", minimum=1),
        "max_delete_share": number(
            "Row limit (share)",
            "A plan that deletes a larger share of all rows needs approval.",
            exclusiveMinimum=0,
            maximum=1,
        ),
        "on_limit": on_limit(),
        "max_minutes": number("Time budget (minutes)", "Stop then; the next run goes on.", exclusiveMinimum=0),
        "archive_path": text("Archive path", "Where rows are kept before they are deleted."),
        **places(),
        **blob_places(),
    }


def size_audit() -> dict[str, Param]:
    """The form of ``xcom_size_audit``."""
    return {
        "top_entries": integer(
            "Lines per table", "How long the longest tables of the report are.", minimum=1, maximum=1000
        ),
        "audit_budget_seconds": number("Time budget (seconds)", "For reading values.", minimum=0.1),
        "audit_budget_bytes": integer("Byte budget", "Stored bytes of values that are read.", minimum=1),
        "probe": _switch("Live probe", "Push, pull and remove canary values through the XCom backend."),
        "secrets_scan": _switch("Look for secrets", "In the newest values."),
        "secrets_max_values": integer("Values to scan", "The most values to look into for secrets.", minimum=1),
        "secrets_max_seconds": number("Scan time (seconds)", "How long to look for secrets.", minimum=0.1),
        "fail_on_breach": _switch("Fail on a breach", "Fail the run if a threshold of the scorecard is crossed."),
        **places(),
        **blob_places(),
    }


def reconciliation() -> dict[str, Param]:
    """The form of ``xcom_orphan_reconciliation``."""
    return {
        "mode": mode(),
        "grace_period_days": number("Grace period (days)", "Younger blobs are never orphans.", minimum=1),
        "max_orphan_share": number(
            "Orphan limit (share)",
            "More orphans than this share of the blobs need approval.",
            exclusiveMinimum=0,
            maximum=1,
        ),
        "max_orphan_blobs": integer("Orphan limit", "More orphan blobs need approval.", minimum=1),
        "max_orphan_bytes": integer("Orphan limit (bytes)", "Orphans of more bytes need approval.", minimum=1),
        "on_limit": on_limit(),
        "max_reference_shrink": number(
            "Reference shrinking limit (share)",
            "Refuse if more than this share of the references has gone since the last run and left orphans.",
            exclusiveMinimum=0,
            maximum=1,
        ),
        "disposal": _one_of(
            "Disposal",
            "What becomes of an orphan.",
            {"quarantine": "move beside the base path", "delete": "for good"},
        ),
        "delete_dangling_rows": _switch(
            "Delete dangling rows", "Rows whose blob is gone, of finished runs: tasks then fail aloud."
        ),
        **places(),
        **blob_places(),
    }


def restore() -> dict[str, Param]:
    """The form of ``xcom_restore``; what to restore is chosen here and nowhere else."""
    return {
        "mode": _own_mode("put the rows back"),
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
        "dag_ids": _choice("DAGs"),
        "run_ids": _choice("Runs"),
        "task_ids": _choice("Tasks"),
        "archive_path": text("Archive path", "Where cleanups keep the rows that they delete."),
        **places(),
        **blob_places(),
    }


def offload() -> dict[str, Param]:
    """The form of ``xcom_offload_large_values``."""
    return {
        "mode": _own_mode("move the values"),
        "direction": _one_of(
            "Direction",
            "Empty: offload.",
            {"offload": "from rows into blobs", "inline": "from blobs back into rows"},
            configured=False,
        ),
        "dag_ids": _choice("DAGs"),
        "offload_threshold_bytes": integer("Threshold (bytes)", "Values from this size on move.", minimum=1024),
        "max_minutes": number("Time budget (minutes)", "Stop then; the next run goes on.", exclusiveMinimum=0),
        **places(),
    }


def rotate_keys() -> dict[str, Param]:
    """The form of ``xcom_rotate_keys``."""
    return {
        "mode": _own_mode("re-encrypt"),
        "batch_rows": integer("Batch (rows)", "The most rows that one transaction replaces.", minimum=1),
        "max_minutes": number("Time budget (minutes)", "Stop then; the next run goes on.", exclusiveMinimum=0),
        **places(),
    }


def _own_mode(enforcing: str) -> Param:
    """The mode of a DAG that is started by hand: what is configured for the others does not count.

    :param enforcing: what it does when it enforces.
    """
    return _one_of(
        "Mode",
        "Empty: report, whatever is configured for the DAGs that delete.",
        {"report": "change nothing", "enforce": enforcing},
        configured=False,
    )


def _one_of(title: str, description: str, words: dict[str, str], *, configured: bool = True) -> Param:
    """One of some words, or nothing.

    :param words: and what each of them means.
    :param configured: whether nothing means "as configured".
    """
    shown = {word: f"{word}: {meaning}" for word, meaning in words.items()}
    return Param(
        None,
        type=["null", "string"],
        enum=[None, *words],
        title=title,
        values_display={"null": "as configured", **shown} if configured else shown,
        description=description,
    )


def _switch(title: str, description: str) -> Param:
    return Param(None, type=["null", "boolean"], title=title, description=f"{description} {_AS_CONFIGURED}")


def _choice(title: str) -> Param:
    return Param(
        None,
        type=["null", "string", "array"],
        items={"type": "string"},
        title=title,
        description="Globs, separated by commas. Empty: all.",
    )
