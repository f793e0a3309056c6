"""``make bench``: measure, print, and write ``build/bench.json``, one flat object of numbers."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks import cleanup
from benchmarks.table import Shape
from local_stack.postgres import PostgresServer

BUILD = Path(__file__).parent.parent / "build"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table (default: %(default)s)")
    rows: int = parser.parse_args().rows
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)

    BUILD.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=BUILD, prefix="bench-") as folder,
        PostgresServer(Path(folder), settings={"shared_buffers": "1GB", "max_wal_size": "8GB"}) as server,
    ):
        figures = cleanup.run(server, Shape(rows=rows), say)
    target = BUILD / "bench.json"
    target.write_text(json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:40} {value:12,.3f}")
    say(f"Written to {target}")


if __name__ == "__main__":
    main()
