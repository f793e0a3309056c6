"""The trigger form of ``xcom_size_audit``."""

from __future__ import annotations

from airflow.sdk import Param

from include.xcom_maintenance.flow import form


def fields() -> dict[str, Param]:
    """The fields."""
    return {
        "top_entries": form.integer(
            "Rows per table", "The most rows a table of the report may have.", minimum=1, maximum=1000
        ),
        "audit_budget_seconds": form.number(
            "Time budget (seconds)", "How long the audit may spend reading values to measure them.", minimum=0.1
        ),
        "audit_budget_bytes": form.integer(
            "Byte budget", "How many stored bytes of values the audit may read to measure them.", minimum=1
        ),
        "probe": form.switch("Live probe", "Push, pull and remove three canary values through the XCom backend."),
        "secrets_scan": form.switch("Scan for secrets", "Scan the newest XCom values for secrets."),
        "secrets_max_values": form.integer("Values to scan", "The most values one audit scans for secrets.", minimum=1),
        "secrets_max_seconds": form.number("Scan time (seconds)", "How long the secrets scan may take.", minimum=0.1),
        "fail_on_breach": form.switch("Fail on breach", "Fail the run if a scorecard threshold is crossed."),
        **form.places(),
        **form.blob_places(),
    }
