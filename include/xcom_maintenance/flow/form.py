"""What the trigger forms are made of. A field left empty means "as configured"."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

_AS_CONFIGURED = "Empty: as configured."


def mode() -> Param:
    return one_of(
        "Mode",
        "Reporting writes the same plan and changes nothing.",
        {"report": "change nothing", "enforce": "delete"},
    )


def on_limit() -> Param:
    return one_of(
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


def own_mode(enforcing: str) -> Param:
    """The mode of a DAG that is started by hand: what is configured for the others does not count.

    :param enforcing: what it does when it enforces.
    """
    return one_of(
        "Mode",
        "Empty: report, whatever is configured for the DAGs that delete.",
        {"report": "change nothing", "enforce": enforcing},
        configured=False,
    )


def one_of(title: str, description: str, words: dict[str, str], *, configured: bool = True) -> Param:
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


def switch(title: str, description: str) -> Param:
    return Param(None, type=["null", "boolean"], title=title, description=f"{description} {_AS_CONFIGURED}")


def choice(title: str) -> Param:
    return Param(
        None,
        type=["null", "string", "array"],
        items={"type": "string"},
        title=title,
        description="Globs, separated by commas. Empty: all.",
    )
