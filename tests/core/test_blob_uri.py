from __future__ import annotations

import pytest

from include.xcom_maintenance.core.blob_uri import BasePath, BlobUri, InvalidBlobUri
from include.xcom_maintenance.core.errors import ConfigurationError


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/xcom/a/r/t/1",
        "s3://conn@bucket/xcom/a/r/t/1",
        "s3a://bucket/xcom/a/r/t/1",
        "S3N://other_conn@bucket/xcom/a/r/t/1",
    ],
)
def test_spellings_of_one_blob_are_equal(text: str) -> None:
    assert BlobUri.parse(text) == BlobUri("s3", "bucket", "xcom/a/r/t/1")


def test_spellings_of_one_file_are_equal() -> None:
    assert {BlobUri.parse(t) for t in ("file:///opt/x", "file://opt/x", "file://conn@/opt/x", "local:///opt/x")} == {
        BlobUri("file", "", "opt/x")
    }


def test_a_key_may_hold_what_urls_cut_off() -> None:
    assert BlobUri.parse("s3://b/manual__2026-01-01T00:00:00+00:00/a?b#c%2f d@e").key == (
        "manual__2026-01-01T00:00:00+00:00/a?b#c%2f d@e"
    )


@pytest.mark.parametrize(
    "text",
    ["", "bucket/key", "s3:/bucket/key", "s3:///key", "s3://b/a/../c", "s3://b/./c", "s3://b//c", "1://b/c", "://b/c"],
)
def test_what_is_ambiguous_is_refused(text: str) -> None:
    with pytest.raises(InvalidBlobUri):
        BlobUri.parse(text)


@pytest.mark.parametrize("text", ["s3://conn@bucket/xcom", "s3://bucket/xcom/", " s3://bucket/xcom "])
def test_a_base_path_contains_what_lies_below_and_nothing_beside(text: str) -> None:
    base = BasePath.parse(text, setting="blob_base_path")
    inside = ["s3://bucket/xcom/a", "s3://c@bucket/xcom/a/b", "s3a://bucket/xcom/a"]
    outside = ["s3://bucket/xcom", "s3://bucket/xcom/", "s3://bucket/xcom-of-others/a", "s3://bucket/a/xcom/b",
               "s3://other/xcom/a", "gs://bucket/xcom/a"]  # fmt: skip
    assert all(base.contains(BlobUri.parse(t)) for t in inside)
    assert not any(base.contains(BlobUri.parse(t)) for t in outside)
    assert base.blob("a/1") == BlobUri.parse("s3://bucket/xcom/a/1")


@pytest.mark.parametrize(
    "text", ["", " ", "s3://bucket", "s3://bucket/", "s3://c@bucket//", "file:///", "xcom", "s3://b/../x"]
)
def test_a_base_path_that_is_too_wide_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BasePath.parse(text, setting="blob_base_path")
    assert caught.value.setting == "blob_base_path"
