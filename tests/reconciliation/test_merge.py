"""The merge agrees with sets, refuses unsorted streams, and takes only known layouts for orphans."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.xcom_maintenance.core.records import Blob, Coordinates, RowReference
from include.xcom_maintenance.core.reference_formats import KNOWN
from include.xcom_maintenance.reconciliation.merge import BlobKind, FoundBlob, UnmatchedReference, match

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UUID = "11111111-2222-4333-8444-555555555555"


def blob(key: str, *, age_days: float | None = 30) -> Blob:
    return Blob(key, 1, None if age_days is None else NOW - timedelta(age_days), "v")


def reference(key: str) -> RowReference:
    return RowReference(key, "a", "r", "t", -1, "return_value", NOW, "xcom", 10, whole=True)


def by_bytes(keys: set[str]) -> list[str]:
    return sorted(keys, key=str.encode)


KEYS = st.sets(st.builds("{}/r/t/{}".format, st.text("aZ-/.éü€😀", min_size=1, max_size=4), st.just(UUID)), max_size=20)


@given(KEYS, KEYS)
def test_the_merge_agrees_with_sets(listed: set[str], referred: set[str]) -> None:
    found = list(match(map(blob, by_bytes(listed)), map(reference, by_bytes(referred)), modified_before=NOW))
    kinds = {f.blob.key: f.kind for f in found if isinstance(f, FoundBlob)}
    assert {key for key, kind in kinds.items() if kind is BlobKind.REFERENCED} == listed & referred
    assert set(kinds) == listed
    assert {key for key, kind in kinds.items() if kind is BlobKind.ORPHAN} <= listed - referred
    assert {f.reference.key for f in found if isinstance(f, UnmatchedReference)} == referred - listed


def test_a_blob_with_several_references_is_one_blob() -> None:
    key = f"a/r/t/{UUID}"
    found = list(match([blob(key)], [reference(key)] * 3, modified_before=NOW))
    assert [f.kind for f in found if isinstance(f, FoundBlob)] == [BlobKind.REFERENCED]


@pytest.mark.parametrize("age", [0, 6.999])
def test_a_blob_that_may_be_younger_than_the_grace_period_is_no_orphan(age: float | None) -> None:
    [found] = match([blob(f"a/r/t/{UUID}", age_days=age)], [], modified_before=NOW - timedelta(7))
    assert isinstance(found, FoundBlob)
    assert found.kind is BlobKind.TOO_YOUNG


@pytest.mark.parametrize("age", [None, 365 * 15, 365 * 56, -1, -365 * 80])
def test_a_blob_whose_time_cannot_be_right_is_no_orphan(age: float | None) -> None:
    found, old = match(
        [blob(f"a/r/t/{UUID}", age_days=age), blob(f"b/r/t/{UUID}")],
        [],
        modified_before=NOW - timedelta(7),
        now=lambda: NOW,
    )
    assert isinstance(found, FoundBlob)
    assert isinstance(old, FoundBlob)
    assert (found.kind, old.kind) == (BlobKind.UNKNOWN_AGE, BlobKind.ORPHAN)


@pytest.mark.parametrize("which", ["listing", "references"])
def test_an_unsorted_stream_is_refused(which: str) -> None:
    keys = [f"b/r/t/{UUID}", f"a/r/t/{UUID}"]
    listing = map(blob, keys if which == "listing" else [])
    references = map(reference, keys if which == "references" else [])
    with pytest.raises(ValueError, match=which):
        list(match(listing, references, modified_before=NOW))


def test_the_merge_holds_no_more_than_a_pair_at_a_time() -> None:
    """Neither side is read ahead of the other, so memory does not grow with the bucket."""
    ahead = 0

    def counted(step: int) -> Iterator[str]:
        nonlocal ahead
        for number in range(10_000):
            ahead += step
            assert abs(ahead) <= 2
            yield f"a/r/{number:06}/{UUID}"

    listed, referred = map(blob, counted(1)), map(reference, counted(-1))
    assert sum(1 for _ in match(listed, referred, modified_before=NOW)) == 10_000


@pytest.mark.parametrize(
    ("key", "known"),
    [
        (f"a/manual__2026-01-01T00:00:00+00:00/g.t/{UUID}", True),
        (f"a/r/t/{UUID}.gz", True),
        (f"a/r/t/{UUID}.snappy", True),
        (f"a/r/t/{UUID}.json.gz", False),
        (f"a/r/{UUID}", False),
        (f"a/r/t/m/{UUID}", False),
        (f"../r/t/{UUID}", False),
        (f"a//t/{UUID}", False),
        ("a/r/t/11111111-2222-1333-8444-555555555555", False),
        (f"a/r/t/{UUID.upper()}X", False),
        ("readme.txt", False),
    ],
)
def test_only_keys_of_a_known_layout_are_recognised(key: str, known: bool) -> None:
    assert (KNOWN.read(key) is not None) == known
    if known:
        first, run, task, _ = key.split("/")
        assert KNOWN.coordinates_of(key) == Coordinates(first, run, task)


def test_what_belongs_to_the_state_store_is_no_orphan() -> None:
    [found] = match([blob(f"state/r/t/{UUID}")], [], modified_before=NOW, ignored_prefixes=("state/",))
    assert isinstance(found, FoundBlob)
    assert found.kind is BlobKind.UNRECOGNISED
