"""Names of blobs: unique, safe whatever the ids are, and known to the maintenance DAGs."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xcom_blob_backend import names
from xcom_blob_backend.config import BasePath
from xcom_blob_backend.errors import KeyNotStorable

from include.xcom_maintenance.core.blob_uri import BasePath as MaintainedPath
from include.xcom_maintenance.core.blob_uri import BlobUri
from include.xcom_maintenance.core.records import Coordinates
from include.xcom_maintenance.core.reference_formats import KNOWN
from tests.backend.conftest import files_in, name_in, pull, push
from tests.backend.stored import Stored

HOSTILE = [
    "..",
    ".",
    "../../etc",
    "a/../../b",
    "/absolute",
    "a//b",
    "",
    "%2e%2e%2f",
    "a\\..\\b",
    "c:\\x",
    "nul\0byte",
    "line\nbreak",
    'quote"s and spaces',
    "?query#fragment",
    "x" * 250,
    "日" * 250,
    "𝄞" * 250,
    "\ud800",
    "...",
    "~",
]
ANY_ID = st.text(max_size=250) | st.sampled_from(HOSTILE)


@given(ANY_ID, ANY_ID, ANY_ID, st.integers(1, 513))
def test_no_name_leaves_its_folder_or_is_too_long(dag_id: str, run_id: str, task_id: str, prefix_bytes: int) -> None:
    name = names.blob_name(dag_id, run_id, task_id, prefix_bytes=prefix_bytes)
    assert prefix_bytes + len(name) <= names.MAX_KEY_BYTES
    segments = name.split("/")
    assert len(segments) == 4
    assert all(segment.strip(".") and len(segment) <= 255 for segment in segments)
    assert re.fullmatch(r"[A-Za-z0-9_.\-~%:+@=,/]+", name)
    assert names.is_blob_name(name)
    assert KNOWN.coordinates_of(name) is not None
    base = MaintainedPath.parse("s3://bucket/xcom", setting="")
    assert base.contains(BlobUri.parse(f"s3://conn@bucket/xcom/{name}"))


@given(ANY_ID, ANY_ID)
def test_no_two_ids_share_a_folder(one: str, other: str) -> None:
    folders = {names.folder(each or None, "r", "t", prefix_bytes=10) for each in (one, other)}
    assert (len(folders) == 1) == (one == other)


def test_no_two_pushes_share_a_name() -> None:
    assert len({names.blob_name("d", "r", "t", prefix_bytes=5) for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize("dag_id", ["sales", "team.sales-eu_2"])
@pytest.mark.parametrize("run_id", ["manual__2026-01-01T00:00:00.123456+00:00", "scheduled__2026-01-01", "a~b"])
def test_no_usual_id_is_changed(dag_id: str, run_id: str) -> None:
    name = names.blob_name(dag_id, run_id, "group.task_1", prefix_bytes=20)
    assert KNOWN.coordinates_of(name) == Coordinates(dag_id, run_id, "group.task_1")


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
def test_no_id_is_lost_that_fits(dag_id: str, run_id: str) -> None:
    name = names.blob_name(dag_id, run_id, "t", prefix_bytes=20)
    found = [unquote(part) for part in name.split("/")]
    assert "~" in name or found[:2] == [dag_id, run_id]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_id_reaches_outside_the_base_path(stored: Stored, any_store: str, folder: Path, text: str) -> None:
    value = [text.replace("\ud800", "")]
    try:
        row = push(value, dag_id=text, run_id=text, task_id=text, key=text)
    except KeyNotStorable:  # what Airflow cannot store under this key is refused before anything is stored
        assert not list(stored.objects())
        row = push(value, dag_id=text, run_id=text, task_id=text)
    assert pull(row) == value
    # The object's name is the one in the row, so that what lists the bucket finds what the row says.
    assert list(stored.objects()) == [name_in(row)]
    if any_store.startswith("file"):
        assert [file.is_relative_to(folder) for file in files_in(folder.parent)] == [True]


@pytest.mark.parametrize(
    "uri",
    [
        "file:///data/xcom/../secret/a/b/c.xcb",
        "file:///data/xcom2/a/b/c.xcb",
        "file:///data/xcom",
        "file:///data/xcom/",
        "file:///data/xcom//a",
        "s3:///data/xcom/a",
        "/data/xcom/a",
        "file:///etc/passwd",
    ],
)
def test_no_place_outside_of_the_base_path_is_taken_for_one_inside(uri: str) -> None:
    assert BasePath.parse("file:///data/xcom", setting="").name_of(uri) is None


def test_the_spellings_of_one_place_are_known_to_be_one() -> None:
    base = BasePath.parse("s3://conn@bucket/a/b/", setting="")
    assert {
        base.name_of(f"{scheme}://{conn}bucket/a/b/c") for scheme in ("s3", "s3a", "S3") for conn in ("", "x@")
    } == {"c"}
    local = BasePath.parse("file:///data/xcom", setting="")
    assert {local.name_of(uri) for uri in ("file:///data/xcom/c", "file://data/xcom/c", "file://x@/data/xcom/c")} == {
        "c"
    }
