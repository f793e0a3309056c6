"""Reconciliation against what it cannot do without: the bare listing, the bare references, bare deletes.

100,000 blobs behind ``rclone serve s3`` on this machine, most of them referenced; and the merge alone, over entries
that are made up as they are asked for.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from include.xcom_maintenance.blobs.s3.store import S3BlobStore
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.records import Blob, RowReference
from include.xcom_maintenance.reconciliation.merge import match
from local_stack.postgres import PostgresServer, migrate
from local_stack.s3 import RcloneS3

BLOBS, DELETED = 100_000, 20_000
DATABASE, BUCKET, PREFIX = "bench_reconcile", "bench", "xcom/"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
_T = TypeVar("_T")


def run(server: PostgresServer, say: Callable[[str], None]) -> dict[str, float]:
    """The figures for ``build/bench.json``."""
    figures = _merge(say)
    server.create_database(DATABASE)
    migrate(server.url(DATABASE))
    with tempfile.TemporaryDirectory(prefix="bench-s3-") as folder, RcloneS3(Path(folder)) as s3:
        try:
            return figures | _against_servers(server, s3, say)
        finally:
            server.drop_database(DATABASE)


# -- the merge alone --------------------------------------------------


def _merge(say: Callable[[str], None]) -> dict[str, float]:
    """In a process of its own, whose memory nothing else has touched."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reconcile"],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    figures = dict(json.loads(done.stdout.splitlines()[-1]))
    say("  merge of 1,000,000 + 1,000,000 entries: {reconcile_merge_million_pairs_s:.2f} s".format(**figures))
    return figures


def _merge_pairs(count: int) -> float:
    """Seconds; nine blobs in ten are referenced, and nine references in ten have a blob."""

    def key(number: int) -> str:
        return f"dag_{number // 100_000:03}/run/task/{number:08x}-0000-4000-8000-000000000000"

    blobs = (Blob(key(n), 1, WHEN, "v") for n in range(count) if n % 10)
    references = (
        RowReference(key(n), "d", "r", "t", -1, "k", WHEN, "xcom", 100, True) for n in range(count) if n % 10 != 5
    )
    making = 0.0

    def some(entries: Iterator[_T]) -> Iterator[_T]:
        """The entries, made some thousands at a time; that takes longer than to merge them, and counts apart."""
        nonlocal making
        while True:
            started = time.monotonic()
            made = list(islice(entries, 5_000))
            making += time.monotonic() - started
            if not made:
                return
            yield from made

    started = time.monotonic()
    for _ in match(some(blobs), some(references), modified_before=WHEN + timedelta(days=1)):
        pass
    return time.monotonic() - started - making


