"""Which values are references, as the whole value of a row, and to which blob."""

from __future__ import annotations

import json
from typing import Any

import pytest

from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.references import reference_in, reference_of

BASE = BasePath.parse("s3://aws_xcom@bucket/xcom", setting="blob_base_path")
BLOB = "11111111-2222-4333-8444-555555555555"
PLACE = f"a/r/t/{BLOB}"


def own(data: Any) -> dict[str, Any]:
    return {"__classname__": "xcom_blob_backend.BlobReference", "__version__": 1, "__data__": data}


#: Value -> the key below the base path, and whether the row says that it lies there.
REFERENCES: list[tuple[Any, str, bool]] = [
    (f"s3://aws_xcom@bucket/xcom/{PLACE}", PLACE, True),
    (f"s3a://bucket/xcom/{PLACE}.gz", f"{PLACE}.gz", True),
    (own({"uri": f"s3://bucket/xcom/{PLACE}.xcb", "bytes": 10}), f"{PLACE}.xcb", True),
    (own({"stored_bytes": 1, "uri": f"s3n://other_conn@bucket/xcom/{PLACE}.xcb"}), f"{PLACE}.xcb", True),
    ({"bucket": "bucket", "s3_key": f"xcom/{PLACE}"}, PLACE, True),
    ({"Bucket": "bucket", "Key": f"xcom/{PLACE}", "rows": 3}, PLACE, True),
    ({"container": "bucket", "blob_name": f"xcom/{PLACE}"}, PLACE, True),
    (f"s3_xcom_{BLOB}", f"s3_xcom_{BLOB}", False),
    (f"gcs_xcom_{BLOB}.gz", f"gcs_xcom_{BLOB}.gz", False),
    (f"xcom_s3://r/t/data_{BLOB}.json", f"r/t/data_{BLOB}.json", False),
    (f"xcom_s3://xcom/data_{BLOB}.json", f"data_{BLOB}.json", False),
]

ELSEWHERE: list[Any] = [
    f"s3://other/xcom/{PLACE}",
    f"s3://bucket/xcom-of-others/{PLACE}",
    f"gs://bucket/xcom/{PLACE}",
    own({"uri": f"s3://bucket/old/{PLACE}.xcb"}),
    {"bucket": "other", "key": f"xcom/{PLACE}"},
    {"bucket": "bucket", "key": f"elsewhere/{PLACE}"},
]

NONE: list[Any] = [
    None,
    1,
    True,
    "",
    "a text",
    f"see s3://bucket/xcom/{PLACE}",
    f"s3://bucket/xcom/../{PLACE}",
    [f"s3://bucket/xcom/{PLACE}"],
    {"of": f"s3://bucket/xcom/{PLACE}"},
    {"uri": f"s3://bucket/xcom/{PLACE}"},
    {"x": own({"uri": f"s3://bucket/xcom/{PLACE}"})},
    {"__classname__": "somebody.Else", "__data__": {"uri": f"s3://bucket/xcom/{PLACE}"}},
    own(None),
    own({}),
    own({"uri": 7}),
    own([f"s3://bucket/xcom/{PLACE}"]),
    {"bucket": "bucket"},
    {"key": f"xcom/{PLACE}"},
    {"bucket": {"name": "bucket"}, "key": "xcom/x"},
    {"bucket": "bucket", "key": "xcom//x"},
    {"bucket": "bucket", "key": "xcom/../x"},
    "s3_export",
    "xcom_s3:/x",
]


@pytest.mark.parametrize(("value", "key", "says_where"), REFERENCES)
def test_no_form_of_a_reference_is_taken_for_a_value(value: Any, key: str, says_where: bool) -> None:
    found = reference_of(value)
    assert found is not None
    assert (found.below(BASE), found.says_where) == (key, says_where)
    assert reference_in(json.dumps(value)) == found
    assert reference_in(json.dumps(value, indent=1)) == found
    assert found.own == (isinstance(value, dict) and "__classname__" in value)


@pytest.mark.parametrize("value", ELSEWHERE)
def test_no_reference_to_another_place_is_taken_for_one_below_the_base_path(value: Any) -> None:
    found = reference_of(value)
    assert found is not None
    assert found.below(BASE) is None


@pytest.mark.parametrize("value", NONE)
def test_no_value_is_taken_for_a_reference(value: Any) -> None:
    assert reference_of(value) is None
    assert reference_in(json.dumps(value)) is None


@pytest.mark.parametrize("text", [None, "", "{", '"', '{"a":' * 900, '"' + "x" * 5_000 + '"', "nonsense"])
def test_no_text_that_cannot_be_read_is_an_error(text: str | None) -> None:
    assert reference_in(text) is None
