"""Ranges of keys: no key is in none of them or in two, and a giant DAG is divided."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from include.xcom_maintenance.reconciliation.ranges import Sample, divide

KEYS = st.text("aZ-/.éü€😀\udcff", min_size=1, max_size=4)


def holds(bounds: tuple[str | None, str | None], key: str) -> bool:
    first, before = (None if bound is None else bound.encode() for bound in bounds)
    asked = key.encode(errors="surrogateescape")
    return (first is None or asked >= first) and (before is None or asked < before)


@given(st.lists(KEYS, max_size=30), st.integers(1, 8), st.lists(KEYS, max_size=20))
def test_no_key_is_in_none_of_the_ranges_or_in_two(sample: list[str], count: int, asked: list[str]) -> None:
    ranges = divide(sample, count)
    assert 1 <= len(ranges) <= count
    for key in [*sample, *asked]:
        assert sum(holds(bounds, key) for bounds in ranges) == 1


def test_one_giant_dag_is_divided_and_many_small_ones_share_a_range() -> None:
    giant = [f"giant/run_{number:05}/t/x" for number in range(9_000)]
    small = [f"small_{number:03}/r/t/x" for number in range(1_000)]
    sample = Sample()
    for key in giant + small:
        sample.add(key)
    assert len(sample.keys) <= 2_048
    ranges = divide(sample.keys, 10)
    sizes = [sum(holds(bounds, key) for key in giant + small) for bounds in ranges]
    assert len(ranges) == 10
    assert max(sizes) < 1.1 * min(sizes)


def test_samples_of_streams_of_different_lengths_are_joined_evenly() -> None:
    long, short = Sample(), Sample()
    for number in range(100_000):
        long.add(f"a{number:06}")
    for number in range(10_000):
        short.add(f"b{number:06}")
    joined = Sample.joined([long, short])
    of_short = sum(key.startswith("b") for key in joined.keys) / len(joined.keys)
    assert 0.08 < of_short < 0.11
    assert joined.seen == 110_000
