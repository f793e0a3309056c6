"""A reconciliation that goes by an S3 Inventory, which is out of date: what has changed since is never touched."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.support.bucket import Bucket
from tests.support.bundle import Bundle
from tests.support.history import History
from tests.support.inventories import Inventory

DAG = "xcom_orphan_reconciliation"


@pytest.mark.parametrize("file_format", ["CSV", "Parquet"])
@pytest.mark.parametrize("disposal", ["quarantine", "delete"])
def test_nothing_that_has_changed_since_the_inventory_is_disposed_of(
    bundle: Bundle, bucket: Bucket, history: History, monkeypatch: pytest.MonkeyPatch, file_format: str, disposal: str
) -> None:
    run = history.run("a", 30)

    def orphan(content: bytes = b"old", *, age_days: float = 30) -> str:
        key = f"xcom/a/gone run/t/{uuid.uuid4()}"
        bucket.put(key, content, age_days=age_days)
        return key

    referenced = bucket.blob(run, age_days=30)
    history.xcom(run, referenced, age_days=30)
    orphans = {orphan() for _ in range(3)}
    gone, again, same_again, claimed = (orphan() for _ in range(4))
    inventory = Inventory(bucket.server, file_format, bucket.name)
    place = f"s3://aws_xcom@{inventory.destination}/{inventory.folder}"
    bundle.variable = {"inventory_manifest": place, "delete_without_conditions": True}
    inventory.write()

    # Since then. All of it is old enough to be an orphan by its age.
    bucket.client.delete_object(Bucket=bucket.name, Key=gone)
    bucket.put(again, b"another value", age_days=20)
    bucket.put(same_again, b"old", age_days=20)  # its ETag is the same
    unlisted, young = orphan(age_days=20), orphan(age_days=0)
    later = bucket.blob(run, age_days=20)
    history.xcom(run, later, age_days=20, key="pushed after the inventory was written")
    history.xcom(run, f"s3://{bucket.name}/{claimed}", age_days=0, key="a reference to what looked like an orphan")

    found = bundle.find(run_id="r", mode="enforce", disposal=disposal)
    assert found["orphan_blobs"] == len(orphans) + 3
    assert found["dangling_references"] == 0
    before = bucket.listing()
    swept: dict[str, Any] = bundle.sweep(found, run_id="r", mode="enforce", disposal=disposal)
    after = {key for key in bucket.listing() if not key.startswith(("xcom-quarantine/", "xcom/.xcom"))}
    assert before - after == orphans
    assert {again, same_again, claimed, unlisted, young} <= after
    assert bucket.has(referenced)
    assert bucket.has(later)
    done = "quarantined" if disposal == "quarantine" else "deleted"
    assert swept[f"orphans_{done}"] == len(orphans)
    quarantined = {key.split("/", 2)[2] for key in bucket.listing() if key.startswith("xcom-quarantine/")}
    assert quarantined == ({key.removeprefix("xcom/") for key in orphans} if disposal == "quarantine" else set())


def test_an_inventory_that_is_damaged_or_too_narrow_stops_the_run_before_anything_is_concluded(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    run = history.run("a", 30)
    history.xcom(run, bucket.blob(run, age_days=30), age_days=30)
    bucket.put(f"xcom/a/gone run/t/{uuid.uuid4()}", age_days=30)
    inventory = Inventory(bucket.server, "CSV", bucket.name)
    bundle.variable = {"inventory_manifest": f"s3://aws_xcom@{inventory.destination}/{inventory.folder}"}
    inventory.write()
    for item in bucket.client.list_objects_v2(Bucket=inventory.destination)["Contents"]:
        if "/data/" in item["Key"]:
            bucket.client.put_object(Bucket=inventory.destination, Key=item["Key"], Body=b"damaged")
    before = bucket.listing()
    outcome = bundle.run(DAG, mode="enforce")
    assert "does not match its manifest" in str(outcome.error)
    assert bucket.listing() == before
