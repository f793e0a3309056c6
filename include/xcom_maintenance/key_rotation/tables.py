"""The report of a rotation."""

from __future__ import annotations

from collections import Counter
from typing import Any

from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.key_rotation.holdings import Holdings
from include.xcom_maintenance.key_rotation.job import RotationJob
from include.xcom_maintenance.reports.report import Table
from include.xcom_maintenance.xcom_backend.port import Trouble

#: How the warnings of this job begin; a later task of the run replaces them.
KEYS = "Keys: "


def describe(job: RotationJob, holdings: Holdings) -> None:
    """Put the figures into the report; those of what was done stay."""
    report, top = job.report, job.settings.top_entries
    missing, old = holdings.missing_keys, holdings.old_keys
    report.headline |= {
        "sealing_key": holdings.sealing,
        "removable_keys": ", ".join(holdings.removable_keys) or None,
        "values_under_sealing_key": holdings.values([holdings.sealing] if holdings.sealing else []),
        "values_under_old_keys": holdings.values(old),
        "bytes_under_old_keys": holdings.bytes_of(old),
        "values_under_missing_keys": holdings.values(missing),
        "values_not_encrypted": holdings.plain,
        "values_whose_blob_is_gone": sum(n for (_, why), n in holdings.troubles.items() if why is Trouble.MISSING),
        "values_of_unknown_key": holdings.unknown,
        "archived_rows_under_old_keys": holdings.aside_of(old),
    }
    columns = ["blobs", "inline values", "bytes", "archived rows"]
    note = "A key can be removed from the configuration once no value and no archived row is encrypted with it."
    report.put(Table("Keys", ["key", "used for", *columns, "can be removed"], holdings.by_key(), note))
    by_dag = holdings.by_dag()
    note = f"Showing the first {top} of {len(by_dag):,}." if len(by_dag) > top else ""
    report.put(Table("Values under other keys", ["DAG", "key", *columns], by_dag[:top], note))
    put_troubles(job, "Values with an unknown key", holdings.troubles)
    report.warnings = [warning for warning in report.warnings if not warning.startswith(KEYS)] + _warnings(holdings)


def put_troubles(job: RotationJob, title: str, troubles: Counter[tuple[str, Trouble]]) -> None:
    top = job.settings.top_entries
    lines: list[list[Any]] = [[dag_id, str(why), count] for (dag_id, why), count in troubles.most_common(top)]
    note = f"Showing the first {top} of {len(troubles):,}." if len(troubles) > top else ""
    if lines or any(table.title == title for table in job.report.tables):
        job.report.put(Table(title, ["DAG", "reason", "values"], lines, note))


def _warnings(holdings: Holdings) -> list[str]:
    """What an operator should know."""
    found = []
    if holdings.sealing is None:
        found.append("none is configured ([xcom_blob_backend] encryption_keys), so new values are not encrypted.")
    if missing := holdings.missing_keys:
        count = holdings.values(missing) + holdings.aside_of(missing)
        found.append(
            f"{counted(count, 'value')} cannot be read, because the key to decrypt them is not configured: "
            f"{', '.join(map(repr, missing))}. Add missing keys to encryption_keys, after the first one."
        )
    if holdings.unknown:
        found.append(
            f"the key of {counted(holdings.unknown, 'value')} could not be determined, so no key can be removed."
        )
    if count := holdings.aside_of(holdings.old_keys):
        found.append(
            f"{counted(count, 'value')} in archive tables still need old keys, and archive tables are never changed. "
            "Drop these tables (`airflow db drop-archived`), or keep the keys."
        )
    return [KEYS + warning for warning in found]
