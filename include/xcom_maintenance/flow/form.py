"""The building blocks of the trigger forms. An empty field means "as configured"."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

_AS_CONFIGURED = "Leave empty to use the configured value."


def mode() -> Param:
    return one_of(
        "Mode",
        "Report mode writes the same plan but changes nothing.",
        {"report": "plan only, change nothing", "enforce": "carry out the plan"},
    )


def on_limit() -> Param:
    return one_of(
        "Above a limit",
        "What happens if a plan exceeds one of the limits.",
        {"ask": "wait for approval", "approve": "carry it out without asking", "refuse": "change nothing"},
    )


def number(title: str, description: str, **schema: Any) -> Param:
    """A number, or empty."""
    return Param(None, type=["null", "number"], title=title, description=f"{description} {_AS_CONFIGURED}", **schema)


def integer(title: str, description: str, **schema: Any) -> Param:
    """A whole number, or empty."""
    return Param(None, type=["null", "integer"], title=title, description=f"{description} {_AS_CONFIGURED}", **schema)


def text(title: str, description: str) -> Param:
    """A line of text, or empty."""
    return Param(None, type=["null", "string"], title=title, description=f"{description} {_AS_CONFIGURED}")


def places() -> dict[str, Param]:
    """The connection and path fields that every DAG of the bundle has."""
    return {
        "metadata_conn_id": text("Metadata connection", "The Postgres Connection to Airflow's metadata database."),
        "report_path": text("Report path", "Where reports are written, such as s3://conn_id@bucket/reports."),
    }


def blob_places() -> dict[str, Param]:
    """Where the blobs are."""
    return {
        "blob_base_path": text(
            "Blob base path", "Where the XCom backend stores its blobs, such as s3://conn_id@bucket/airflow/xcom."
        ),
        "blob_conn_id": text("Blob connection", "The Connection for the object store of the blobs."),
    }


def own_mode(enforcing: str) -> Param:
    """The mode of a DAG that is triggered manually: the configured mode does not apply.

    :param enforcing: what it does when it enforces.
    """
    return one_of(
        "Mode",
        "Leave empty for report. The configured mode does not apply to this DAG.",
        {"report": "plan only, change nothing", "enforce": enforcing},
        configured=False,
    )


def one_of(title: str, description: str, words: dict[str, str], *, configured: bool = True) -> Param:
    """One of several options, or empty.

    :param words: the options, with the meaning of each.
    :param configured: whether empty means "as configured".
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


def switch(title: str, description: str) -> Param:
    return Param(None, type=["null", "boolean"], title=title, description=f"{description} {_AS_CONFIGURED}")


def choice(title: str) -> Param:
    return Param(
        None,
        type=["null", "string", "array"],
        items={"type": "string"},
        title=title,
        description="Names or globs, separated by commas. Leave empty for all.",
    )
