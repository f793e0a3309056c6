"""The trigger form of ``xcom_size_audit``."""

from __future__ import annotations

from airflow.sdk import Param

from include.xcom_maintenance.flow import form


def fields() -> dict[str, Param]:
    """The fields."""
    return {
        "top_entries": form.integer(
            "Lines per table", "How long the longest tables of the report are.", minimum=1, maximum=1000
        ),
        "audit_budget_seconds": form.number("Time budget (seconds)", "For reading values.", minimum=0.1),
        "audit_budget_bytes": form.integer("Byte budget", "Stored bytes of values that are read.", minimum=1),
        "probe": form.switch("Live probe", "Push, pull and remove canary values through the XCom backend."),
        "secrets_scan": form.switch("Look for secrets", "In the newest values."),
        "secrets_max_values": form.integer("Values to scan", "The most values to look into for secrets.", minimum=1),
        "secrets_max_seconds": form.number("Scan time (seconds)", "How long to look for secrets.", minimum=0.1),
        "fail_on_breach": form.switch("Fail on a breach", "Fail the run if a threshold of the scorecard is crossed."),
        **form.places(),
        **form.blob_places(),
    }
