"""What holds on every store: it gives back what was written or says what is wrong, and deletes no more than asked."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from xcom_blob_backend import XComBlobBackend, store
from xcom_blob_backend.config import settings
from xcom_blob_backend.errors import BlobDamaged, BlobMisplaced, BlobMissing, BlobUndecryptable, StoreFailed

from local_stack.azure import Azurite
from local_stack.faults import Answer, FaultProxy
from local_stack.gcs import GcsEmulator
from tests.backend.conftest import KEYS, Configure, name_in, pull, push
from tests.backend.stored import Stored, in_bucket

VALUE = {"iban": "DE00 1234", "rows": list(range(200))}
SEALED = {"encryption_keys": f"new:{KEYS['new']}"}


def test_a_missing_blob_is_an_error(any_store: str) -> None:
    row = push([1])
    row["__data__"]["uri"] = row["__data__"]["uri"][:-10] + "000000.xcb"
    with pytest.raises(BlobMissing, match="is missing"):
        pull(row)


@pytest.mark.parametrize("options", [{}, SEALED], ids=["plain", "encrypted"])
def test_a_cut_blob_is_an_error(stored: Stored, any_store: str, configure: Configure, options: dict[str, str]) -> None:
    configure(**options)
    row = push(VALUE)
    name, whole = stored.one
    for length in (0, 1, 56, len(whole) // 2, len(whole) - 1):
        stored.write(name, whole[:length])
        with pytest.raises(BlobDamaged, match="is truncated: it has"):
            pull(row)
    stored.write(name, whole)
    assert pull(row) == VALUE


@pytest.mark.parametrize("options", [{}, SEALED], ids=["plain", "encrypted"])
def test_a_flipped_byte_is_an_error(
    stored: Stored, any_store: str, configure: Configure, options: dict[str, str]
) -> None:
    configure(**options)
    row = push(VALUE)
    name, whole = stored.one
    for position in (0, 8, 15, 23, 40, 60, 200, len(whole) - 1):
        stored.write(name, whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with pytest.raises(BlobDamaged):
            pull(row)


def test_a_blob_in_the_place_of_another_is_an_error(stored: Stored, any_store: str) -> None:
    one, two = push(["one"]), push(["two"])
    stored.write(name_in(two), stored.objects()[name_in(one)])
    with pytest.raises(BlobMisplaced, match="was written as"):
        pull(two)
    assert pull(one) == ["one"]


def test_without_the_right_key_nothing_is_read(stored: Stored, any_store: str, configure: Configure) -> None:
    configure(**SEALED)
    row = push(VALUE)
    assert b"DE00" not in stored.one[1]
    configure(encryption_keys=f"new:{KEYS['other']}")
    with pytest.raises(BlobUndecryptable):
        pull(row)


def test_a_purge_takes_the_blob_of_its_row_and_no_other(stored: Stored, any_store: str) -> None:
    gone, kept = push(["gone"]), push(["kept"])
    for _ in range(2):  # what is gone already is no error
        XComBlobBackend.purge(SimpleNamespace(value=gone))
        assert list(stored.objects()) == [name_in(kept)]
    with pytest.raises(BlobMissing):
        pull(gone)
    assert pull(kept) == ["kept"]


def test_a_blob_that_is_written_in_parts_comes_back_whole(
    stored: Stored, any_store: str, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any_store.startswith("gs"):
        pytest.skip("the emulator has no multipart uploads")
    monkeypatch.setattr(store, "_ONE_REQUEST_BYTES", 2**20)
    configure(compression="none")
    value = random.Random(1).randbytes(3_500_000).hex()
    assert pull(push(value)) == value
    assert len(stored.one[1]) > 7_000_000


def test_the_first_bytes_of_a_blob_can_be_had_however_short_it_is(stored: Stored, any_store: str) -> None:
    name, opened = name_in(push(VALUE)), store.store_for(settings().base)
    whole = stored.one[1]
    assert (opened.start(name, 100), opened.start(name, 1_000_000)) == (whole[:100], whole)
    stored.write(name, b"")
    assert opened.start(name, 100) == b""
    with pytest.raises(BlobMissing):
        opened.start(name[:-5] + "x" + name[-4:], 100)


def test_a_bucket_that_is_not_there_is_not_taken_for_a_missing_blob(
    stored: Stored, any_store: str, configure: Configure
) -> None:
    if any_store.startswith("file"):
        pytest.skip("a folder is made")
    row = push([1])
    row["__data__"]["uri"] = row["__data__"]["uri"].replace("bucket-", "no-bucket-")
    configure(path=any_store.replace("bucket-", "no-bucket-"))
    for attempt in (lambda: pull(row), lambda: push([1])):
        with pytest.raises(StoreFailed, match="there is no such bucket"):
            attempt()


# -- Google's and Azure's, when all does not go well; S3's are in test_store_trouble.py --------------------------------


@pytest.fixture(params=["gcs", "azurite"])
def proxy(request: pytest.FixtureRequest, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What stands between the backend and a store."""
    server: GcsEmulator | Azurite = request.getfixturevalue(request.param)
    with FaultProxy(server.endpoint) as found:
        path = in_bucket(server, monkeypatch, endpoint=found.endpoint).path
        configure(path=path, threshold=0, request_timeout_seconds=1, retry_timeout_seconds=2)
        yield found


def test_a_push_is_one_request_and_a_pull_is_another(proxy: FaultProxy) -> None:
    row = push(["x" * 9_000_000])
    assert [method for method, _ in proxy.seen] == ["PUT"]
    pull(row)
    assert [method for method, _ in proxy.seen] == ["PUT", "GET"]


@pytest.mark.parametrize("answer", [Answer(503), Answer(500), Answer(429), Answer(200, cut_after=0)], ids=str)
def test_a_store_that_throttles_or_hangs_up_is_asked_again(proxy: FaultProxy, answer: Answer) -> None:
    proxy.behave = lambda request, ask: answer if request.number in {1, 2, 4} else ask(request)
    assert pull(push([1])) == [1]
    assert [method for method, _ in proxy.seen] == ["PUT", "PUT", "PUT", "GET", "GET"]


def test_a_store_that_never_stops_throttling_is_an_error_in_time(proxy: FaultProxy) -> None:
    proxy.behave = lambda request, ask: Answer(503)
    with pytest.raises(StoreFailed, match=r"writing (gs|abfs)://blobs@bucket-.* failed: .*503"):
        push([1])
    assert len(proxy.seen) > 2


def test_a_store_that_does_not_answer_is_an_error_in_time(proxy: FaultProxy) -> None:
    row = push([1])
    proxy.behave = lambda request, ask: Answer(200, delay=20, cut_after=0)
    with pytest.raises(StoreFailed, match=r"reading (gs|abfs)://blobs@bucket-"):
        pull(row)


def test_an_answer_that_breaks_off_is_never_taken_for_a_value(proxy: FaultProxy) -> None:
    row = push([1])

    def cut(request: Any, ask: Any) -> Answer:
        answer = ask(request)
        return Answer(answer.status, answer.body, answer.headers, cut_after=len(answer.body) // 2)

    proxy.behave = cut
    with pytest.raises((StoreFailed, BlobDamaged)):
        pull(row)


@pytest.mark.parametrize("status", [401, 403])
def test_a_store_that_refuses_is_not_asked_again(proxy: FaultProxy, status: int) -> None:
    proxy.behave = lambda request, ask: Answer(status)
    with pytest.raises(StoreFailed):
        push([1])
    assert len(proxy.seen) == 1
