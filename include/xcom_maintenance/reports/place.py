"""Where reports and manifests are kept: ``<report path>/<dag_id>/<run_id>.*``, on any path ObjectStoragePath takes."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import count
from typing import IO, TYPE_CHECKING, Any, cast

from include.xcom_maintenance.core.errors import ConfigurationError, UnreadableManifest
from include.xcom_maintenance.reports import html, markdown
from include.xcom_maintenance.reports.paths import make_folder, path_errors, stem_of
from include.xcom_maintenance.reports.report import Report

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

_MANIFEST = ".manifest.jsonl.gz"
_PENDING = ".pending"
#: Of gzip: the quickest, which is five times as quick as its default, and for such lines almost as small.
_LEVEL = 1
_ENCODE = json.JSONEncoder(ensure_ascii=False, default=str).encode


class ReportPlace:
    """The files of one run, and those of earlier runs of the same DAG.

    :param root: the report path.
    """

    def __init__(self, root: ObjectStoragePath, dag_id: str, run_id: str) -> None:
        self._folder = root / dag_id
        self._run_id = run_id
        self._stem = stem_of(run_id)

    @property
    def root(self) -> ObjectStoragePath:
        """The report path."""
        return self._folder.parent

    def of(self, dag_id: str, run_id: str | None = None) -> ReportPlace:
        """The files of a run of another DAG, on the same report path.

        :param run_id: None: of one with the same id.
        """
        return ReportPlace(self._folder.parent, dag_id, self._run_id if run_id is None else run_id)

    def file(self, suffix: str) -> ObjectStoragePath:
        """The run's file with this suffix, such as ``.json``."""
        return self._folder / f"{self._stem}{suffix}"

    def beside(self, name: str) -> ObjectStoragePath:
        """A file of the DAG beside its reports.

        :param name: begins with a dot, so that no run id leads to it, and whoever collects ``*.json`` does not find it.
        """
        return self._folder / name

    def write(self, report: Report) -> None:
        """Write the report as JSON, as Markdown and as HTML.

        :raises ConfigurationError: if the report path cannot be written.
        """
        with self._errors("written"):
            self._make_folder()
            text = json.dumps(report.to_json(), indent=2, ensure_ascii=False, default=str)
            # Names of files need not be UTF-8, but reports are.
            self.file(".json").write_bytes((text + "\n").encode(errors="backslashreplace"))
            self.file(".md").write_bytes(markdown.render(report).encode(errors="backslashreplace"))
            page = self.file(".html")
            # S3 goes by what it is told, and a browser that is told nothing saves the page instead of showing it.
            kind = {"ContentType": "text/html; charset=utf-8"} if page.protocol in {"s3", "s3a", "s3n"} else {}
            with page.open("wb", **kind) as file:
                file.write(html.render(report).encode(errors="backslashreplace"))

    def read(self) -> Report | None:
        """The run's report as it was last written, or None."""
        with self._errors("read"), suppress(FileNotFoundError):
            return Report.from_json(json.loads(self.file(".json").read_text(encoding="utf-8")))
        return None

    def write_part(self, name: str, figures: dict[str, Any]) -> None:
        """Keep the figures of one of several tasks that work at the same time."""
        with self._errors("written"):
            self.file(f".{name}.figures").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")

    def read_part(self, name: str) -> dict[str, Any] | None:
        """What ``write_part`` kept, or None."""
        with self._errors("read"), suppress(FileNotFoundError):
            return dict(json.loads(self.file(f".{name}.figures").read_text(encoding="utf-8")))
        return None

    def drop_parts(self, *kinds: str) -> None:
        """Forget what tasks of an earlier attempt at this run left, or what is not needed any more.

        :param kinds: the names of the parts, without their numbers.
        """
        with self._errors("written"):
            self._make_folder()
            # Any number may be missing: that of a task that was killed.
            parts = re.compile(re.escape(self._stem) + rf"\.({'|'.join(kinds)})-\d+\.(figures|jsonl\.gz)")
            for name in filter(parts.fullmatch, self._names()):
                (self._folder / name).unlink()

    def _names(self) -> list[str]:
        """Of all files of the DAG, just the names: a path for each takes longer than the listing."""
        fs: Any = self._folder.fs
        fs.invalidate_cache()
        found: list[Any] = []
        with suppress(FileNotFoundError):  # there are no folders in a bucket
            found = fs.ls(self._folder.path, detail=False)
        return [str(name).rstrip("/").rpartition("/")[2] for name in found]

    def write_lines(self, name: str, *, lasting: bool = False) -> AbstractContextManager[ManifestWriter]:
        """Write the lines of one of several parts of a run, as a manifest.

        :param lasting: let it outlive a crash of the machine, where it lies on a disk.
        """
        return self._write_lines(self.file(f".{name}.jsonl.gz"), lasting=lasting)

    def has_lines(self, name: str) -> bool:
        """Whether a part is there, be it whole or not."""
        path = self.file(f".{name}.jsonl.gz")
        fs: Any = path.fs
        with self._errors("read"):
            fs.invalidate_cache()  # another task may have written it
            return bool(path.exists())

    def drop_lines(self, name: str) -> None:
        with self._errors("written"):
            self.file(f".{name}.jsonl.gz").unlink(missing_ok=True)

    def read_lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines of a part; errors as of ``read_manifest``."""
        return self.read_manifest(f"{self._stem}.{name}.jsonl.gz")

    # -- manifests: compressed JSON lines, streamed both ways --------------------------------------------------------

    @contextmanager
    def write_manifest(self) -> Iterator[ManifestWriter]:
        """Write the run's manifest; it is complete when its last line says how many lines it has."""
        path = self.file(_MANIFEST)
        with self._errors("written"):
            self._make_folder()
            self._set_aside(path)
        self.drop_parts("shard")
        with self._write_lines(path) as writer:
            yield writer

    @contextmanager
    def _write_lines(self, path: ObjectStoragePath, *, lasting: bool = False) -> Iterator[ManifestWriter]:
        with ExitStack() as stack:
            with self._errors("written"):
                raw = stack.enter_context(path.open("wb"))
                if lasting:
                    stack.callback(_flush, raw)
                lines = stack.enter_context(
                    gzip.open(cast("IO[bytes]", raw), "wt", _LEVEL, encoding="utf-8", errors="backslashreplace")
                )
            writer = ManifestWriter(cast("IO[str]", lines), str(path))
            yield writer
            writer.close()

    def read_manifest(self, path: str | None = None) -> Iterator[dict[str, Any]]:
        """The lines of a manifest, by default the run's own.

        :raises ConfigurationError: if it is not there, which on several workers means that they share no report path.
        :raises MaintenanceError: if it is cut short: such a manifest is no plan.
        """
        manifest = self.file(_MANIFEST) if path is None else self._folder / path
        lines_read, complete = 0, False
        with self._errors("read"):
            try:
                with (
                    manifest.open("rb") as raw,
                    gzip.open(cast("IO[bytes]", raw), "rt", encoding="utf-8") as lines,
                ):
                    for text in lines:
                        line = json.loads(text)
                        if line["kind"] == "end":
                            complete = line["lines"] == lines_read
                        else:
                            lines_read += 1
                            yield line
            except FileNotFoundError:
                raise ConfigurationError(
                    f"The manifest {manifest} does not exist",
                    setting="report_path",
                    remedy="The tasks of a run may run on different workers: set report_path to a place that all "
                    "workers share, such as a bucket",
                ) from None
            except (EOFError, gzip.BadGzipFile, ValueError, zlib.error):
                complete = False
        if not complete:
            raise UnreadableManifest(
                f"The manifest {manifest} is incomplete",
                setting="report_path",
                remedy="Run the DAG again for a new plan",
            )

    # -- what an earlier run may have left half done -------------------------------------------------------------------

    def mark_pending(self) -> None:
        """Say, before the first change, that the run's manifest is being carried out."""
        with self._errors("written"):
            self.file(_PENDING).write_text("The manifest of this run is being carried out.\n", encoding="utf-8")

    def _set_aside(self, manifest: ObjectStoragePath) -> None:
        """Keep the manifest of an earlier attempt at this run, and that it was left half done if it was."""
        if not manifest.exists():
            return
        attempt = next(n for n in count(1) if not self.file(f"~{n}{_MANIFEST}").exists())
        with manifest.open("rb") as old, self.file(f"~{attempt}{_MANIFEST}").open("wb") as kept:
            shutil.copyfileobj(old, kept)
        if self.file(_PENDING).exists():
            self.file(f"~{attempt}{_PENDING}").write_text("Set aside by another attempt.\n", encoding="utf-8")
            self.file(_PENDING).unlink()

    def clear_pending(self, manifest: str | None = None) -> None:
        """Say that a manifest has been carried out to its end."""
        name = self.file(_PENDING) if manifest is None else self._folder / _pending_name(manifest)
        with self._errors("written"):
            name.unlink(missing_ok=True)

    def pending_manifests(self) -> list[str]:
        """The names of manifests of other runs that were not carried out to their end, oldest first."""
        with self._errors("read"):
            names = set(self._names())
        runs = sorted(name.removesuffix(_PENDING) for name in names if name.endswith(_PENDING))
        manifests = [f"{run}{_MANIFEST}" for run in runs if run != self._stem]
        return [name for name in manifests if name in names]

    def _make_folder(self) -> None:
        make_folder(self._folder)

    def _errors(self, verb: str) -> AbstractContextManager[None]:
        return path_errors(self._folder.parent, verb, setting="report_path")


def _flush(file: Any) -> None:
    """Write a file to the disk, if it is on one; in other stores it is there when it is closed."""
    with suppress(OSError, AttributeError):
        file.flush()
        os.fsync(file.fileno())


def _pending_name(manifest: str) -> str:
    return manifest.removesuffix(_MANIFEST) + _PENDING


class ManifestWriter:
    """Appends lines; each is an object with a ``kind``."""

    def __init__(self, stream: IO[str], path: str) -> None:
        self._stream = stream
        self.lines = 0
        self.path = path

    def add(self, kind: str, **fields: Any) -> None:
        """Append a line."""
        self.copy(_ENCODE({"kind": kind, **fields}) + "\n")

    def copy(self, line: str) -> None:
        """Append a line that is JSON already, and ends as a line does."""
        self._stream.write(line)
        self.lines += 1

    def close(self) -> None:
        self._stream.write(json.dumps({"kind": "end", "lines": self.lines}) + "\n")
