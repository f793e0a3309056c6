"""The live probe over a backend that fails in every way; the real ones are in ``tests/e2e`` and beside this file."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from include.xcom_maintenance.core.sizes import KB
from include.xcom_maintenance.metadata.ports.size_audit import StoredValue
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.size_audit import probe
from include.xcom_maintenance.size_audit.results import ProbeResult


class Backend:
    """Keeps values in a dictionary; a test breaks one of its methods."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.blobs: dict[str, bytes] = {}
        self.calls: list[str] = []

    def push(self, key: str, value: Any) -> None:
        self.calls.append("push")
        self.rows[key] = value

    def pull(self, key: str) -> Any:
        return self.rows.get(key)

    def remove(self, key: str) -> None:
        self.calls.append("remove")
        self.rows.pop(key, None)
        self.blobs.clear()

    def stored(self, key: str) -> StoredValue | None:
        return StoredValue(len(json.dumps(self.rows[key])) // 2, None) if key in self.rows else None

    def blob_bytes(self, reference: str) -> int | None:
        return len(self.blobs[reference]) if reference in self.blobs else None

    def encryption_seconds(self) -> float | None:
        return None


def run(backend: Backend, timeout: float = 10) -> list[ProbeResult]:
    return probe.probe(backend, timeout=timeout)


def test_a_sound_backend_is_measured_and_nothing_is_left() -> None:
    backend = Backend()
    results = run(backend)
    assert [result.value_bytes for result in results] == list(probe.SIZES.values())
    assert all(r.intact and r.removed and not r.error and r.push_seconds is not None for r in results)
    assert [probe.reduction(result) for result in results] == pytest.approx([0.5] * 3, abs=0.01)
    assert backend.rows == {}


def test_a_value_in_a_blob_is_measured_with_its_blob() -> None:
    class WithBlobs(Backend):
        def push(self, key: str, value: Any) -> None:
            super().push(key, value)
            self.blobs["s3://b/x"] = b"x" * 500

        def stored(self, key: str) -> StoredValue | None:
            return StoredValue(60, "s3://b/x")

    [result, *_] = run(WithBlobs())
    assert (result.stored_bytes, result.in_blob, result.removed) == (560, True, True)


def test_a_blob_that_survives_its_row_is_a_finding() -> None:
    class Leaks(Backend):
        def stored(self, key: str) -> StoredValue | None:
            self.blobs["s3://b/x"] = b"x"
            return StoredValue(60, "s3://b/x")

        def remove(self, key: str) -> None:
            self.rows.pop(key, None)

    [result, *_] = run(Leaks())
    assert not result.removed
    assert "still exists" in result.error


@pytest.mark.parametrize("method", ["push", "pull", "stored", "remove"])
def test_no_failure_of_a_backend_fails_the_probe_or_quotes_a_value(method: str) -> None:
    backend = Backend()
    original: Callable[..., Any] = getattr(backend, method)

    def broken(key: str, *rest: Any) -> Any:
        if method == "push":
            original(key, *rest)  # a push can fail after it has written
        raise RuntimeError(f"cannot send {backend.rows}")

    setattr(backend, method, broken)
    report = Report("xcom_size_audit", "r")
    results = run(backend)
    probe.describe_probe(report, results)
    assert all("RuntimeError" in result.error for result in results)
    assert len(report.warnings) == 3
    assert "canary" not in " ".join(r.error for r in results)
    if method in {"push", "stored"}:
        assert backend.rows == {}
    if method == "remove":
        assert not any(result.removed for result in results)


def test_a_value_that_comes_back_changed_is_a_finding() -> None:
    class Changes(Backend):
        def pull(self, key: str) -> Any:
            return {**self.rows[key], "rest": 1} if key in self.rows else None

    results = run(Changes())
    assert not any(result.intact for result in results)
    assert all("differs from the one that was pushed" in result.error and result.removed for result in results)


@pytest.mark.parametrize("method", ["push", "pull"])
def test_a_backend_that_hangs_does_not_hold_up_the_audit_and_its_canary_goes_in_the_end(method: str) -> None:
    backend, go_on = Backend(), threading.Event()
    original: Callable[..., Any] = getattr(backend, method)

    def hang(key: str, *rest: Any) -> Any:
        go_on.wait(30)
        return original(key, *rest)

    setattr(backend, method, hang)
    start = time.monotonic()
    results = run(backend, timeout=0.5)
    assert time.monotonic() - start < 5
    assert [r.error for r in results] == [f"{method} timed out", *["push timed out"] * 2]
    assert not any(result.removed for result in results)
    go_on.set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and ("remove" not in backend.calls or backend.rows):
        time.sleep(0.02)
    assert backend.calls == ["push", "remove"]
    assert backend.rows == {}


@pytest.mark.parametrize("size", [KB, 48 * KB, 1024 * KB])
def test_a_canary_has_its_size_and_neither_vanishes_nor_stays_whole_when_compressed(size: int) -> None:
    value = probe.canary(size)
    text = json.dumps(value)
    assert len(text) == size
    assert 0.2 < len(zlib.compress(text.encode())) / size < 0.8
    assert value != probe.canary(size)
