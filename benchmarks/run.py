"""``make bench``: measure, print, and write ``build/bench.json``, one flat object of numbers."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import audit, backend, cleanup, reconcile
from benchmarks.table import Shape
from local_stack.postgres import PostgresServer

#: What can be measured by itself, in the order in which everything is.
PARTS: dict[str, Callable[[PostgresServer, Shape, Callable[[str], None]], dict[str, float]]] = {
    "cleanup": cleanup.run,
    "audit": audit.run,
    "reconcile": lambda server, _shape, say: reconcile.run(server, say),
    "backend": lambda _server, _shape, say: backend.run(say),
}
BUILD = Path(__file__).parent.parent / "build"


def _settings() -> dict[str, str]:
    """A durable Postgres with the usual quarter of the memory, on which nothing happens but what is measured.

    A checkpoint takes place before each method and none while it runs. Right after one Postgres would write every page
    that is touched into the log once more, whoever touches it: that measures the disk, so it is turned off.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "shared_buffers": f"{min(6 * 1024, memory // 4 // 2**20)}MB",
        "max_wal_size": "16GB",
        "checkpoint_timeout": "1h",
        "full_page_writes": "off",
        "autovacuum": "off",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; can be given several times")
    arguments = parser.parse_args()
    rows: int = arguments.rows
    chosen: list[str] = arguments.only or list(PARTS)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)

    BUILD.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=BUILD, prefix="bench-") as folder,
        PostgresServer(Path(folder), settings=_settings()) as server,
    ):
        figures = {
            name: value
            for part, measure in PARTS.items()
            if part in chosen
            for name, value in measure(server, Shape(rows=rows), say).items()
        }
    target = BUILD / "bench.json"
    # What was left out keeps its figures of an earlier run.
    kept = json.loads(target.read_text()) if arguments.only and target.exists() else {}
    kept |= {name: round(value, 4) for name, value in figures.items()}
    target.write_text(json.dumps(kept, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:40} {value:12,.3f}")
    say(f"Written to {target}")


if __name__ == "__main__":
    main()
