"""Blobs in a local folder, which all workers share or there is but one of."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from include.xcom_maintenance.blobs.port import DeleteResult, Deletion, Uploads
from include.xcom_maintenance.core.blob_uri import BasePath
from include.xcom_maintenance.core.errors import ConfigurationError, StoreUnavailable
from include.xcom_maintenance.core.records import Blob


class FileBlobStore:
    """The blobs below ``file:///folder``. Links are not followed: they could lead outside the base path.

    :param setting: the setting that named the base path, for errors.
    :param may_be_missing: whether a folder that is not there is an empty one.
    """

    def __init__(self, base: BasePath, *, setting: str, may_be_missing: bool = False) -> None:
        self.base = base
        self._may_be_missing = may_be_missing
        self._root = Path("/", base.uri.key)
        self._setting = setting

    def check(self) -> None:
        with self._errors():
            next(os.scandir(self._root), None)

    def list(self, *, after: str | None = None, before: str | None = None) -> Iterator[Blob]:
        with self._errors():
            first = os.fsencode(after or "")
            for blob in self._walk(self._root, "", first):
                key = os.fsencode(blob.key)
                if before is not None and key >= os.fsencode(before):
                    return
                if key >= first:
                    yield blob

    def _walk(self, folder: Path, prefix: str, first: bytes) -> Iterator[Blob]:
        """Depth first, in the byte order of whole keys: a folder sorts as if its name ended in a slash.

        :param first: folders that lie wholly before this key are left out.
        """

        def order(entry: os.DirEntry[str]) -> bytes:
            name = os.fsencode(entry.name)
            return name + b"/" if entry.is_dir(follow_symlinks=False) else name

        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=order)
        except FileNotFoundError:
            if folder == self._root and not self._may_be_missing:
                raise
            return  # removed since its parent was read, so what was in it is gone too
        for entry in entries:
            key = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                below = os.fsencode(key + "/")
                if below >= first or first.startswith(below):
                    yield from self._walk(Path(entry.path), key + "/", first)
            elif entry.is_file(follow_symlinks=False) and (blob := self._stat(key)) is not None:
                yield blob

    def _stat(self, key: str) -> Blob | None:
        try:
            found = (self._root / key).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # no such file can exist
                return None
            raise
        if not stat.S_ISREG(found.st_mode):
            return None
        return _blob(key, found)

    def head(self, keys: Sequence[str]) -> Iterator[Blob]:
        with self._errors():
            yield from filter(None, map(self._stat, keys))

    def honours_conditions(self) -> bool:
        return False  # no file system can delete a file on condition that it is unchanged

    def unfinished_uploads(self) -> Uploads | None:
        return None

    def deletes_only_unchanged(self) -> bool:
        return True  # see _delete

    def delete_unchanged(self, blobs: Iterable[Blob]) -> Iterator[Deletion]:
        for blob in blobs:
            now = self._stat(blob.key)
            if now is None:
                yield Deletion(blob, DeleteResult.GONE)
            elif now != blob:
                yield Deletion(blob, DeleteResult.CHANGED)
            else:
                yield self._delete(blob)

    def _delete(self, blob: Blob) -> Deletion:
        path = self._root / blob.key
        if not self._is_inside(path):
            return Deletion(blob, DeleteResult.FAILED, "it is behind a link that leads outside the base path")
        # Under another name first, where no writer finds it: what is looked at there is what is deleted. Whoever writes
        # the blob now makes a new file, and whoever wrote it since the last look is seen by the time.
        aside = path.with_name(f".{uuid.uuid4().hex}.deleting")
        try:
            path.rename(aside)
            if not _is_still(aside, blob):
                _put_back(aside, path)
                return Deletion(blob, DeleteResult.CHANGED)
            aside.unlink()
        except FileNotFoundError:
            return Deletion(blob, DeleteResult.GONE)
        except OSError as error:
            with suppress(OSError):
                _put_back(aside, path)
            return Deletion(blob, DeleteResult.FAILED, error.strerror or type(error).__name__)
        self._remove_empty_folders(path)
        return Deletion(blob, DeleteResult.DELETED)

    def _is_inside(self, path: Path) -> bool:
        return path.parent.resolve().is_relative_to(self._root.resolve())

    def _remove_empty_folders(self, path: Path) -> None:
        """Remove the folders of the task and of the run, if they are empty; a DAG's folder may be about to be used."""
        for parent in path.parents[:2]:
            if parent == self._root:
                return
            try:
                parent.rmdir()
            except OSError:
                return

    def copy_to(self, blob: Blob, *, target: BasePath, key: str) -> bool:
        if target.uri.scheme != "file":
            raise ValueError(f"{target} is not a folder")
        path = Path("/", target.uri.key, key)
        with self._errors():
            source = self._root / blob.key
            if self._stat(blob.key) != blob or not self._is_inside(source):
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{uuid.uuid4().hex}.copying")
            try:
                shutil.copyfile(source, unfinished, follow_symlinks=False)
                shutil.copymode(source, unfinished)
                with unfinished.open("rb") as written:
                    os.fsync(written.fileno())  # what was copied is deleted soon
                # If the source is still what it was, so was what was copied.
                if self._stat(blob.key) != blob or unfinished.stat().st_size != blob.size:
                    return False
                unfinished.replace(path)
            except FileNotFoundError:
                return False
            finally:
                unfinished.unlink(missing_ok=True)
        return True

    def get(self, key: str) -> bytes | None:
        with self._errors():
            try:
                return (self._root / key).read_bytes()
            except FileNotFoundError:
                return None

    def put(self, key: str, content: bytes) -> None:
        with self._errors():
            path = self._root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise ConfigurationError(
                f"The blob base path {self.base} cannot be used: {error.strerror}",
                setting=self._setting,
                remedy="Correct the base path, or let the workers read and write there",
            ) from None
        except OSError as error:
            raise StoreUnavailable(
                f"The blob base path {self.base} cannot currently be read: {error.strerror}",
                setting=self._setting,
                remedy="Another run continues where this one stopped",
            ) from None


def _blob(key: str, found: os.stat_result) -> Blob:
    return Blob(key, found.st_size, _moment(found.st_mtime_ns), f"{found.st_ino}-{found.st_mtime_ns}")


def _is_still(path: Path, blob: Blob) -> bool:
    """Whether a file is what was looked at; it is opened, since a network folder may tell old times until then."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except PermissionError:
        return _blob(blob.key, path.lstat()) == blob
    try:
        return _blob(blob.key, os.fstat(file)) == blob
    finally:
        os.close(file)


def _put_back(aside: Path, path: Path) -> None:
    """Give a file its name back, unless there is a newer one of that name."""
    try:
        os.link(aside, path, follow_symlinks=False)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            aside.rename(path)
            return
    aside.unlink()


def _moment(nanoseconds: int) -> datetime | None:
    """A time of modification; None for one that no calendar has, as a broken clock leaves."""
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    except (ValueError, OverflowError, OSError):
        return None
