"""Re-encrypt what old keys hold, so that they can be taken out of the configuration.

``plan`` asks every value of this project's own XCom backend which key seals it. ``apply`` goes through what old keys
hold, in batches: each value is sealed again, as a new blob if it is one, and then its row is changed to hold that, if
it still holds what was sealed again. A task that pushed anew meanwhile, or was cleared, has the last word.

No blob is overwritten that a row refers to, and none deleted. So whenever the work breaks off each row refers to a
whole blob, and what is left over is an orphan for the reconciliation: the new blob if that was before the commit, the
former one after it. The latter is written once more, as it was, so that a task which read the row just before finds it
for as long as the grace period is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Protocol

from include.xcom_maintenance.core.errors import PartialFailure, StoreUnavailable
from include.xcom_maintenance.core.records import ValuePlace
from include.xcom_maintenance.core.seals import Holdings, Resealed, Seal, StoredRow, Trouble
from include.xcom_maintenance.jobs.courtesy import Courtesy
from include.xcom_maintenance.jobs.job import Job, Progress
from include.xcom_maintenance.reports.place import ManifestWriter
from include.xcom_maintenance.reports.report import Table

_KIND = "values"
#: How the warnings of this job begin: a later task of a run says them anew.
_KEYS = "Keys: "
#: Headers that are asked for at a time.
_HEADERS_AT_ONCE = 500
#: The most values of a batch, whatever ``batch_rows`` says: of a batch that breaks off all new blobs are orphans.
_VALUES_AT_ONCE = 500
#: Failures of the store in one batch from which on it is no use to go on.
_STORE_FAILURES = 8


class Vault(Protocol):
    """The XCom backend's keys and stores. Raises ``ConfigurationError`` if they cannot be used."""

    #: Why there is no backend to ask, in words; empty if there is one.
    unusable: str
    #: The id of the key that seals new values; None if nothing is encrypted.
    sealing: str | None
    #: The ids of all configured keys.
    configured: tuple[str, ...]

    def seals(self, rows: Sequence[StoredRow]) -> list[Seal]:
        """What values say about themselves; reads no more of each than its header."""

    def reseal(self, rows: Sequence[StoredRow]) -> list[Resealed]:
        """Seal values with the key that seals now. New blobs are stored and were read back; nothing else is changed."""

    def renew(self, former: Iterable[object]) -> int:
        """Let the age of blobs that were replaced begin anew; returns of how many."""


# -- plan --------------------------------------------------


def plan(job: Job, vault: Vault) -> None:
    """Find out which key holds what, and write down what is to be re-encrypted. Changes nothing."""
    if vault.unusable:
        _nothing_to_ask(job, vault)
        return
    with job.report.phase("look at keys"), job.place.write_manifest() as manifest:
        manifest.add(**job.plan_header("rotate_keys", job.metadata.now()))
        holdings = _survey(job, vault, _Lines(job, manifest))
        job.report.manifest = manifest.path
    _describe(job, holdings)
    job.log.info("Plan: %s", ", ".join(f"{name}: {value}" for name, value in job.report.headline.items()))
    job.report.finish("planned" if job.enforcing else "reported")


def _nothing_to_ask(job: Job, vault: Vault) -> None:
    job.report.warnings.append(f"{vault.unusable}, so there is nothing whose key could be rotated.")
    job.report.headline = {"values_under_old_keys": 0}
    job.report.finish("reported")


class _Lines:
    """Writes what is to be re-encrypted into the manifest: a line is what is changed in one transaction."""

    def __init__(self, job: Job, manifest: ManifestWriter) -> None:
        self._manifest = manifest
        self._max_rows = min(job.settings.batch_rows, _VALUES_AT_ONCE)
        self._max_bytes = job.settings.batch_bytes
        self._places: list[tuple[Any, ...]] = []
        self._bytes = 0

    def add(self, place: ValuePlace, size: int) -> None:
        if self._places and (len(self._places) >= self._max_rows or self._bytes + size > self._max_bytes):
            self.flush()
        self._places.append(astuple(place))
        self._bytes += size

    def flush(self) -> None:
        if self._places:
            self._manifest.add(_KIND, values=len(self._places), bytes=self._bytes, places=self._places)
        self._places, self._bytes = [], 0


def _survey(job: Job, vault: Vault, lines: _Lines | None = None) -> Holdings:
    """What each key holds.

    :param lines: takes what is to be re-encrypted.
    """
    holdings = Holdings(vault.sealing, vault.configured)
    progress = Progress(job.log, "Values looked at")
    found = iter(job.metadata.stored_rows())
    while rows := list(islice(found, _HEADERS_AT_ONCE)):
        seals = vault.seals(rows)
        _stop_if_the_store_is_down(seal.trouble for seal in seals)
        for row, seal in zip(rows, seals, strict=True):
            holdings.add(row, seal)
            if lines is not None and row.place is not None and holdings.goes(row, seal):
                lines.add(row.place, seal.bytes)
        progress.add(len(rows))
    if lines is not None:
        lines.flush()
    return holdings


