"""How the XCom backend performs for tasks: canary values are pushed, pulled, compared and removed again."""

from __future__ import annotations

import contextvars
import json
import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from include.xcom_maintenance.core.sizes import KB, MB, human_bytes
from include.xcom_maintenance.metadata.ports.size_audit import StoredValue
from include.xcom_maintenance.reports.report import Report, Table
from include.xcom_maintenance.size_audit.results import ProbeResult
from include.xcom_maintenance.xcom_backend.port import Channel

_T = TypeVar("_T")
#: Key -> bytes as JSON. The secrets scan skips these keys.
SIZES = {"xcom_maintenance_canary_1kb": KB, "xcom_maintenance_canary_48kb": 48 * KB, "xcom_maintenance_canary_1mb": MB}


def probe(channel: Channel, *, timeout: float, sizes: dict[str, int] = SIZES) -> list[ProbeResult]:
    """Send canaries through a channel, the smallest first. Never raises.

    :param timeout: seconds for the whole probe. A call that hangs longer is left behind in its own thread, which
        removes the canary as soon as the backend returns.
    """
    calls = _Calls(time.monotonic() + timeout)
    return [_probe(channel, calls, key, size) for key, size in sizes.items()]


class _TimeUpError(Exception):
    """A call did not return in time."""


@dataclass(slots=True)
class _Calls:
    """Calls that may hang, up to a deadline; after one that hangs no more are made."""

    deadline: float
    hung: bool = False

    def do(self, work: Callable[[], _T], *, too_late: Callable[[], None]) -> _T:
        """The result of a call, or what it raises.

        :param too_late: what to do in the call's thread if it returns after the deadline.
        :raises _TimeUpError: in that case.
        """
        left = self.deadline - time.monotonic()
        if self.hung or left <= 0:
            raise _TimeUpError
        outcome: Future[_T] = Future()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                is_awaited = outcome.set_running_or_notify_cancel()
                if is_awaited:
                    outcome.set_exception(error)
            else:
                is_awaited = outcome.set_running_or_notify_cancel()
                if is_awaited:
                    outcome.set_result(result)
            if not is_awaited:
                with suppress(Exception):
                    too_late()

        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run,), name="xcom-canary", daemon=True).start()
        try:
            return outcome.result(timeout=left)
        except FutureTimeoutError:
            # Either we stop waiting now, or the call has returned at this very moment.
            if outcome.cancel():
                self.hung = True
                raise _TimeUpError from None
            return outcome.result()


def _probe(channel: Channel, calls: _Calls, key: str, size: int) -> ProbeResult:
    """One canary there and back; it is removed whatever happens in between."""
    value = canary(size)
    result = ProbeResult(len(json.dumps(value)))
    step, blob = "push", None

    def remove() -> None:
        channel.remove(key)

    try:
        start = time.monotonic()
        calls.do(lambda: channel.push(key, value), too_late=remove)
        result = replace(result, push_seconds=time.monotonic() - start, encryption_seconds=_encryption(channel))
        step = "pull"
        start = time.monotonic()
        pulled = calls.do(lambda: channel.pull(key), too_late=remove)
        result = replace(result, pull_seconds=time.monotonic() - start, intact=pulled == value)
        if not result.intact:
            result = replace(result, error="the value that was pulled differs from the one that was pushed")
        step = "measuring"
        row = channel.stored(key)
        if row is not None:  # a read replica may be behind
            text = row.text
            of_blob = calls.do(lambda: channel.blob_bytes(text), too_late=remove) if text else None
            blob = text if of_blob is not None else None
            result = _measured(result, row, of_blob)
    except Exception as error:  # noqa: BLE001 - whatever a backend raises is a finding; its text could quote the value
        result = replace(result, error=_problem(step, error))
    try:
        calls.do(remove, too_late=lambda: None)
        row_is_gone = calls.do(lambda: channel.pull(key), too_late=lambda: None) is None
        blob_is_gone = blob is None or calls.do(lambda: channel.blob_bytes(blob), too_late=lambda: None) is None
        removed = row_is_gone and blob_is_gone
        wrong = "" if removed else "it still exists after removal"
    except Exception as error:  # noqa: BLE001 - as above
        # One problem is enough if the probe has already timed out.
        removed, wrong = False, "" if calls.hung and result.error else _problem("removal", error)
    return replace(result, removed=removed, error="; ".join(filter(None, (result.error, wrong))))


