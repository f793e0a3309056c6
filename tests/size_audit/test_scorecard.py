"""Every metric of the scorecard, on both sides of its threshold and without a figure."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.core.sizes import BANDS, CUTS, KB, MB, THRESHOLDS, at_least, class_of
from include.xcom_maintenance.size_audit.findings import thresholds_of
from include.xcom_maintenance.size_audit.scorecard import MEMORY_FACTOR, Figures, Line, Verdict, judge

LIMITS = thresholds_of(Settings())


def line(name: str, found: Figures) -> Line:
    [only] = [line for line in judge(found, LIMITS) if line.name == name]
    return only


#: metric: (figure, the last value that passes, the first that warns)
EDGES: dict[str, tuple[str, float, float]] = {
    "value_size": ("largest_bytes", 48 * KB, 48 * KB + 1),
    "push_latency": ("push_seconds", 1, 1.001),
    "pull_latency": ("pull_seconds", 1, 1.001),
    "encryption": ("encryption_seconds", 0.1, 0.101),
    "compression": ("compression_reduction", 0.5, 0.499),
    "database_load": ("connections_share", 0.8, 0.81),
    "database_share": ("database_share", 0.5, 0.51),
    "cache_hits": ("cache_hit_share", 0.9, 0.89),
    "dead_rows": ("dead_share", 0.2, 0.21),
    "memory": ("largest_bytes", 100 * MB // MEMORY_FACTOR, 100 * MB // MEMORY_FACTOR + 1),
    "cleanup": ("days_since_enforced", 30, 31),
    "overdue_rows": ("overdue_rows", 0, 1),
    "pushes_a_day": ("pushes_a_day", 1_000, 1_001),
    "fan_out": ("fan_out", 1_000, 1_001),
    "push_time": ("largest_push_seconds", 150, 151),
    "forecast": ("days_to_limit", 30, 29),
    "secrets": ("secrets", 0, 1),
    "probe_intact": ("probe_intact", True, False),
}


@pytest.mark.parametrize("name", EDGES)
def test_no_metric_warns_within_its_threshold_or_passes_beyond_it(name: str) -> None:
    figure, good, bad = EDGES[name]
    passing, warning = (line(name, replace(Figures(), **{figure: value})) for value in (good, bad))
    assert (passing.verdict, passing.advice) == (Verdict.PASS, "")
    assert warning.verdict is Verdict.WARN
    assert warning.advice


def test_every_figure_is_judged() -> None:
    judged = {figure for figure, _, _ in EDGES.values()}
    assert {f.name for f in fields(Figures)} - judged == {"was_probed", "has_trend"}


def test_without_figures_nothing_passes_and_nothing_warns() -> None:
    found = judge(Figures(), LIMITS)
    assert {line.verdict for line in found} == {Verdict.UNKNOWN}
    assert not {"secrets", "probe_intact"} & {line.name for line in found}


def test_what_warns_comes_first_and_what_is_unknown_last() -> None:
    found = [line.verdict for line in judge(Figures(overdue_rows=5, largest_bytes=1), LIMITS)]
    order = list(Verdict)
    assert found == sorted(found, key=order.index)
    assert found[0] is Verdict.WARN


def test_a_backend_without_encryption_is_not_unknown() -> None:
    assert line("encryption", Figures(was_probed=True)).verdict is Verdict.PASS


def test_a_table_that_shrinks_passes_and_one_without_a_trend_is_unknown() -> None:
    assert line("forecast", Figures(has_trend=True)).verdict is Verdict.PASS
    assert line("forecast", Figures()).verdict is Verdict.UNKNOWN


def test_a_cleanup_that_may_report_for_ever_is_no_breach() -> None:
    limits = replace(LIMITS, not_enforced_days=None)
    [found] = [line for line in judge(Figures(days_since_enforced=999), limits) if line.name == "cleanup"]
    assert found.verdict is Verdict.PASS


@pytest.mark.parametrize("cut", CUTS[1:])
def test_a_size_at_a_cut_belongs_to_the_upper_class(cut: int) -> None:
    assert class_of(cut) == class_of(cut - 1) + 1


def test_bands_and_thresholds_are_sums_of_classes() -> None:
    assert {band.lower for band in BANDS} | {b.upper for b in BANDS if b.upper} <= set(CUTS)
    assert [band.upper for band in BANDS[:-1]] == [band.lower for band in BANDS[1:]]
    assert set(THRESHOLDS) <= set(CUTS)
    sizes = [0, 1, 1023, 1024, 10_239, 10_240, 49_151, 49_152, 300_000, 2 * MB, 10 * MB, 99 * MB]
    by_class = dict.fromkeys(range(len(CUTS)), 0)
    for size in sizes:
        by_class[class_of(size)] += 1
    for lower, upper in [(b.lower, b.upper) for b in BANDS] + [(t, None) for t in THRESHOLDS]:
        assert at_least(by_class, lower, upper) == sum(s >= lower and (upper is None or s < upper) for s in sizes)