def _stop_if_the_store_is_down(troubles: Iterable[Trouble | None]) -> None:
    failures = sum(trouble is Trouble.UNREACHABLE for trouble in troubles)
    if failures >= _STORE_FAILURES:
        raise StoreUnavailable(
            f"The XCom backend's store failed {failures} times in one batch",
            setting="[xcom_blob_backend] path",
            remedy="See the task log. What was re-encrypted stays, and the task is retried",
        )


def _describe(job: Job, holdings: Holdings) -> None:
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
    note = "A key may be removed from the configuration if no value and no archived row is sealed with it."
    report.put(Table("Keys", ["key", "configured", *columns, "may be removed"], holdings.by_key(), note))
    by_dag = holdings.by_dag()
    note = f"The first {top} of {len(by_dag)}." if len(by_dag) > top else ""
    report.put(Table("Held by other keys than the one that seals", ["DAG", "key", *columns], by_dag[:top], note))
    _put_troubles(job, "Values whose key is not known", holdings.troubles)
    report.warnings = [warning for warning in report.warnings if not warning.startswith(_KEYS)] + _warnings(holdings)


def _put_troubles(job: Job, title: str, troubles: Counter[tuple[str, Trouble]]) -> None:
    top = job.settings.top_entries
    lines: list[list[Any]] = [[dag_id, str(why), count] for (dag_id, why), count in troubles.most_common(top)]
    note = f"The first {top} of {len(troubles)}." if len(troubles) > top else ""
    if lines or any(table.title == title for table in job.report.tables):
        job.report.put(Table(title, ["DAG", "why", "values"], lines, note))


def _warnings(holdings: Holdings) -> list[str]:
    """What a person should know."""
    found = []
    if holdings.sealing is None:
        found.append("none is configured ([xcom_blob_backend] encryption_keys), so new values are not encrypted.")
    if missing := holdings.missing_keys:
        count = holdings.values(missing) + holdings.aside_of(missing)
        found.append(
            f"{', '.join(map(repr, missing))} are not configured and seal {count:,} values, which nobody can read. Add "
            "them to encryption_keys, behind the first one."
        )
    if holdings.unknown:
        found.append(f"those of {holdings.unknown:,} values could not be found out, so none may be removed.")
    if count := holdings.aside_of(holdings.old_keys):
        found.append(
            f"old ones seal {count:,} values in archive tables, where nothing is changed. Drop these tables "
            "(`airflow db drop-archived`), or keep the keys."
        )
    return [_KEYS + warning for warning in found]


# -- apply --------------------------------------------------


def apply(job: Job, vault: Vault) -> None:
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
    minutes = job.settings.max_minutes
    deadline = datetime.now(UTC) + timedelta(minutes=minutes) if minutes is not None else None
    courtesy = Courtesy(job.settings, job.metadata, job.log, deadline)
    with report.phase("re-encrypt"):
        _, lines = job.own_plan()
        progress = Progress(job.log, "Values re-encrypted", total=figures["values_under_old_keys"])
        for places in _places(lines):
            if not courtesy.go_on():
                break
            progress.add(_rotate(job, vault, places, troubles))
    with report.phase("count again"):
        holdings = _survey(job, vault)
    _describe(job, holdings)
    _put_troubles(job, "Values that could not be re-encrypted", troubles)
    if courtesy.stopped:
        report.warnings.append(f"{_KEYS}not all was re-encrypted: {courtesy.stopped}. Run the DAG again; it goes on.")
    report.finish("enforced")
    _fail_for_what_is_left(holdings, troubles)


def _places(lines: Iterable[dict[str, Any]]) -> Iterator[list[ValuePlace]]:
    return ([ValuePlace(*place) for place in line["places"]] for line in lines if line["kind"] == _KIND)


def _rotate(job: Job, vault: Vault, places: Sequence[ValuePlace], troubles: Counter[tuple[str, Trouble]]) -> int:
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
    _stop_if_the_store_is_down(new.trouble for new in resealed)
    return len(done)


def _fail_for_what_is_left(holdings: Holdings, troubles: Counter[tuple[str, Trouble]]) -> None:
    """:raises PartialFailure: with the counts."""
    missing = holdings.missing_keys
    left = [
        f"{count:,} values could not be re-encrypted: {why}"
        for why, count in _by_reason(troubles).items()
        if why is not Trouble.MISSING  # of a blob that is gone the reconciliation tells
    ]
    if count := holdings.values(missing):
        left.append(f"{count:,} values are sealed with keys that are not configured: {', '.join(map(repr, missing))}")
    if left:
        raise PartialFailure(
            "; ".join(left),
            setting="[xcom_blob_backend] encryption_keys",
            remedy="All else was done. See the report; add missing keys behind the first one, and run the DAG again",
        )


def _by_reason(troubles: Counter[tuple[str, Trouble]]) -> Counter[Trouble]:
    found: Counter[Trouble] = Counter()
    for (_, why), count in troubles.items():
        found[why] += count
    return found
