"""Re-encrypt what the plan names, as far as old keys still hold it, and count again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from include.xcom_maintenance.core.errors import PartialFailure
from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.words import counted
from include.xcom_maintenance.flow.courtesy import Courtesy, deadline_of
from include.xcom_maintenance.flow.progress import Progress
from include.xcom_maintenance.key_rotation.holdings import Holdings
from include.xcom_maintenance.key_rotation.job import RotationJob
from include.xcom_maintenance.key_rotation.survey import KIND, stop_if_the_store_is_down, survey
from include.xcom_maintenance.key_rotation.tables import KEYS, describe, put_troubles
from include.xcom_maintenance.xcom_backend.port import Trouble, Vault


def apply(job: RotationJob, vault: Vault) -> None:
    """Re-encrypt what the plan names, as far as old keys still hold it, and count again.

    :raises PartialFailure: if something could not be re-encrypted, or is sealed with a key that is not configured.
    """
    report, figures = job.report, job.report.headline
    if vault.unusable:
        report.finish("enforced")
        return
    for name in ("values_reencrypted", "bytes_reencrypted", "values_changed_meanwhile", "transactions"):
        figures.setdefault(name, 0)  # a second attempt adds to what the first one did
    figures.setdefault("longest_transaction_seconds", 0)
    troubles: Counter[tuple[str, Trouble]] = Counter()
    courtesy = Courtesy(job.settings, job.metadata, job.log, deadline_of(job.settings))
    with report.phase("re-encrypt"):
        _, lines = job.own_plan()
        progress = Progress(job.log, "Values re-encrypted", total=figures["values_under_old_keys"])
        for places in _places(lines):
            if not courtesy.go_on():
                break
            progress.add(_rotate(job, vault, places, troubles))
    with report.phase("count again"):
        holdings = survey(job, vault)
    describe(job, holdings)
    put_troubles(job, "Values that could not be re-encrypted", troubles)
    if courtesy.stopped:
        report.warnings.append(
            f"{KEYS}some values are not re-encrypted yet: {courtesy.stopped}. Run the DAG again to continue."
        )
    report.finish("enforced")
    _fail_for_what_is_left(holdings, troubles)


def _places(lines: Iterable[dict[str, Any]]) -> Iterator[list[ValuePlace]]:
    return ([ValuePlace(*place) for place in line["places"]] for line in lines if line["kind"] == KIND)


def _rotate(
    job: RotationJob, vault: Vault, places: Sequence[ValuePlace], troubles: Counter[tuple[str, Trouble]]
) -> int:
    """Re-encrypt some values; returns how many."""
    figures = job.report.headline
    rows = job.metadata.stored_rows_at(places)
    resealed = vault.reseal(rows)
    changes = [(row, new) for row, new in zip(rows, resealed, strict=True) if new.text is not None]
    started = time.monotonic()
    replaced = job.metadata.replace_stored([(row, new.text) for row, new in changes if new.text is not None])
    seconds = round(time.monotonic() - started, 3)
    done = [change for change, was_replaced in zip(changes, replaced, strict=True) if was_replaced]
    vault.renew([new.former for _, new in done if new.former is not None])
    for row, new in zip(rows, resealed, strict=True):
        if new.trouble is not None:
            troubles[row.dag_id, new.trouble] += 1
    figures["values_reencrypted"] += len(done)
    figures["bytes_reencrypted"] += sum(new.bytes for _, new in done)
    figures["values_changed_meanwhile"] += len(places) - len(rows) + len(changes) - len(done)
    figures["transactions"] += 1
    figures["longest_transaction_seconds"] = max(figures["longest_transaction_seconds"], seconds)
    stop_if_the_store_is_down(new.trouble for new in resealed)
    return len(done)


def _fail_for_what_is_left(holdings: Holdings, troubles: Counter[tuple[str, Trouble]]) -> None:
    """:raises PartialFailure: with the counts."""
    missing = holdings.missing_keys
    left = [
        f"{counted(count, 'value')} could not be re-encrypted: {why}"
        for why, count in _by_reason(troubles).items()
        if why is not Trouble.MISSING  # the reconciliation reports missing blobs
    ]
    if count := holdings.values(missing):
        left.append(
            f"{counted(count, 'value')} encrypted with keys that are not configured: {', '.join(map(repr, missing))}"
        )
    if left:
        raise PartialFailure(
            "; ".join(left),
            setting="[xcom_blob_backend] encryption_keys",
            remedy="The rest was re-encrypted. See the report, add missing keys after the first one, run the DAG again",
        )


def _by_reason(troubles: Counter[tuple[str, Trouble]]) -> Counter[Trouble]:
    found: Counter[Trouble] = Counter()
    for (_, why), count in troubles.items():
        found[why] += count
    return found