def _problem(step: str, error: Exception) -> str:
    return f"{step} timed out" if isinstance(error, _TimeUpError) else f"{step} failed: {type(error).__name__}"


def _measured(result: ProbeResult, row: StoredValue, of_blob: int | None) -> ProbeResult:
    """Add how many bytes are stored for a canary."""
    if of_blob is not None:
        return replace(result, stored_bytes=row.bytes + of_blob, in_blob=True)
    # A row with a string instead of the records refers to something we cannot read.
    if row.text is not None:
        return replace(result, in_blob=True)
    return replace(result, stored_bytes=row.bytes, in_blob=False)


def _encryption(channel: Channel) -> float | None:
    try:
        return channel.encryption_seconds()
    except Exception:  # noqa: BLE001 - not worth a probe
        return None


def canary(size: int) -> dict[str, Any]:
    """A value of ``size`` bytes as JSON that looks like what tasks pass: records of ids, times, words and numbers."""
    dice = random.Random()  # noqa: S311 - nothing here is secret
    words = (
        "berlin",
        "lisbon",
        "paid",
        "open",
        "refunded",
        "invoice",
        "partner",
        "north america",
        "retry",
        "eu-west-1",
    )
    records: list[dict[str, Any]] = []
    value: dict[str, Any] = {"canary": "xcom_maintenance", "records": records, "rest": ""}
    length = len(json.dumps(value))
    while True:
        record = {
            "id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            "at": (datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=dice.randrange(10**8))).isoformat(),
            "city": dice.choice(words),
            "state": dice.choice(words),
            "amount": round(dice.uniform(0, 10_000), 2),
            "quantity": dice.randrange(1_000),
            "note": " ".join(dice.choices(words, k=dice.randrange(1, 6))),
        }
        more = len(json.dumps(record)) + (2 if records else 0)
        if length + more > size:
            value["rest"] = "x" * max(0, size - length)
            return value
        records.append(record)
        length += more


def describe_probe(report: Report, results: list[ProbeResult]) -> None:
    """Put the results of the canaries into the report."""
    for result in results:
        if result.error:
            report.warnings.append(f"Live probe, {human_bytes(result.value_bytes)} canary: {result.error}.")
    report.put(
        Table(
            "Live probe",
            ["value bytes", "push seconds", "pull seconds", "stored bytes", "stored in", "reduction share",
             "encryption seconds", "intact", "removed", "error"],
            [
                [r.value_bytes, rounded(r.push_seconds), rounded(r.pull_seconds), r.stored_bytes,
                 {True: "blob", False: "database", None: "unknown"}[r.in_blob], reduction(r),
                 rounded(r.encryption_seconds), _yes(r.intact), _yes(r.removed), r.error]
                for r in results
            ],
            "Canary values that the audit task pushed and pulled through the configured XCom backend, then removed. "
            "The first push includes the time the backend needs for its imports, as in any task.",
        )
    )  # fmt: skip


def reduction(result: ProbeResult) -> float | None:
    """The share of a value that compression saves, between 0 and 1; None if unknown."""
    if result.stored_bytes is None or not result.value_bytes:
        return None
    return round(max(0.0, 1 - result.stored_bytes / result.value_bytes), 4)


def rounded(seconds: float | None) -> float | None:
    """A latency as reports show it: to a tenth of a millisecond."""
    return None if seconds is None else round(seconds, 4)


def _yes(true: bool) -> str:
    return "yes" if true else "NO"
