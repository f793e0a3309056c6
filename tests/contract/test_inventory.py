"""A listing from an S3 Inventory, as AWS lays it out, in a bucket of a real server."""

from __future__ import annotations

import gzip
import hashlib
import random
import resource
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from include.xcom_maintenance.blobs.inventory import files as inventory_files
from include.xcom_maintenance.blobs.port import DeleteResult
from include.xcom_maintenance.blobs.sorting import sorted_by_key
from include.xcom_maintenance.core.errors import ConfigurationError, StoreUnavailable
from include.xcom_maintenance.core.records import Blob
from local_stack.s3 import MotoS3
from tests.support.inventories import PARQUET_SCHEMA, Inventory

KEYS = [
    "a b/r+1/t/%2e",
    "a.b/r/t/1",
    "a/r/t/1",
    "a-b/r/t/1",
    'q"/,/t/1',
    "ü/r/t/日本",
    *(f"d/r/t/{n:02}" for n in range(20)),
]


@pytest.fixture(params=["CSV", "Parquet"])
def inventory(request: pytest.FixtureRequest, moto: MotoS3) -> Inventory:
    found = Inventory(moto, request.param)
    found.fill(KEYS)
    found.fill(["d/r/t/1", "x"], prefix="xcom-of-others/")
    return found


@pytest.fixture
def inventory_csv(moto: MotoS3) -> Inventory:
    found = Inventory(moto)
    found.fill(KEYS)
    return found


def _whole_seconds(blobs: Iterator[Blob]) -> list[tuple[Any, ...]]:
    return [(b.key, b.size, b.version, b.last_modified and b.last_modified.replace(microsecond=0)) for b in blobs]


def test_no_blob_in_an_inventory_differs_from_the_one_that_a_listing_shows(inventory: Inventory) -> None:
    inventory.write()
    store = inventory.open()
    store.check()
    listed = _whole_seconds(store.list())
    assert listed == _whole_seconds(inventory.live.list())
    assert len(listed) == len(KEYS)


def test_a_range_of_an_inventory_is_that_of_a_listing(inventory: Inventory) -> None:
    inventory.write()
    store = inventory.open()
    for after, before in ((None, "d/"), ("d/r/t/05", "d/r/t/11"), ("d/", None)):
        expected = [blob.key for blob in inventory.live.list(after=after, before=before)]
        assert [blob.key for blob in store.list(after=after, before=before)] == expected
        assert expected


def test_what_has_changed_since_the_inventory_is_not_deleted(inventory: Inventory) -> None:
    inventory.write()
    time.sleep(1.1)  # S3 tells times in seconds
    inventory.fill([KEYS[0], "younger/r/t/1"])
    inventory.client.delete_object(Bucket=inventory.bucket, Key=f"xcom/{KEYS[1]}")
    store = inventory.open()
    blobs = list(store.list())
    assert "younger/r/t/1" not in [blob.key for blob in blobs]
    results = {deletion.blob.key: deletion.result for deletion in store.delete_unchanged(blobs)}
    assert results.pop(KEYS[0]) is DeleteResult.CHANGED
    assert results.pop(KEYS[1]) is DeleteResult.GONE
    assert set(results.values()) == {DeleteResult.DELETED}
    assert sorted(blob.key for blob in inventory.live.list()) == sorted([KEYS[0], "younger/r/t/1"])


def test_the_newest_inventory_that_is_finished_is_taken(inventory_csv: Inventory) -> None:
    inventory_csv.write(day=1)
    inventory_csv.write(day=2)
    inventory_csv.write(day=3, finished=False)
    assert inventory_csv.open().listed_at == datetime(2026, 1, 2, tzinfo=UTC)


def test_an_inventory_can_be_named_by_its_manifest(inventory_csv: Inventory) -> None:
    key = inventory_csv.write(day=1)
    inventory_csv.write(day=2)
    store = inventory_csv.open(f"s3://{inventory_csv.destination}/{key}")
    assert store.listed_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert len(list(store.list())) == len(KEYS)


# -- inventories that nothing can be concluded from -----------------------------------------


def _damage_manifest(inventory: Inventory) -> None:
    key = inventory.write()
    inventory.client.put_object(Bucket=inventory.destination, Key=key, Body=b"{}")


