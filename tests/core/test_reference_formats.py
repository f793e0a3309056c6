"""Each declared layout against keys as they were recorded, and against keys that only resemble them."""

from __future__ import annotations

import pytest

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.core.records import Coordinates
from include.xcom_maintenance.core.reference_formats import KNOWN
from include.xcom_maintenance.settings.layers import Layer
from tests.support.settings import resolve

RUN = "scheduled__2026-01-01T00:00:00+00:00"
PLACE = f"daily_sales/{RUN}/group.extract"
OURS = Coordinates("daily_sales", RUN, "group.extract")
U4 = "0b9a3e9c-58a3-4a55-9d0f-6a0b1f0f3d11"
U7 = "019a2f6e-1c1d-7b3a-8f52-9a5d4d1c7e10"
#: What copies, editors, locks and people leave beside a blob.
STRANGE = (
    *(".tmp", ".part", ".partial", ".lock", ".bak", ".old", ".swp", ".1", ".md5", ".crc", ".json", ".csv", ".parquet"),
    *("~", ".", ".GZ", ".gz.tmp", ".tar.gz", " .gz", ".tmp-1234"),
)
HEX = "5f0c0a6b9d1e4b7f8a2c3d4e5f6a7b8c"


@pytest.mark.parametrize("suffix", ["", ".zip", ".bz2", ".gz", ".lzma", ".xz", ".snappy", ".lz4", ".zst"])
def test_no_blob_of_the_stock_backend_goes_unrecognised_whatever_its_compression(suffix: str) -> None:
    name = KNOWN.read(f"{PLACE}/{U4}{suffix}")
    assert name is not None
    assert (name.layout, name.coordinates, name.unique) == ("XComObjectStorageBackend", OURS, U4)
    assert name.is_meant_by(None)
    assert name.is_meant_by("/anything.json")


@pytest.mark.parametrize("folder", ["ti", "write"])
@pytest.mark.parametrize("file", ["return_value.json", "a%2Fb%20c.json.gz", "e" * 64 + ".json", "%C3%BC.json.snappy"])
def test_no_blob_of_the_paths_by_task_instance_goes_unrecognised(folder: str, file: str) -> None:
    name = KNOWN.read(f"{PLACE}/{folder}-{U7}/{file}")
    assert name is not None
    assert (name.coordinates, name.unique, name.file) == (OURS, U7, file)


def test_a_key_of_the_same_task_instance_is_not_taken_for_another() -> None:
    name = KNOWN.read(f"{PLACE}/ti-{U7}/report.json")
    assert name is not None
    for certainly_another in ("/return_value.json", "/return_value.json.gz", "/REPORT2.json"):
        assert not name.is_meant_by(certainly_another)
    for perhaps_ours in (
        "/report.json",
        "/Report.json",
        None,
        "/",
        "/rep",
        "/report.json.gz",
        "/return_value.js",
        "/x?y",
    ):
        assert name.is_meant_by(perhaps_ours)


@pytest.mark.parametrize(
    ("key", "whose"),
    [
        (f"{PLACE}/{U4}.xcb", OURS),
        (f"daily%5Fsales/{RUN}/group.extract/{U4}.xcb", OURS),
        (f"s3_xcom_{U4}", None),
        (f"s3_xcom_{U4}.gz", None),
        (f"gcs_xcom_{U4}", None),
        (f"data_{U4}.csv", None),
        (f"{RUN}/extract/data_{U4}.json", None),
    ],
)
def test_no_blob_of_another_known_backend_goes_unrecognised(key: str, whose: Coordinates | None) -> None:
    name = KNOWN.read(key)
    assert name is not None
    assert name.coordinates == whose
    assert name.unique == U4


@pytest.mark.parametrize(
    "key",
    [
        f"{PLACE}/{U7}",  # not version 4
        f"{PLACE}/{HEX}.json",  # a checksum, perhaps
        f"{PLACE}/ti-{U7}/report.csv",
        f"{PLACE}/ti-{U7}/a/b.json",
        f"{PLACE}/other-{U7}/report.json",
        f"../{RUN}/t/{U4}",
        f"daily_sales/./t/{U4}",
        f"{PLACE}/{U4}\n",
        f"s3_xcom_{U7}x",
        f"a/b/c/data_{U4}.csv",
        *(f"{PLACE}/{U4}{suffix}" for suffix in STRANGE),
        *(f"{PLACE}/{U4}.gz{suffix}" for suffix in STRANGE),
        *(f"{PLACE}/{U4}.xcb{suffix}" for suffix in STRANGE),
        *(f"{PLACE}/ti-{U7}/report.json{suffix}" for suffix in STRANGE if suffix != ".json"),
        *(f"s3_xcom_{U4}{suffix}" for suffix in STRANGE),
        *(f"data_{U4}.json{suffix}" for suffix in STRANGE),
        f"data_{U4}.tmp",
        "export.csv",
        "",
    ],
)
def test_nothing_else_is_taken_for_a_blob(key: str) -> None:
    assert KNOWN.read(key) is None


# -- declared in the settings --------------------------------------------------


def test_a_format_that_a_user_declares_is_known_beside_the_others() -> None:
    declared = {"name": "ours", "key": r"v2/(?P<dag_id>[^/]+)/(?P<run_id>[^/]+)/(?P<unique>[0-9a-f-]{32,36})\.parquet"}
    formats = resolve([Layer("x", {"blob_formats": [declared]})]).settings.formats
    assert formats.coordinates_of(f"v2/a/r/{U7}.parquet") == Coordinates("a", "r", "")
    assert formats.coordinates_of(f"v2/a/r/{HEX}.parquet") == Coordinates("a", "r", "")
    assert formats.coordinates_of(f"{PLACE}/{U4}") == OURS
    assert formats.read(f"v2/a/r/{'-' * 36}.parquet") is None  # matches, but is nothing that values can be searched for
    assert formats.read(f"v2/../r/{U7}.parquet") is None


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("(?P<dag_id>[^/]+", "not a regular expression"),
        ("(?P<dag_id>[^/]+)/x", "no group 'unique'"),
        ("(?P<unique>.{36})(?P<dag>x)", "a group 'dag'"),
    ],
)
def test_a_format_that_cannot_be_used_is_an_error_that_says_why(key: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match="blob_formats") as caught:
        resolve([Layer("x", {"blob_formats": [{"name": "ours", "key": key}]})])
    assert why in str(caught.value)