def main() -> None:
    _merge_pairs(100_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = _merge_pairs(1_111_111)  # a million of each
    _merge_pairs(5_000_000)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    json.dump({"reconcile_merge_million_pairs_s": seconds, "reconcile_rss_growth_mb": growth / 1024}, sys.stdout)


# -- against real servers --------------------------------------------------


def _against_servers(server: PostgresServer, s3: RcloneS3, say: Callable[[str], None]) -> dict[str, float]:
    logging.disable(logging.INFO)
    client = s3.client()
    client.create_bucket(Bucket=BUCKET)
    with server.connect(DATABASE) as connection:
        places = [_place(number) for number in range(BLOBS)]
        keys = _fill(connection, [f"{place}/{uuid.uuid4()}" for place in places if not _is_gone(place)])
        orphans = [f"{place}/{uuid.uuid4()}" for place in places if _is_gone(place)]
        expendable = sorted(f"expendable/{key}" for key in orphans)
        assert len(orphans) == DELETED
        _write(s3.buckets / BUCKET, [*(PREFIX + key for key in [*keys, *orphans]), *expendable])
        say(f"{BLOBS:,} blobs, {DELETED:,} of them orphans, of runs that were deleted:")
        bare_find = _bare_find(client, connection)

    # Half before and half after ours; listed, as ours are, for the server keeps what it has listed in mind.
    _list(client, "expendable/")
    bare_deletes = [_bare_deletes(client, expendable[::2])]
    with _reconciliation(server, s3) as ours:
        with ours.job():
            pass  # in a task Airflow is imported, and file systems known, before the work begins
        started = time.monotonic()
        for phase in ("plan", "find", "decide"):
            getattr(ours, phase)()
        finding = time.monotonic() - started
        # Once more, as whoever comes second finds warm caches: the quicker counts.
        with server.connect(DATABASE) as connection:
            listing, references = min(bare_find, _bare_find(client, connection), key=sum)
        assert ours.report.headline["orphan_blobs"] == DELETED
        ours.share_out()
        started = time.monotonic()
        ours.sweep()
        sweeping = DELETED / (time.monotonic() - started)
        ours.finish()
        bare_deletes.append(_bare_deletes(client, expendable[1::2]))
        bare = DELETED / sum(bare_deletes)
    assert ours.report.headline["orphans_deleted"] == DELETED
    say(f"  bare listing {listing:.2f} s, bare references {references:.2f} s; ours, both and the merge {finding:.2f} s")
    took = " and ".join(f"{seconds:.2f}" for seconds in bare_deletes)
    say(f"  bare deletes {bare:,.0f} blobs/s ({took} s); ours, verified {sweeping:,.0f} blobs/s")
    return {
        "reconcile_ratio_vs_raw_listing": finding / (listing + references),
        "reconcile_delete_ratio_vs_raw": sweeping / bare,
    }


def _bare_find(client: Any, connection: psycopg.Connection[Any]) -> tuple[float, float]:
    """Seconds to list all there is, and to stream all references; neither keeps or compares anything."""
    started = time.monotonic()
    listed = _list(client, PREFIX)
    listing = time.monotonic() - started
    started = time.monotonic()
    with connection.transaction(), connection.cursor(name="bare") as cursor:
        cursor.execute(
            """SELECT dag_id, run_id, task_id, map_index, key, timestamp, value #>> '{}' FROM xcom
               WHERE position(%s IN value #>> '{}') > 0 ORDER BY value #>> '{}' COLLATE "C" """,
            (f"{BUCKET}/{PREFIX}",),
        )
        referred = sum(1 for _ in cursor)
    assert (listed, referred) == (BLOBS, BLOBS - DELETED)
    return listing, time.monotonic() - started


def _list(client: Any, prefix: str) -> int:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return sum(len(page.get("Contents", ())) for page in pages)


def _bare_deletes(client: Any, keys: list[str]) -> float:
    """Seconds."""
    started = time.monotonic()
    for first in range(0, len(keys), 1_000):
        objects = [{"Key": key} for key in keys[first : first + 1_000]]
        client.delete_objects(Bucket=BUCKET, Delete={"Objects": objects, "Quiet": True})
    return time.monotonic() - started


def _place(number: int) -> str:
    """A hundred DAGs, of which the first has a third of the blobs; ten runs of each."""
    dag = 0 if number % 3 == 0 else number % 100
    return f"dag_{dag:03}/run_{number // 100 % 10}/task_{number % 7}"


def _is_gone(place: str) -> bool:
    """Whether the run was deleted, as somebody did who knew nothing of its blobs."""
    return place.split("/")[1] in {"run_0", "run_1"}


def _fill(connection: psycopg.Connection[Any], keys: list[str]) -> list[str]:
    """A row for each blob; returns their keys."""
    connection.execute("INSERT INTO dag_bundle (name) VALUES ('benchmark')")
    connection.execute(
        """INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, timetable_type, partition_mapper_info,
                            max_active_tasks, max_consecutive_failed_dag_runs, has_task_concurrency_limits)
           SELECT 'dag_' || lpad(d::text, 3, '0'), false, false, 'benchmark', 'none', '{}', 16, 0, false
           FROM generate_series(0, 99) d"""
    )
    connection.execute(
        """INSERT INTO dag_run (dag_id, run_id, run_type, state, run_after)
           SELECT dag_id, 'run_' || r, 'manual', 'success', now() FROM dag, generate_series(2, 9) r"""
    )
    connection.execute(
        """INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, state, try_number, pool, pool_slots)
           SELECT gen_random_uuid(), 'task_' || t, dag_id, run_id, -1, 'success', 1, 'default_pool', 1
           FROM dag_run, generate_series(0, 6) t"""
    )
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE keys (number int, dag_id text, run_id text, task_id text, key text)")
        with cursor.copy("COPY keys FROM STDIN") as copy:
            for number, key in enumerate(keys):
                copy.write_row((number, *key.split("/")[:3], key))
        cursor.execute(
            """INSERT INTO xcom (dag_run_id, dag_id, run_id, task_id, map_index, key, value, timestamp)
               SELECT r.id, k.dag_id, k.run_id, k.task_id, -1, 'k' || k.number,
                      to_jsonb(%s || k.key), now()
               FROM keys k JOIN dag_run r USING (dag_id, run_id)""",
            (f"s3://bench@{BUCKET}/{PREFIX}",),
        )
        cursor.execute("ANALYZE xcom")
    return keys


def _write(folder: Path, keys: list[str]) -> None:
    """Put files where the server finds them, a month old; to upload them would take minutes."""
    old = time.time() - 30 * 86_400
    made = set()
    for key in keys:
        path = f"{folder}/{key}"
        parent = path.rsplit("/", 1)[0]
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        with open(path, "wb") as file:
            file.write(b"[1]")
        os.utime(path, (old, old))
    os.sync()  # or the disk would be busy with them while deletes are measured


@contextmanager
def _reconciliation(server: PostgresServer, s3: RcloneS3) -> Iterator[Any]:
    from include.xcom_maintenance.bundle.settings import Settings
    from include.xcom_maintenance.metadata.postgres.store import PostgresMetadataStore
    from tests.support.reconciliations import Reconciliation

    base = BasePath.parse(f"s3://bench@{BUCKET}/{PREFIX}", setting="blob_base_path")
    with tempfile.TemporaryDirectory(prefix="bench-reports-") as reports:
        yield Reconciliation(
            lambda: PostgresMetadataStore(
                lambda: psycopg.connect(server.url(DATABASE)), setting="x", lock_timeout=5, statement_timeout=600
            ),
            Path(reports),
            Settings(mode="enforce", disposal="delete", delete_without_conditions=True),
            S3BlobStore(s3.client(), base, setting="x"),
            S3BlobStore(s3.client(), base.quarantine, setting="x"),
        )


if __name__ == "__main__":
    main()
