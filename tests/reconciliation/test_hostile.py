"""Names and values that somebody chose to lead a reconciliation astray: nothing outside the rules is touched."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta

import pytest

from include.xcom_maintenance.bundle.settings import Settings
from local_stack.s3 import MotoS3
from tests.support.bundle import Bundle
from tests.support.history import History

DAG = "xcom_orphan_reconciliation"
MARKER = "xcom/.xcom-maintenance-owner.json"


class Bucket:
    """In a server that takes every key. Whatever is in it counts as old."""

    def __init__(self, server: MotoS3) -> None:
        self.name = f"hostile-{uuid.uuid4().hex[:8]}"
        self.client = server.client()
        self.client.create_bucket(Bucket=self.name)

    def put(self, folder: str) -> str:
        key = f"{folder}/{uuid.uuid4()}"
        self.client.put_object(Bucket=self.name, Key=key, Body=b"x")
        return key

    def keys(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {item["Key"] for page in pages for item in page.get("Contents", [])} - {MARKER}


@pytest.fixture
def bucket(bundle: Bundle, moto: MotoS3, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(Settings, "grace_period", property(lambda _: timedelta(seconds=-10)))
    found = Bucket(moto)
    bundle.connections["aws_xcom"] = json.loads(moto.airflow_connection_json())
    bundle.common_io["xcom_objectstorage_path"] = f"s3://aws_xcom@{found.name}/xcom"
    bundle.common_io["state_store_objectstorage_path"] = f"s3://aws_xcom@{found.name}/xcom/state"
    return found


NAMES = ["..", ".", "%2e%2e", "..%2f..", "a b+c", "state", "xcom-quarantine"]


@pytest.mark.parametrize("disposal", ["delete", "quarantine"])
def test_no_hostile_name_or_value_leads_a_sweep_outside_its_rules(
    bundle: Bundle, bucket: Bucket, history: History, disposal: str
) -> None:
    for name in NAMES:
        history.dag(name)  # known, so that none of its blobs is merely somebody else's
    run = history.run("a", 30)
    live = bucket.put(f"xcom/a/{run.run_id}/t")
    history.xcom(run, f"s3://{bucket.name}/{live}", age_days=30)
    kept = [
        *(bucket.put(f"xcom/{name}/r/t") for name in ("..", ".")),
        *(bucket.put(f"xcom/a/{name}/t") for name in ("..", ".", "x/..", "x//y")),
        bucket.put("xcom//r/t"),
        bucket.put("xcom/state/r/t"),
        bucket.put("/xcom/a/r/t"),
        *(bucket.put(f"{folder}/a/r/t") for folder in ("private", "xcom-of-others", "reports", "xcom-quarantine")),
    ]
    orphans = {
        *(bucket.put(f"xcom/{name}/r/t") for name in NAMES[2:] if name != "state"),
        *(bucket.put(f"xcom/a/{name}/t") for name in NAMES[2:]),
    }
    values: list[object] = [
        *(f"s3://{bucket.name}/{key}" for key in kept if not key.startswith("xcom/")),
        f"s3://another-bucket/{next(iter(orphans)).rpartition('/')[0]}",
        f"see s3://{bucket.name}/xcom/../private, ../../etc/passwd",
        {"bucket": bucket.name, "key": kept[-1]},
        {"bucket": "../..", "key": ".."},
    ]
    for number, value in enumerate(values):
        history.xcom(run, value, age_days=30, key=str(number))
    before, rows = bucket.keys(), history.rows()
    outcome = bundle.run(DAG, mode="enforce", disposal=disposal, delete_dangling_rows=True).succeeded()
    after = bucket.keys()
    assert before - after == orphans
    assert history.rows() == rows
    new = {key.split("/", 2)[2] for key in after - before}
    assert new == ({key.removeprefix("xcom/") for key in orphans} if disposal == "quarantine" else set())
    said = {row["key"] for row in outcome.table("Foreign, unowned and unrecognised objects")}
    assert {key.removeprefix("xcom/") for key in kept if key.startswith("xcom/")} <= said


def test_a_bucket_of_two_deployments_is_left_to_its_owner_and_the_report_says_why(
    bundle: Bundle, bucket: Bucket, history: History
) -> None:
    run = history.run("a", 30)
    history.xcom(run, f"s3://{bucket.name}/{bucket.put(f'xcom/a/{run.run_id}/t')}", age_days=30)
    for number in range(3):
        bucket.put(f"xcom/dag of the other {number}/r/t")
    orphan = bucket.put("xcom/a/gone/t")
    before = bucket.keys()
    first = bundle.run(DAG, mode="enforce", disposal="delete").succeeded()
    assert before - bucket.keys() == {orphan}
    assert first.report["headline"]["foreign_blobs"] == 3
    # The other one, with a marker of its own: nothing at all is touched.
    bucket.put("xcom/a/gone/t")
    marker = {"owner": "7000000000000000000/the_other"}
    bucket.client.put_object(Bucket=bucket.name, Key=MARKER, Body=json.dumps(marker).encode())
    before = bucket.keys()
    refused = bundle.run(DAG, mode="enforce", disposal="delete")
    assert "7000000000000000000/the_other" in str(refused.error)
    assert refused.report["objections"][0]["setting"] == "metadata_conn_id"
    assert bucket.keys() == before
