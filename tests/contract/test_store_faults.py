"""Between the S3 adapter and a real server: rate limits, broken connections, lost bodies, expired credentials."""

from __future__ import annotations

import random
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from botocore.config import Config

from include.xcom_maintenance.blobs import canary
from include.xcom_maintenance.blobs.azure import AzureBlobStore
from include.xcom_maintenance.blobs.canary import CANARY_PREFIX
from include.xcom_maintenance.blobs.gcs import GcsBlobStore
from include.xcom_maintenance.blobs.port import BlobStore, DeleteResult
from include.xcom_maintenance.blobs.s3.delete import Conditions
from include.xcom_maintenance.blobs.s3.requests import impatient, patient
from include.xcom_maintenance.blobs.s3.store import S3BlobStore
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError, StoreUnavailable
from local_stack.faults import Answer, FaultProxy, Request, s3_error
from local_stack.s3 import MotoS3

PAGE = 20
KEYS = [f"d/r/t/{number:03}" for number in range(3 * PAGE + 7)]
Ask = Callable[[Request], Answer]


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary.random, "uniform", lambda *_: 0.01)


class Behind:
    """A store whose requests go through a proxy; ``bucket`` and ``client`` go around it."""

    def __init__(self, server: MotoS3) -> None:
        self.proxy = FaultProxy(server.endpoint)
        self.client = server.client()
        self.bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=self.bucket)
        self.store = self.open(server)

    def open(self, server: MotoS3, *, page_size: int = PAGE, read_timeout: float = 3) -> S3BlobStore:
        def client(config: Config) -> Any:
            options = {name: getattr(config, name) for name in ("retries",)}
            return server.client(endpoint=self.proxy.endpoint, read_timeout=read_timeout, **options)

        return S3BlobStore(
            client(patient(Config())),
            BasePath.parse(f"s3://{self.bucket}/xcom", setting="blob_base_path"),
            setting="blob_base_path",
            deleting_client=client(impatient(Config())),
            page_size=page_size,
        )

    def fill(self, keys: list[str]) -> None:
        for key in keys:
            self.client.put_object(Bucket=self.bucket, Key=f"xcom/{key}", Body=key.encode())

    def left(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [item["Key"].removeprefix("xcom/") for page in pages for item in page.get("Contents", ())]


@pytest.fixture
def behind(moto: MotoS3) -> Iterator[Behind]:
    found = Behind(moto)
    found.fill(KEYS)
    yield found
    found.proxy.stop()


def test_nothing_is_written_without_the_checksum_that_buckets_with_object_lock_ask_for(moto: MotoS3) -> None:
    """Even where the Connection asks for none."""
    behind = Behind(moto)
    seen: list[set[str]] = []

    def behave(request: Request, ask: Ask) -> Answer:
        if request.method == "PUT":
            seen.append({name.lower() for name in request.headers})
        return ask(request)

    behind.proxy.behave = behave
    client = moto.client(endpoint=behind.proxy.endpoint, request_checksum_calculation="when_required")
    store = S3BlobStore(client, behind.store.base, setting="blob_base_path")
    store.put("marker", b"{}")
    store.honours_conditions()
    behind.proxy.stop()
    assert len(seen) > 1
    assert all("x-amz-checksum-sha256" in names for names in seen)


def is_listing(request: Request) -> bool:
    return request.method == "GET" and "list-type=2" in request.path


def is_second_page(request: Request) -> bool:
    return is_listing(request) and "continuation-token" in request.path


# -- a listing that is cut short ------------------------------------------------------------


def lost_body(request: Request, ask: Ask) -> Answer:
    return replace(ask(request), body=b"")


def half_a_body(request: Request, ask: Ask) -> Answer:
    answer = ask(request)
    return replace(answer, cut_after=len(answer.body) // 2)


def half_a_body_as_if_whole(request: Request, ask: Ask) -> Answer:
    answer = ask(request)
    return replace(answer, body=answer.body[: len(answer.body) // 2])


def no_answer(request: Request, ask: Ask) -> Answer:
    return Answer(200, cut_after=0)


def no_end_mark(request: Request, ask: Ask) -> Answer:
    answer = ask(request)
    return replace(answer, body=re.sub(rb"<IsTruncated>\w+</IsTruncated>", b"", answer.body))


def no_token(request: Request, ask: Ask) -> Answer:
    answer = ask(request)
    return replace(answer, body=re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", answer.body))


def expired(request: Request, ask: Ask) -> Answer:
    return s3_error(400, "ExpiredToken")


def denied(request: Request, ask: Ask) -> Answer:
    return s3_error(403, "AccessDenied")


def gone(request: Request, ask: Ask) -> Answer:
    return s3_error(404, "NoSuchBucket")


def unavailable(request: Request, ask: Ask) -> Answer:
    return s3_error(503, "SlowDown")


BREAKS: dict[Callable[[Request, Ask], Answer], type[MaintenanceError]] = {
    lost_body: StoreUnavailable,
    half_a_body: StoreUnavailable,
    half_a_body_as_if_whole: StoreUnavailable,
    no_answer: StoreUnavailable,
    no_end_mark: StoreUnavailable,
    no_token: StoreUnavailable,
    unavailable: StoreUnavailable,
    expired: ConfigurationError,
    denied: ConfigurationError,
    gone: ConfigurationError,
}


@pytest.mark.parametrize("fault", BREAKS, ids=lambda fault: fault.__name__)
def test_a_listing_cut_short_is_never_taken_for_complete(
    behind: Behind, fault: Callable[[Request, Ask], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    behind.proxy.behave = lambda request, ask: (fault if is_second_page(request) else faithfully)(request, ask)
    listing = behind.store.list()
    assert [next(listing).key for _ in range(PAGE)] == KEYS[:PAGE]
    with pytest.raises(BREAKS[fault], match="blob_base_path"):
        next(listing)


def faithfully(request: Request, ask: Ask) -> Answer:
    return ask(request)


@pytest.mark.parametrize("fault", [half_a_body, no_answer, unavailable], ids=lambda fault: fault.__name__)
def test_a_fault_that_passes_leaves_no_gap_in_a_listing(
    behind: Behind, fault: Callable[[Request, Ask], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    left = [3]

    def behave(request: Request, ask: Ask) -> Answer:
        if is_second_page(request) and left[0]:
            left[0] -= 1
            return fault(request, ask)
        return ask(request)

    behind.proxy.behave = behave
    assert [blob.key for blob in behind.store.list()] == KEYS
    assert left == [0]


@pytest.mark.parametrize("fault", [lost_body, half_a_body_as_if_whole], ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("kind", ["gcs", "azurite"])
def test_a_listing_cut_short_elsewhere_is_never_taken_for_complete(
    request: pytest.FixtureRequest, kind: str, fault: Callable[[Request, Ask], Answer]
) -> None:
    server, name = request.getfixturevalue(kind), f"bucket-{uuid.uuid4().hex[:12]}"

    def behave(request: Request, ask: Ask) -> Answer:
        return (fault if "pageToken=" in request.path or "marker=" in request.path else faithfully)(request, ask)

    store: BlobStore
    with FaultProxy(server.endpoint, behave) as proxy:
        if kind == "gcs":
            server.client().create_bucket(name)
            client = server.client(proxy.endpoint)
            base = BasePath.parse(f"gs://{name}/xcom", setting="blob_base_path")
            store = GcsBlobStore(client, base, setting="blob_base_path", page_size=3)
        else:
            server.client().create_container(name)
            client = server.client(proxy.endpoint, retry_total=0)
            base = BasePath.parse(f"abfs://{name}/xcom", setting="blob_base_path")
            store = AzureBlobStore(client, base, setting="blob_base_path", page_size=3)
        for key in KEYS[:8]:
            store.put(key, b"x")
        with pytest.raises(StoreUnavailable, match="blob_base_path"):
            list(store.list())
        proxy.behave = faithfully
        assert [blob.key for blob in store.list()] == KEYS[:8]


# -- rate limits ----------------------------------------------------------------------------


def test_five_percent_of_503_and_broken_connections_lose_nothing_and_delete_everything(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    dice, lock, faults = random.Random(5), threading.Lock(), []

    def behave(request: Request, ask: Ask) -> Answer:
        with lock:
            roll = dice.random()
        if roll < 0.05:
            faults.append("503")
            return s3_error(503, "SlowDown")
        if roll < 0.07:
            faults.append("reset before")
            return Answer(200, cut_after=0)
        answer = ask(request)
        if roll < 0.09:
            faults.append("reset after")  # it was done, and nobody was told
            return replace(answer, cut_after=0)
        return replace(answer, delay=0.3) if roll < 0.10 else answer

    behind.proxy.behave = behave
    for _ in range(3):
        blobs = list(behind.store.list())
        assert [blob.key for blob in blobs] == KEYS
    kept, doomed = blobs[::3], [blob for number, blob in enumerate(blobs) if number % 3]
    deletions = list(behind.store.delete_unchanged(doomed))
    assert {(d.blob.key, d.result) for d in deletions} == {(blob.key, DeleteResult.DELETED) for blob in doomed}
    assert len(deletions) == len(doomed)
    assert behind.left() == [blob.key for blob in kept]
    assert {"503", "reset before", "reset after"} <= set(faults)


class Batches:
    """A server like AWS, which no server here is: it honours ETags in batches, and says of each object what it did.

    :param says: key -> the code that the object gets; asked each time.
    """

    def __init__(self, behind: Behind, says: Callable[[str], str | None] = lambda key: None) -> None:
        self.behind, self.says, self.calls = behind, says, 0

    def __call__(self, request: Request, ask: Ask) -> Answer:
        if request.method == "DELETE" and "if-match" in {name.lower() for name in request.headers}:
            raise AssertionError("where batches are honoured nothing is deleted one by one")
        if not (request.method == "POST" and "?delete" in request.path):
            return ask(request)
        self.calls += 1
        parts = []
        for found in re.findall(rb"<Object>(.*?)</Object>", request.body, re.DOTALL):
            key = re.search(rb"<Key>(.*?)</Key>", found).group(1).decode()  # type: ignore[union-attr]
            etag = re.search(rb"<ETag>(.*?)</ETag>", found)
            wanted = etag.group(1).decode().replace("&quot;", "").strip('"') if etag else None
            code = self.says(key.removeprefix("xcom/")) or self._delete(key, wanted)
            parts.append(
                f"<Error><Key>{key}</Key><Code>{code}</Code></Error>"
                if code
                else f"<Deleted><Key>{key}</Key></Deleted>"
            )
        body = f'<?xml version="1.0"?><DeleteResult>{"".join(parts)}</DeleteResult>'
        return Answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _delete(self, key: str, wanted: str | None) -> str | None:
        client, bucket = self.behind.client, self.behind.bucket
        listed = client.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
        etags = [item["ETag"].strip('"') for item in listed if item["Key"] == key]
        if wanted is not None and etags != [wanted]:
            return "PreconditionFailed" if etags else "NoSuchKey"
        client.delete_object(Bucket=bucket, Key=key)
        return None


def test_an_object_that_the_store_is_too_busy_for_is_tried_again_and_others_are_reported(behind: Behind) -> None:
    busy = {KEYS[3]: ["SlowDown", "InternalError"], KEYS[5]: ["SlowDown"] * 100, KEYS[7]: ["AccessDenied"]}

    def says(key: str) -> str | None:
        return busy[key].pop(0) if busy.get(key) else None

    behind.proxy.behave = Batches(behind, says)
    deletions = {d.blob.key: d for d in behind.store.delete_unchanged(list(behind.store.list())[:10])}
    assert behind.store.honours_conditions()
    assert deletions[KEYS[3]].result is DeleteResult.DELETED
    for key, word in ((KEYS[5], "SlowDown"), (KEYS[7], "AccessDenied")):
        assert (deletions[key].result, deletions[key].detail) == (DeleteResult.FAILED, word)
    assert behind.left() == [KEYS[5], KEYS[7], *KEYS[10:]]


def test_a_blob_that_is_written_again_while_the_store_is_too_busy_is_not_deleted(behind: Behind) -> None:
    def says(key: str) -> str | None:
        if key == KEYS[3]:
            write_again(key)
            return "SlowDown"
        return None

    written: list[str] = []

    def write_again(key: str) -> None:
        if not written:
            written.append(key)
            behind.client.put_object(Bucket=behind.bucket, Key=f"xcom/{key}", Body=b"new")

    behind.proxy.behave = Batches(behind, says)
    deletions = {d.blob.key: d.result for d in behind.store.delete_unchanged(list(behind.store.list())[:10])}
    assert deletions.pop(KEYS[3]) is DeleteResult.CHANGED
    assert set(deletions.values()) == {DeleteResult.DELETED}
    assert KEYS[3] in behind.left()


# -- conditions -----------------------------------------------------------------------------


@pytest.mark.parametrize("conditions", [Conditions.IN_BATCHES, Conditions.ONE_BY_ONE])
def test_a_blob_that_is_written_again_after_it_was_verified_is_not_deleted(
    behind: Behind, conditions: Conditions
) -> None:
    batches = Batches(behind) if conditions is Conditions.IN_BATCHES else faithfully
    armed = False

    def behave(request: Request, ask: Ask) -> Answer:
        nonlocal armed
        answer = batches(request, ask)
        if armed and is_listing(request):  # which is how they are verified
            armed = False
            behind.client.put_object(Bucket=behind.bucket, Key=f"xcom/{KEYS[3]}", Body=b"new")
        return answer

    behind.proxy.behave = behave
    assert behind.store.honours_conditions()
    blobs = list(behind.store.list())[:10]
    armed = True
    deletions = {d.blob.key: d.result for d in behind.store.delete_unchanged(blobs)}
    assert not armed
    assert deletions.pop(KEYS[3]) is DeleteResult.CHANGED
    assert set(deletions.values()) == {DeleteResult.DELETED}
    assert behind.left() == [KEYS[3], *KEYS[10:]]


def test_a_store_too_busy_to_refuse_the_canary_is_not_believed_to_honour_conditions(behind: Behind) -> None:
    """Of a canary that is still there because nothing was tried, nothing follows."""
    refusals = []

    def behave(request: Request, ask: Ask) -> Answer:
        if request.method == "POST" and "?delete" in request.path and not refusals:
            refusals.append(request)
            key = f"xcom/{CANARY_PREFIX}"
            found = re.search(rf"<Key>({re.escape(key)}\w+)</Key>".encode(), request.body)
            assert found
            body = f"<DeleteResult><Error><Key>{found[1].decode()}</Key><Code>SlowDown</Code></Error></DeleteResult>"
            return Answer(200, body.encode(), {"Content-Type": "application/xml"})
        if request.method == "DELETE" and "if-match" in {name.lower() for name in request.headers}:
            stripped = {name: value for name, value in request.headers.items() if name.lower() != "if-match"}
            return ask(replace(request, headers=stripped))
        return ask(request)

    behind.proxy.behave = behave
    assert not behind.store.honours_conditions()
    assert refusals
    assert behind.left() == KEYS


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_read_only_credentials_name_the_rights_when_something_is_to_be_deleted(behind: Behind, method: str) -> None:
    def behave(request: Request, ask: Ask) -> Answer:
        deletes = request.method == "POST" and "?delete" in request.path
        return s3_error(403, "AccessDenied") if request.method == method or deletes else ask(request)

    behind.proxy.behave = behave
    behind.store.check()
    blobs = list(behind.store.list())  # reporting needs no more
    with pytest.raises(ConfigurationError, match="to enforce, writing and deleting"):
        list(behind.store.delete_unchanged(blobs))
    assert [key for key in behind.left() if not key.startswith(CANARY_PREFIX)] == KEYS


def test_blobs_that_lie_close_together_are_verified_by_pages_and_not_one_by_one(behind: Behind, moto: MotoS3) -> None:
    store = behind.open(moto, page_size=50, read_timeout=60)  # moto may be slow, and a second try is not meant here
    behind.proxy.behave = Batches(behind)
    store.honours_conditions()
    blobs = list(store.list())
    behind.proxy.seen.clear()
    assert {d.result for d in store.delete_unchanged(blobs)} == {DeleteResult.DELETED}
    assert [method for method, _ in behind.proxy.seen] == ["GET", "GET", "POST"]