def _damage_a_file(inventory: Inventory) -> None:
    inventory.write()
    [*_, last] = inventory.client.list_objects_v2(Bucket=inventory.destination, Prefix=f"{inventory.folder}/data/")[
        "Contents"
    ]
    body = inventory.client.get_object(Bucket=inventory.destination, Key=last["Key"])["Body"].read()
    inventory.client.put_object(Bucket=inventory.destination, Key=last["Key"], Body=body[: len(body) // 2])


def _lose_a_file(inventory: Inventory) -> None:
    inventory.write(files=[{"key": "nowhere", "size": 1, "MD5checksum": "0" * 32}])


def _cut_a_row(inventory: Inventory) -> None:
    data = gzip.compress(b'"bucket","xcom/d/r/t/1"\n')
    inventory.client.put_object(Bucket=inventory.destination, Key="short", Body=data)
    inventory.write(files=[{"key": "short", "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}])


@pytest.mark.parametrize("damage", [_damage_manifest, _damage_a_file, _lose_a_file, _cut_a_row])
def test_a_damaged_inventory_is_never_taken_for_a_listing(
    inventory_csv: Inventory, damage: Callable[[Inventory], None]
) -> None:
    damage(inventory_csv)
    listing = inventory_csv.open().list()
    with pytest.raises(StoreUnavailable, match="inventory_manifest"):
        next(listing)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sourceBucket": "another"}, "of the bucket 'another'"),
        ({"fileFormat": "ORC"}, "unsupported format: ORC.*CSV or Parquet"),
        ({"fileSchema": "Bucket, Key, Size"}, "lacks these fields: ETag, LastModifiedDate"),
        ({"fileSchema": None}, "is not an S3 Inventory manifest"),
        ({"files": "x"}, "is not an S3 Inventory manifest"),
    ],
)
def test_an_inventory_that_does_not_fit_names_the_setting_and_the_remedy(
    inventory_csv: Inventory, changes: dict[str, Any], message: str
) -> None:
    inventory_csv.write(**changes)
    with pytest.raises(ConfigurationError, match=rf"(?s){message}.*") as caught:
        inventory_csv.open().check()
    assert caught.value.setting == "inventory_manifest"


def test_an_inventory_that_does_not_cover_the_base_path_is_refused(inventory_csv: Inventory) -> None:
    """Else every reference would seem to lead nowhere."""
    rows = [row for row in inventory_csv.rows() if not row["Key"].startswith("xcom/")]
    inventory_csv.rows = lambda: rows  # type: ignore[method-assign]
    inventory_csv.write()
    with pytest.raises(ConfigurationError, match="holds nothing below"):
        list(inventory_csv.open().list())


def test_no_inventory_at_the_address_names_the_setting(inventory_csv: Inventory) -> None:
    for address in (None, f"s3://{inventory_csv.destination}/nowhere/manifest.json", "s3://no-such-bucket/x"):
        with pytest.raises(ConfigurationError) as caught:
            inventory_csv.open(address).check()
        assert caught.value.setting == "inventory_manifest"
    for address in ("gs://bucket/x", "s3://bucket", "nonsense"):
        with pytest.raises(ConfigurationError, match="inventory_manifest"):
            inventory_csv.open(address)


def test_without_pyarrow_a_parquet_inventory_names_the_package(
    inventory_csv: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigurationError, match="Install pyarrow"):
        inventory_files.reader("Parquet", PARQUET_SCHEMA, setting="inventory_manifest")


# -- sorting --------------------------------------------------------------------------------


def test_sorting_on_disk_keeps_every_blob_as_it_is() -> None:
    dice = random.Random(2)
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    moments = (None, moment)
    names = ["\n", '"', "\t", "ü", "\U0001f600", "\ufb01", "/", "~", "a", "\udc80"]
    blobs = [
        Blob(
            "".join(dice.choices(names, k=6)),
            n,
            moments[n % 2],
            None if n % 5 else "v",
        )
        for n in range(2_000)
    ]
    expected = sorted(blobs, key=lambda blob: blob.key.encode(errors="surrogateescape"))
    for run, fan_in in ((10, 3), (1_999, 2), (2_000, 2), (5_000, 2)):
        found = list(sorted_by_key(iter(blobs), run=run, fan_in=fan_in))
        assert [blob.key for blob in found] == [blob.key for blob in expected]
        assert set(found) == set(blobs)
    assert list(sorted_by_key([])) == []


def test_sorting_never_has_more_than_a_few_files_open() -> None:
    blobs = (Blob(f"{(n * 7_919) % 100_003:06}/r/t/{n}", 1, None, "v" * 32) for n in range(20_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
        count, last = 0, ""
        for blob in sorted_by_key(blobs, run=30, fan_in=16):  # 667 runs
            assert last <= blob.key
            count, last = count + 1, blob.key
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert count == 20_000
