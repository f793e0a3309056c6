"""obstore in a process that was forked.

Its operations run in threads of its own, of which a fork copies none: whatever a forked process asks of the library
that it inherited never ends, and may take an event away from the process that it was forked from, which then waits for
ever, too. What obstore has started cannot be started again. So a forked process loads the library a second time, from a
copy of its file, which takes some 30 ms once; what it inherited it neither uses nor frees.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import tempfile
import threading
from typing import Any

from xcom_blob_backend.errors import StoreFailed

_MODULE = "obstore._obstore"
#: Modules that a library puts in place when it is loaded.
_SIDE_EFFECTS = (_MODULE, "obstore._store", "obstore.exceptions")


class Library:
    """The functions and classes of obstore that work in this process."""

    def __init__(self, functions: Any, classes: Any) -> None:
        self.put, self.get, self.get_range, self.delete = (
            functions.put,
            functions.get,
            functions.get_range,
            functions.delete,
        )
        self.stores = {
            "s3": classes.S3Store,
            "gs": classes.GCSStore,
            "abfs": classes.AzureStore,
            "file": classes.LocalStore,
        }


class _Process:
    """What this process has of the library."""

    #: Whether the library was there before this process was; who loaded it may have started its threads.
    inherited = _MODULE in sys.modules
    library: Library | None = None
    #: Stores of one library are none of another's.
    lock = threading.Lock()


#: What forked processes leave alone. To free it would reach into what they share with the process they came from.
_abandoned: list[Any] = []


def library() -> Library:
    """obstore, with threads that are alive.

    :raises ImportError: if it is not installed.
    :raises StoreFailed: if this process was forked, and no copy of it can be loaded.
    """
    with _Process.lock:
        if _Process.library is None:
            import obstore
            import obstore.store

            if _Process.inherited:
                copy = _load_again()
                _Process.library = Library(copy, copy._store)
            else:
                _Process.library = Library(obstore, obstore.store)
        return _Process.library


def _after_fork() -> None:
    _Process.inherited = _MODULE in sys.modules
    _abandoned.append(_Process.library)
    _Process.library = None
    _Process.lock = threading.Lock()  # a thread that was not copied may hold the former one


os.register_at_fork(after_in_child=_after_fork)


def _load_again() -> Any:
    """The library once more, with variables of its own."""
    origin = sys.modules[_MODULE].__file__
    if origin is None:
        raise StoreFailed("This process was forked, and there is no file to load obstore from again")
    before = {name: sys.modules.get(name) for name in _SIDE_EFFECTS}
    why: Exception | None = None
    try:
        for load in (_load_from_memory, _load_from_file):
            try:
                return load(origin)
            except (OSError, ImportError, AttributeError) as error:
                why = error
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
    raise StoreFailed(
        "This process was forked from one that had used the object store already, whose client does not survive that, "
        f"and it cannot be loaded again ({type(why).__name__}: {why}). Start processes by 'spawn' instead"
    )


def _load_from_memory(origin: str) -> Any:
    target = os.memfd_create("obstore")
    try:
        _copy(origin, target)
        # By the id of the process: the loader takes the same name for the same library.
        return _load(f"/proc/{os.getpid()}/fd/{target}")
    finally:
        os.close(target)


def _load_from_file(origin: str) -> Any:
    target, name = tempfile.mkstemp(prefix="xcom_blob_backend-", suffix=".so")
    try:
        _copy(origin, target)
        os.close(target)
        return _load(name)
    finally:
        os.unlink(name)


def _copy(origin: str, target: int) -> None:
    with open(origin, "rb") as source, open(target, "wb", closefd=False) as copy:
        while part := source.read(2**20):
            copy.write(part)


def _load(path: str) -> Any:
    loader = importlib.machinery.ExtensionFileLoader(_MODULE, path)
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(_MODULE, loader, origin=path))
    loader.exec_module(module)
    return module
