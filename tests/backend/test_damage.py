"""A blob that is not what was written is an error that says why; never a path, never None, never another value."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from xcom_blob_backend import header
from xcom_blob_backend.errors import (
    BackendNotConfigured,
    BlobDamaged,
    BlobMisplaced,
    BlobOutsideBasePath,
    BlobUndecryptable,
)
from xcom_blob_backend.header import Coordinates
from xcom_blob_backend.reference import BlobReference, SealedValue
from xcom_blob_backend.transfer import load

from tests.backend.conftest import AT, KEYS, Configure, files_in, pull, push

SECRET = {"iban": "DE00 1234", "rows": list(range(200))}


def the_file(folder: Path) -> Path:
    [file] = files_in(folder)
    return file


@pytest.mark.parametrize("keys", ["", f"new:{KEYS['new']}"], ids=["plain", "encrypted"])
def test_a_cut_blob_is_an_error_wherever_it_is_cut(on_files: Path, configure: Configure, keys: str) -> None:
    configure(encryption_keys=keys)
    row, file = push(SECRET), the_file(on_files)
    whole = file.read_bytes()
    for length in [0, 1, 7, 8, 9, 55, 56, 57, 100, len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(BlobDamaged, match="is truncated: it has"):
            pull(row)
    file.write_bytes(whole + b"x")
    with pytest.raises(BlobDamaged, match="1 more than expected"):
        pull(row)


@pytest.mark.parametrize("keys", ["", f"new:{KEYS['new']}"], ids=["plain", "encrypted"])
def test_a_flipped_bit_is_an_error_wherever_it_is(on_files: Path, configure: Configure, keys: str) -> None:
    configure(encryption_keys=keys)
    row, file = push(SECRET), the_file(on_files)
    whole = file.read_bytes()
    unseen = []
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << random.Random(position).randrange(8)
        file.write_bytes(damaged)
        try:
            pull(row)
            unseen.append(position)
        except BlobDamaged:
            pass
    # Three bytes of the prefix are kept for later; whoever changes them changes nothing.
    assert unseen == [9, 10, 11]


def test_a_checksum_that_was_made_to_fit_does_not_hide_a_change(on_files: Path, configure: Configure) -> None:
    configure(encryption_keys=f"new:{KEYS['new']}")
    row, file = push(SECRET), the_file(on_files)
    packed, _, payload = header.split(file.read_bytes(), "it")
    for position in range(0, len(payload), 7):
        changed = bytearray(payload)
        changed[position] ^= 1
        file.write_bytes(header.join(packed, bytes(changed)))
        with pytest.raises(BlobUndecryptable, match="tampered with"):
            pull(row)
    other = packed.replace(b'"task_id":"group.load"', b'"task_id":"group.lied"')
    assert other != packed
    file.write_bytes(header.join(other, bytes(payload)))
    with pytest.raises(BlobUndecryptable, match="tampered with"):
        pull(row)


def test_what_is_no_blob_at_all_is_an_error(on_files: Path) -> None:
    row = push([1])
    the_file(on_files).write_text('{"a": 1}')
    with pytest.raises(BlobDamaged, match="is not a blob of this XCom backend"):
        pull(row)


def test_a_blob_of_a_newer_format_says_so(on_files: Path) -> None:
    row, file = push([1]), the_file(on_files)
    content = bytearray(file.read_bytes())
    content[8] = 2
    file.write_bytes(content)
    with pytest.raises(BlobDamaged, match="newer version"):
        pull(row)


@pytest.mark.parametrize("keys", ["", f"new:{KEYS['new']}"], ids=["plain", "encrypted"])
def test_a_blob_in_the_place_of_another_is_an_error(on_files: Path, configure: Configure, keys: str) -> None:
    configure(encryption_keys=keys)
    push(["one"])
    one = the_file(on_files)
    row = push(["two"])
    [two] = set(files_in(on_files)) - {one}
    two.write_bytes(one.read_bytes())
    with pytest.raises(BlobMisplaced, match="was written as"):
        pull(row)


def test_a_blob_cannot_be_renamed_to_pass_for_another(on_files: Path, configure: Configure) -> None:
    configure(encryption_keys=f"new:{KEYS['new']}")
    push(["one"])
    one = the_file(on_files)
    row = push(["two"])
    [two] = set(files_in(on_files)) - {one}
    packed, _, payload = header.split(one.read_bytes(), "it")
    two.write_bytes(header.join(packed.replace(one.name.encode(), two.name.encode()), bytes(payload)))
    with pytest.raises(BlobUndecryptable, match="tampered with"):
        pull(row)


@pytest.mark.parametrize("threshold", [0, 100_000], ids=["blob", "inline"])
@pytest.mark.parametrize("other", [{"task_id": "x"}, {"dag_id": "x"}, {"run_id": "x"}, {"map_index": 3}, {"key": "x"}])
def test_a_row_that_got_the_reference_of_another_is_an_error(
    on_files: Path, configure: Configure, other: dict[str, Any], threshold: int
) -> None:
    configure(encryption_keys=f"new:{KEYS['new']}", encrypt_inline=True, threshold=threshold)
    row, mine = push(SECRET), {**AT, "key": "return_value"}
    assert load(row, Coordinates(**mine)) == SECRET
    with pytest.raises(BlobMisplaced, match="belongs to another XCom"):
        load(row, Coordinates(**{**mine, **other}))


@pytest.mark.parametrize("threshold", [0, 100_000], ids=["blob", "inline"])
def test_without_the_right_key_nothing_is_read(on_files: Path, configure: Configure, threshold: int) -> None:
    configure(encryption_keys=f"old:{KEYS['old']}", encrypt_inline=True, threshold=threshold)
    row = push(SECRET)
    assert "DE00" not in json.dumps(row)
    assert all(b"DE00" not in file.read_bytes() for file in files_in(on_files))

    configure(encryption_keys=f"new:{KEYS['new']}")
    with pytest.raises(BlobUndecryptable, match="the key 'old', which is not configured"):
        pull(row)
    configure(encryption_keys=f"old:{KEYS['other']}")
    with pytest.raises(BlobUndecryptable, match="the key 'old' has changed"):
        pull(row)
    configure(encryption_keys="", encrypt_inline=False)
    with pytest.raises(BlobUndecryptable, match="encryption_keys is not set"):
        pull(row)


@pytest.mark.parametrize("threshold", [0, 100_000], ids=["blob", "inline"])
def test_a_rotated_key_still_opens_what_it_sealed_and_seals_nothing_new(
    on_files: Path, configure: Configure, threshold: int
) -> None:
    configure(encryption_keys=f"old:{KEYS['old']}", encrypt_inline=True, threshold=threshold)
    before = push(SECRET)
    configure(encryption_keys=f"new:{KEYS['new']},old:{KEYS['old']}")
    assert pull(before) == SECRET
    after = push(SECRET)
    configure(encryption_keys=f"new:{KEYS['new']}")
    assert pull(after) == SECRET
    with pytest.raises(BlobUndecryptable):
        pull(before)


def test_what_was_written_before_encryption_stays_readable(on_files: Path, configure: Configure) -> None:
    row = push(SECRET)
    configure(encryption_keys=f"new:{KEYS['new']}")
    assert pull(row) == SECRET


def test_no_two_blobs_are_sealed_alike(on_files: Path, configure: Configure) -> None:
    configure(encryption_keys=f"new:{KEYS['new']}", compression="none")
    for _ in range(20):
        push([1])
    payloads = [bytes(header.split(file.read_bytes(), "it")[2]) for file in files_in(on_files)]
    assert len(set(payloads)) == 20


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "s3://bucket/x", None, 3, "file:///a/../b"])
def test_no_reference_makes_a_task_read_what_lies_elsewhere(on_files: Path, uri: Any) -> None:
    with pytest.raises(BlobOutsideBasePath):
        pull(BlobReference.row(uri=uri))


def test_no_reference_names_another_file_below_the_base_path(on_files: Path) -> None:
    on_files.mkdir()
    (on_files / "notes.txt").write_text("x")
    with pytest.raises(BlobOutsideBasePath):
        pull(BlobReference.row(uri=f"file://{on_files}/notes.txt"))


@pytest.mark.parametrize("sealed", ["", "!", "AAAA", None, base64.b64encode(b"x" * 80).decode()])
def test_a_damaged_inline_value_is_an_error(on_files: Path, sealed: Any) -> None:
    with pytest.raises(BlobDamaged):
        pull(SealedValue.row(sealed=sealed))


def test_former_base_paths_stay_readable(on_files: Path, configure: Configure, tmp_path: Path) -> None:
    row = push([1])
    configure(path=f"file://{tmp_path}/elsewhere")
    with pytest.raises(BlobOutsideBasePath, match="also_read"):
        pull(row)
    configure(also_read=f"file://{on_files}")
    assert pull(row) == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, r"\[xcom_blob_backend\] path is not set"),
        ({"path": "s3://bucket"}, "a dedicated prefix"),
        ({"path": "s3://bucket/a/../b"}, "'..'"),
        ({"path": "ftp://bucket/x"}, "s3, gs, abfs or file"),
        ({"path": "s3://key:secret@bucket/x"}, "not a Connection id"),
        ({"compression": "brotli"}, "not one of zstd, gzip, lz4, none"),
        ({"threshold": "-1"}, "threshold"),
        ({"threshold": "48 KB"}, "threshold"),
        ({"encrypt_inline": "true"}, "no encryption_keys"),
        ({"encrypt_inline": "perhaps"}, "must be true or false"),
        ({"encryption_keys": "new"}, "entry 1 does not have the form id:key"),
        ({"encryption_keys": "new:c2VjcmV0"}, "'new' is not 32 bytes"),
        ({"encryption_keys": f"new:{KEYS['new']},new:{KEYS['old']}"}, "occurs twice"),
        ({"encryption_keys_file": "/nowhere"}, "cannot be read"),
    ],
)
def test_a_setting_that_cannot_be_used_is_an_error_that_names_it_and_shows_no_key(
    on_files: Path, configure: Configure, options: dict[str, str], message: str
) -> None:
    configure(**options)
    with pytest.raises(BackendNotConfigured, match=message) as caught:
        push([1])
    assert "c2VjcmV0" not in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_keys_can_come_from_a_file(on_files: Path, configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"new:{KEYS['new']}\nold:{KEYS['old']}\n")
    configure(encryption_keys_file=tmp_path / "keys")
    assert pull(push(SECRET)) == SECRET
    assert b'"key_id":"new"' in the_file(on_files).read_bytes()
