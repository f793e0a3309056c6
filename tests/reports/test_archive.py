"""The archive of deleted rows: whole and durable, or not there at all; read as far as it goes."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import pytest

from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError, StoreUnavailable
from include.xcom_maintenance.reports.archive import Archives
from include.xcom_maintenance.reports.archive_file import parse_row
from local_stack.s3 import RcloneS3
from tests.support.bundle import environment

FROM = {"database": "1/airflow", "dag_id": "xcom_cleanup", "run_id": "manual/1"}
FOLDER = "xcom_cleanup/manual_1"


def line(number: int = 0, value: str = "1", dag_id: str = "d") -> str:
    place = f'"dag_run_id":7,"task_id":"t","map_index":-1,"key":"k{number}","dag_id":"{dag_id}","run_id":"r"'
    return (
        f'{{"kind":"row","sql_null":false,"row":{{{place},"value":{value},"timestamp":"2026-01-01T00:00:00+00:00"}}}}\n'
    )


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    from airflow.sdk import ObjectStoragePath

    if request.param == "file":
        yield ObjectStoragePath(f"file://{tmp_path}/archive")
        return
    server: RcloneS3 = request.getfixturevalue("rclone")
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    server.client().create_bucket(Bucket=bucket)
    conn_id = f"archive_{uuid.uuid4().hex[:8]}"
    with environment({f"AIRFLOW_CONN_{conn_id.upper()}": server.airflow_connection_json()}):
        yield ObjectStoragePath(f"s3://{conn_id}@{bucket}/archive")


@pytest.fixture
def local(tmp_path: Path) -> Any:
    from airflow.sdk import ObjectStoragePath

    return ObjectStoragePath(f"file://{tmp_path}/archive")


def write(root: Any, name: str = "shard-0-000001", *, rows: int = 3) -> str:
    with Archives(root).write(name, **FROM) as sink:
        for number in range(rows):
            sink.add(line(number).encode())
    assert sink.path is not None
    return sink.path


def names(root: Any) -> list[str]:
    """Every file below the root, hidden ones too."""
    root.fs.invalidate_cache()
    folder = root.path.rstrip("/")
    # While parts are uploaded, a bucket without a file yet answers with the folder itself.
    found = (path for path in root.fs.find(folder) if path != folder)
    return sorted(path.removeprefix(folder + "/") for path in found)


def read(root: Any, text: str = FOLDER, **options: Any) -> list[list[str]]:
    return [
        [row.key for row in batch]
        for file in Archives(root).find(text)
        for batch in file.batches(**{"max_rows": 100, "max_bytes": 10_000_000, **options})
    ]


def test_rows_come_back_as_they_were_written(root: Any) -> None:
    path = write(root)
    assert path.endswith(f"{FOLDER}/shard-0-000001.jsonl.gz")
    assert names(root) == [f"{FOLDER}/shard-0-000001.jsonl.gz"]
    [file] = Archives(root).find(FOLDER)
    header = file.header()
    assert header is not None
    assert (header.database, header.dag_id, header.run_id) == ("1/airflow", "xcom_cleanup", "manual/1")
    [rows] = file.batches(max_rows=10, max_bytes=10**6)
    assert [row.line for row in rows] == [line(number) for number in range(3)]
    assert (file.rows, file.cut_short) == (3, False)


def test_the_file_is_json_lines_with_a_header_and_an_end(local: Any, tmp_path: Path) -> None:
    write(local)
    lines = gzip.decompress((tmp_path / "archive" / FOLDER / "shard-0-000001.jsonl.gz").read_bytes()).splitlines()
    kinds = [json.loads(text)["kind"] for text in lines]
    assert kinds == ["header", "row", "row", "row", "end"]
    assert json.loads(lines[-1]) == {"kind": "end", "rows": 3}


def test_no_row_is_lost_of_many(local: Any) -> None:
    lines = [line(number, '"' + "x" * number + '"') for number in range(3_000)]
    with Archives(local).write("a", **FROM) as sink:
        for text in lines:
            sink.add(text.encode())
        assert sink.rows == 3_000
    [file] = Archives(local).find(FOLDER)
    assert [row.line for batch in file.batches(max_rows=1_000, max_bytes=10**9) for row in batch] == lines


def test_another_attempt_never_overwrites_an_archive(root: Any) -> None:
    assert [write(root, rows=rows).rsplit("/", 1)[1] for rows in (1, 2, 3)] == [
        "shard-0-000001.jsonl.gz", "shard-0-000001-2.jsonl.gz", "shard-0-000001-3.jsonl.gz",
    ]  # fmt: skip
    assert sorted(len(keys) for keys in read(root)) == [1, 2, 3]


def test_two_attempts_at_once_never_overwrite_each_other(root: Any) -> None:
    archives = Archives(root)
    try:
        with archives.write("a", **FROM) as first:
            first.add(line(1).encode())
            with archives.write("a", **FROM) as second:
                second.add(line(2).encode())
    except StoreUnavailable:  # an object store: the first gives way, and its transaction is rolled back
        assert read(root) == [["k2"]]
    else:
        assert sorted(read(root)) == [["k1"], ["k2"]]


@pytest.mark.parametrize("size", [100, 60_000_000])
def test_an_archive_that_was_not_finished_never_takes_the_name_of_one(root: Any, size: int) -> None:
    """Also where parts of it have been uploaded already."""
    with pytest.raises(KeyboardInterrupt), Archives(root).write("a", **FROM) as sink:  # noqa: PT012 - the whole block is what breaks off
        sink.add(line().encode())
        for _ in range(size // 1_000_000):
            sink.add(os.urandom(1_000_000))
        assert names(root) in ([], [n for n in names(root) if n.endswith(".partial")])
        raise KeyboardInterrupt
    import gc

    gc.collect()
    assert names(root) == []


def test_a_file_of_a_writer_that_was_killed_is_not_read(local: Any, tmp_path: Path) -> None:
    write(local)
    (tmp_path / "archive" / FOLDER / ".shard-0-000002.abc.partial").write_bytes(b"half")
    assert read(local) == [["k0", "k1", "k2"]]


def test_an_archive_is_flushed_to_the_disk_before_it_has_its_name(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "link", lambda *names: (calls.append("link"), link(*names))[1])
    write(local)
    assert calls[-3:] == ["fsync", "link", "fsync"]


def test_an_archive_works_where_there_are_no_links(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    write(local)
    write(local, rows=1)
    assert sorted(len(keys) for keys in read(local)) == [1, 3]
    assert len(names(local)) == 2


def test_batches_are_bounded_by_rows_and_bytes(local: Any) -> None:
    with Archives(local).write("a", **FROM) as sink:
        for number, size in enumerate((10, 10, 10, 5_000, 10, 10)):
            sink.add(line(number, json.dumps("x" * size)).encode())
    assert read(local, max_rows=2) == [["k0", "k1"], ["k2", "k3"], ["k4", "k5"]]
    assert read(local, max_bytes=700) == [["k0", "k1", "k2"], ["k3"], ["k4", "k5"]]


def test_only_what_is_wanted_comes(local: Any) -> None:
    with Archives(local).write("a", **FROM) as sink:
        for number, dag_id in enumerate(("a", "b", "a")):
            sink.add(line(number, dag_id=dag_id).encode())
    assert read(local, wanted=lambda dag_id, run_id, task_id: dag_id == "a") == [["k0", "k2"]]


def test_writing_and_reading_takes_constant_memory(local: Any) -> None:
    piece = [line(number, json.dumps("x" * 10_000)).encode() for number in range(100)]
    tracemalloc.start()
    with Archives(local).write("a", **FROM) as sink:
        for text in piece * 60:
            sink.add(text)
    [file] = Archives(local).find(FOLDER)
    rows = sum(len(batch) for batch in file.batches(max_rows=1_000, max_bytes=2_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 6_000
    assert peak < 25_000_000 < 60 * sum(map(len, piece))


@pytest.mark.parametrize("keep", [0, 2, 15, 40, 0.5, 0.9, -30, -9, -1])
def test_of_an_archive_that_is_cut_short_comes_what_can_be_read(local: Any, tmp_path: Path, keep: float) -> None:
    with Archives(local).write("a", **FROM) as sink:
        for number in range(5_000):
            sink.add(line(number, json.dumps(uuid.uuid4().hex * 20)).encode())
    path = tmp_path / "archive" / FOLDER / "a.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    [file] = Archives(local).find(FOLDER)
    rows = [row.key for batch in file.batches(max_rows=500, max_bytes=10**6) for row in batch]
    assert rows == [f"k{number}" for number in range(len(rows))]
    # Of the trailer of gzip nothing is needed once the end line was read.
    assert file.cut_short or len(rows) == 5_000
    if keep in {0.5, 0.9}:
        assert file.cut_short
        assert len(rows) > 1_000


def test_an_archive_that_is_damaged_is_read_up_to_there(local: Any, tmp_path: Path) -> None:
    with Archives(local).write("a", **FROM) as sink:
        for number in range(5_000):
            sink.add(line(number, json.dumps(uuid.uuid4().hex * 20)).encode())
    path = tmp_path / "archive" / FOLDER / "a.jsonl.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = os.urandom(len(content) - len(content) // 2)
    path.write_bytes(content)
    [file] = Archives(local).find(FOLDER)
    try:
        assert sum(len(batch) for batch in file.batches(max_rows=500, max_bytes=10**6)) < 5_000
        assert file.cut_short
    except ConfigurationError as error:  # noise that is compressed text by chance
        assert "is not a row" in str(error)  # noqa: PT017 - it need not be raised


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain text, not compressed", "not gzip-compressed"),
        (gzip.compress(b"a,b\n1,secret\n"), "it has no header"),
        (gzip.compress(b'{"kind":"header",oops}\n'), "it has no header"),
        (gzip.compress(b'{"kind":"header","format":2,"database":"","dag_id":"","run_id":"","archived_at":""}\n'),
         "has an unknown format"),
        (gzip.compress(b'{"kind":"header","format":1,"database":"","dag_id":"","run_id":"","archived_at":""}\n'
                       b'{"kind":"row","sql_null":false,"row":{"value":"secret"}}\n'), "line 2 is not a row"),
    ],
    ids=["plain", "no_header", "no_json", "another_format", "no_row"],
)  # fmt: skip
def test_a_file_that_is_no_archive_is_named_and_not_shown(
    local: Any, tmp_path: Path, content: bytes, message: str
) -> None:
    write(local)
    (tmp_path / "archive" / FOLDER / "shard-0-000001.jsonl.gz").write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read(local)
    assert "secret" not in str(caught.value)
    assert "shard-0-000001.jsonl.gz" in str(caught.value)


def test_what_there_is_is_said_where_nothing_was_chosen(root: Any) -> None:
    with pytest.raises(ConfigurationError, match=": nothing"):
        Archives(root).find(None)
    write(root)
    for text in (None, "", "xcom_cleanup/no-such-run", "../elsewhere", "/absolute"):
        with pytest.raises(ConfigurationError, match=f": {FOLDER}"):
            Archives(root).find(text)


def test_one_file_a_folder_and_everything_can_be_chosen(root: Any) -> None:
    write(root, "a", rows=1)
    write(root, "b", rows=2)
    assert read(root, f"{FOLDER}/b.jsonl.gz") == [["k0", "k1"]]
    assert read(root, str(root / FOLDER)) == read(root, "xcom_cleanup/") == [["k0"], ["k0", "k1"]]


def test_an_archive_path_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    from airflow.sdk import ObjectStoragePath

    (tmp_path / "file").write_text("")
    for root in (None, ObjectStoragePath(f"file://{tmp_path}/file/archive")):
        with pytest.raises(ConfigurationError, match="archive_path"), Archives(root).write("a", **FROM):
            pass


def test_without_an_archive_path_only_addresses_can_be_read(local: Any) -> None:
    write(local)
    with pytest.raises(ConfigurationError, match="archive_path, which is not set"):
        Archives(None).find(FOLDER)
    assert len(Archives(None).find(str(local / FOLDER))) == 1


# -- rows --------------------------------------------------


def test_the_value_of_a_row_is_read_only_if_it_is_a_short_text() -> None:
    assert parse_row(line(value='"s3://b/\\u00e4"')).text == "s3://b/ä"
    for value in ("1", "null", '{"run_id": "x"}', "[" * 5_000 + "]" * 5_000, '"' + "x" * 5_000 + '"', "9" * 5_000):
        assert parse_row(line(value=value)).text is None
        assert "xxx" not in repr(parse_row(line(value=value)))


def test_the_order_of_the_columns_does_not_matter() -> None:
    value = json.dumps({"dag_id": "no", "b": ['}"]\\', {"run_id": 'a"}]'}]})
    row = parse_row(
        f'{{"kind":"row","sql_null":false,"row":{{"value":{value},"dag_result":null,"key":"k","run_id":"r",'
        '"timestamp":"x","map_index":12,"task_id":"t","dag_id":"ä\\"}"}}\n'
    )
    assert (row.dag_id, row.run_id, row.task_id, row.map_index, row.key) == ('ä"}', "r", "t", 12, "k")


@pytest.mark.parametrize("wrong", ["", "{}", line()[:60], line().replace('"r"', "5"), line().replace("-1", '"1"')])
def test_what_is_no_row_is_an_error_of_a_kind_that_is_expected(wrong: str) -> None:
    with pytest.raises((ValueError, KeyError, IndexError)):
        parse_row(wrong)


def test_errors_are_ours(local: Any) -> None:
    with pytest.raises(MaintenanceError):
        Archives(local).find("nonsense://x/y")
