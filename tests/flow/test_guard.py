from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from include.xcom_maintenance.cleanup.guard import CleanupFigures, CleanupLimits, judge_cleanup
from include.xcom_maintenance.reconciliation.guard import (
    ReconciliationFigures,
    ReconciliationLimits,
    judge_reconciliation,
)
from include.xcom_maintenance.sweep.owner import judge_owner

FINE = ReconciliationFigures(recognised_blobs=10_000, orphan_blobs=2_000, referenced_blobs=8_000, unparsable=None)


LIMITS = ReconciliationLimits(share=0.5, shrink=0.5)


def objections(figures: ReconciliationFigures, limits: ReconciliationLimits = LIMITS) -> list[str]:
    return [objection.setting for objection in judge_reconciliation(figures, limits)]


def test_a_plausible_reconciliation_passes() -> None:
    assert objections(FINE) == []
    assert objections(replace(FINE, recognised_blobs=0, orphan_blobs=0, referenced_blobs=0)) == []


def test_an_implausible_reconciliation_does_not_pass() -> None:
    assert objections(replace(FINE, unparsable="somewhere")) == ["blob_base_path"]
    assert objections(replace(FINE, referenced_blobs=0)) == ["blob_base_path"]


def test_what_is_merely_large_is_offered_for_approval_and_what_is_implausible_never() -> None:
    limits = ReconciliationLimits(share=0.1, blobs=1_999, bytes=1, shrink=0.5)
    wrong = replace(
        FINE, orphan_blobs=5_000, orphan_bytes=2, references=1_000, references_before=8_000, unparsable="somewhere"
    )
    found = {objection.setting: objection.large for objection in judge_reconciliation(wrong, limits)}
    assert found == {
        "blob_base_path": False,
        "max_reference_shrink": False,
        "max_orphan_share": True,
        "max_orphan_blobs": True,
        "max_orphan_bytes": True,
    }


def test_a_share_of_a_few_is_no_reason_to_stop() -> None:
    assert objections(replace(FINE, recognised_blobs=4, orphan_blobs=3)) == []


def test_references_that_have_gone_and_left_their_blobs_are_refused() -> None:
    gone = replace(FINE, references=3_000, references_before=9_000, orphan_blobs=5_000)
    assert objections(gone) == ["max_reference_shrink"]
    assert objections(gone, replace(LIMITS, shrink=1)) == []
    assert objections(replace(gone, references_before=None)) == []


def test_a_cleanup_that_took_blobs_with_their_rows_never_makes_a_reconciliation_stop() -> None:
    cleaned = replace(FINE, references=100, references_before=1_000_000, orphan_blobs=2_000)
    assert objections(cleaned) == []


def test_rows_are_not_deleted_because_a_whole_bucket_seems_to_be_gone() -> None:
    emptied = replace(FINE, references=8_000, dangling_rows=7_000)
    assert objections(emptied) == ["delete_dangling_rows"]
    assert objections(replace(emptied, dangling_rows=50)) == []


def test_limits_of_a_cleanup_apply_only_where_they_are_set() -> None:
    figures = CleanupFigures(rows=9_000, bytes=900_000, rows_in_table=10_000)
    assert judge_cleanup(figures, CleanupLimits()) == []
    above = judge_cleanup(figures, CleanupLimits(rows=8_999, bytes=899_999, share=0.89))
    assert [o.setting for o in above] == ["max_delete_rows", "max_delete_bytes", "max_delete_share"]
    assert all(objection.large for objection in above)
    assert judge_cleanup(figures, CleanupLimits(rows=9_000, bytes=900_000, share=0.9)) == []
    assert judge_cleanup(CleanupFigures(0, 0, 0), CleanupLimits(rows=1, bytes=1, share=0.1)) == []


def test_ages_by_a_wrong_clock_are_not_offered_for_approval() -> None:
    for ahead in (timedelta(hours=2), timedelta(days=-400)):
        [objection] = judge_cleanup(CleanupFigures(1, 1, 1, clock_ahead=ahead), CleanupLimits())
        assert not objection.large
    assert judge_cleanup(CleanupFigures(1, 1, 1, clock_ahead=timedelta(minutes=5)), CleanupLimits()) == []


def test_a_base_path_of_another_owner_is_an_objection() -> None:
    assert judge_owner(None, "we") == judge_owner("we", "we") == []
    assert [objection.setting for objection in judge_owner("others", "we")] == ["metadata_conn_id"]
