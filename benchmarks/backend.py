"""The XCom backend against Airflow's own object storage backend: one S3 server, one run, the same values, both zstd.

``run`` starts processes of this module, one for each task; ``python -m benchmarks.backend <what>`` prints its figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from local_stack.processes import clean_environment
from local_stack.s3 import RcloneS3

REPOSITORY = Path(__file__).parent.parent
OURS, STOCK = "xcom_blob_backend.XComBlobBackend", "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend"
#: Values by their size as JSON -> how often each is pushed and pulled.
SIZES = {"1kb": (1_000, 60), "48kb": (48 * 1024, 40), "1mb": (2**20, 12), "10mb": (10 * 2**20, 7)}
#: Fresh processes for each figure of a cold start.
COLD_STARTS = 7
AT: dict[str, Any] = {
    "dag_id": "sales",
    "run_id": "manual__2026-01-01T00:00:00+00:00",
    "task_id": "load",
    "map_index": -1,
}
_REQUEST = re.compile(rb"(?:GET|PUT|HEAD|POST|DELETE) /\S* HTTP/1\.1\r\n")


def run(say: Callable[[str], None]) -> dict[str, float]:
    """All figures of the backend, by their name in ``build/bench.json``."""
    with tempfile.TemporaryDirectory(prefix="bench-backend-") as folder, RcloneS3(Path(folder)) as server:
        server.client().create_bucket(Bucket="bench")
        say("XCom backend: first push of a fresh process")
        cold = {name: _median_of_tasks("cold", name, server.port, server) for name in (OURS, STOCK)}
        say("XCom backend: warm pushes and pulls")
        figures = {
            "backend_cold_push_ms": cold[OURS]["ms"],
            "backend_cold_push_speedup_vs_stock": cold[STOCK]["ms"] / cold[OURS]["ms"],
        }
        figures |= _task("warm", "", server.port, server)
        say("XCom backend: requests, encryption, compression, import, memory")
        with _counting_proxy(server.port) as (port, requests):
            for what in ("push", "pull", "inline"):
                # What a process does before the first blob counts too: 10 pushes or pulls in a process of their own.
                before = len(requests)
                _task(f"requests_{what}", OURS, port, server)
                pushed = 10 if what == "pull" else 0
                figures[f"backend_requests_{'' if what == 'inline' else 'per_'}{what}"] = (
                    len(requests) - before - pushed
                ) / 10
        figures |= _task("sealing", OURS, server.port, server)
        figures["backend_import_ms"] = _median_of_tasks("import", OURS, server.port, server)["ms"]
        small = {name: _median_of_tasks("memory", name, server.port, server)["mb"] for name in (OURS, "")}
        figures["backend_small_values_rss_mb"] = small[OURS] - small[""]
    return figures


def _median_of_tasks(what: str, backend: str, port: int, server: RcloneS3) -> dict[str, float]:
    _task(what, backend, port, server)  # so that Python has its bytecode, as it has in a deployment
    found = [_task(what, backend, port, server) for _ in range(COLD_STARTS)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def _task(what: str, backend: str, port: int, server: RcloneS3) -> dict[str, float]:
    """The figures that a fresh process prints."""
    endpoint = f"http://127.0.0.1:{port}"
    connection = server.airflow_connection_json().replace(server.endpoint, endpoint)
    path = "s3://bench_s3@bench/xcom"
    environment = {
        "AIRFLOW_CONN_BENCH_S3": connection,
        "AIRFLOW__XCOM_BLOB_BACKEND__PATH": f"{path}/ours",
        "AIRFLOW__XCOM_BLOB_BACKEND__THRESHOLD": "1000000" if what in {"requests_inline", "memory"} else "0",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"{path}/stock",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_COMPRESSION": "zstd",
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'plugins'}",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    with tempfile.TemporaryDirectory(prefix="bench-home-") as home:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.backend", what, backend],
            env=clean_environment(environment | {"AIRFLOW_HOME": home, "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            check=True,
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def _counting_proxy(target: int) -> Iterator[tuple[int, list[bytes]]]:
    """A port that leads to another one of this machine, and the requests that have come through."""
    requests: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pipe(source: socket.socket, sink: socket.socket, *, count: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                if count:
                    requests.extend(_REQUEST.findall(data))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, server = listener.accept()[0], socket.create_connection(("127.0.0.1", target))
                threading.Thread(target=pipe, args=(client, server), kwargs={"count": True}, daemon=True).start()
                threading.Thread(target=pipe, args=(server, client), kwargs={"count": False}, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], requests
    finally:
        listener.close()


# -- what a task does --------------------------------------------------------------------------------------------------


def value_of(size: int) -> list[dict[str, Any]]:
    """Rows as a query returns them, of about this size as JSON."""
    row = {
        "id": 1,
        "name": "customer 1",
        "email": "user1@example.com",
        "active": True,
        "amount": 1.5,
        "tags": ["a", "b"],
    }
    row |= {
        "at": "2026-03-01T12:00:00",
        "note": None,
        "address": {"city": "Berlin", "zip": "10115", "lines": ["a", "b"]},
    }
    count = max(1, size // (len(json.dumps(row, separators=(",", ":"))) + 10))
    return [
        row | {"id": n, "name": f"customer {n * 7919 % 9973}", "email": f"user{n}@example.com", "active": n % 3 == 0,
               "amount": round(n * 1.37 % 1000, 2), "at": f"2026-03-01T{n % 24:02}:{n % 60:02}:00"}
        for n in range(count)
    ]  # fmt: skip


def backend_of(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(__import__(module, fromlist=[attribute]), attribute)


def push(backend: Any, value: Any) -> Any:
    return backend.serialize_value(value, key="return_value", **AT)


def pull(backend: Any, row: Any) -> Any:
    return backend.deserialize_value(SimpleNamespace(value=row))


def cold(name: str) -> dict[str, float]:
    value = value_of(1_000)
    started = time.perf_counter()
    row = push(backend_of(name), value)
    seconds = time.perf_counter() - started
    assert row != value
    return {"ms": seconds * 1000}


def warm(_: str) -> dict[str, float]:
    backends = {name: backend_of(name) for name in (OURS, STOCK)}
    figures: dict[str, float] = {}
    for size, (length, rounds) in SIZES.items():
        value = value_of(length)
        times: dict[tuple[str, str], list[float]] = {(name, way): [] for name in backends for way in ("push", "pull")}
        for round_ in range(rounds + 2):
            for name, backend in backends.items():
                started = time.perf_counter()
                row = push(backend, value)
                pushed = time.perf_counter()
                got = pull(backend, row)
                pulled = time.perf_counter()
                assert got == value
                assert len(json.dumps(row)) < 1_000
                if round_ >= 2:
                    times[name, "push"].append(pushed - started)
                    times[name, "pull"].append(pulled - pushed)
        for way in ("push", "pull"):
            ours, stock = (statistics.median(times[name, way]) for name in (OURS, STOCK))
            figures[f"backend_{way}_ms_{size}"] = ours * 1000
            figures[f"backend_{way}_speedup_vs_stock_{size}"] = stock / ours
    return figures


def requests_push(name: str) -> dict[str, float]:
    for size in (1_000, 10 * 2**20):
        for _ in range(5):
            push(backend_of(name), value_of(size))
    return {}


def requests_pull(name: str) -> dict[str, float]:
    for size in (1_000, 10 * 2**20):
        for _ in range(5):
            pull(backend_of(name), push(backend_of(name), value_of(size)))
    return {}


def requests_inline(name: str) -> dict[str, float]:
    for _ in range(10):
        pull(backend_of(name), push(backend_of(name), value_of(1_000)))
    return {}


def sealing(_: str) -> dict[str, float]:
    """What encryption adds to a push and a pull of 10 MB that are not compressed, so that all of it is encrypted."""
    import base64

    import botocore
    from xcom_blob_backend import codec, config, transfer, values
    from xcom_blob_backend.header import Coordinates

    encoded = values.encode(value_of(10 * 2**20))
    where = Coordinates("d", "r", "t", "k", -1)
    seconds: dict[str, list[float]] = {"": [], f"k:{base64.b64encode(os.urandom(32)).decode()}": []}
    os.environ["AIRFLOW__XCOM_BLOB_BACKEND__COMPRESSION"] = "none"
    for _round in range(9):
        for keys, times in seconds.items():
            os.environ["AIRFLOW__XCOM_BLOB_BACKEND__ENCRYPTION_KEYS"] = keys
            config.settings.cache_clear()
            started = time.perf_counter()
            transfer.unseal(transfer.seal(encoded, where, "n"), name="n", asked=None, where="it")
            times.append(time.perf_counter() - started)
    plain, sealed = (statistics.median(each) for each in seconds.values())
    # Answers of a web service, as botocore's documentation has recorded them.
    sample = max(Path(botocore.__file__).parent.glob("data/ec2/*/examples-1.json"))
    data = values.encode(json.loads(sample.read_text())).data
    ratio = len(data) / len(codec.compress(data, "zstd", None)[1])
    return {"backend_encryption_overhead_ms_10mb": (sealed - plain) * 1000, "backend_zstd_ratio": ratio}


def import_(name: str) -> dict[str, float]:
    started = time.perf_counter()
    backend_of(name)
    return {"ms": (time.perf_counter() - started) * 1000}


def memory(name: str) -> dict[str, float]:
    """Resident after a hundred small values, by this backend or (without a name) by the default one."""
    import psutil

    backend = backend_of(name or "airflow.sdk.bases.xcom.BaseXCom")
    for n in range(100):
        pull(backend, push(backend, {"rows": n}))
    return {"mb": psutil.Process().memory_info().rss / 2**20}


def main() -> None:
    # What every task process has imported before it comes to XComs, whichever backend is configured: it is a fork of
    # its supervisor's.
    import airflow.sdk.execution_time.supervisor
    import airflow.sdk.execution_time.task_runner  # noqa: F401 - as above
    from airflow.sdk.serde import serialize

    assert serialize(1) == 1
    what, backend = sys.argv[1:]
    print(json.dumps(globals()["import_" if what == "import" else what](backend)))


if __name__ == "__main__":
    main()
