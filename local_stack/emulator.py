"""What the emulators of cloud stores have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from local_stack.processes import ChildProcess, Stoppable, accepts_connections, free_port, private_folder


class Emulator(Stoppable):
    """A server that keeps everything in memory: a child on a free port, in a folder that goes with it.

    :param command: by the port.
    """

    def __init__(self, name: str, command: Callable[[int], Sequence[str]], *, env: Mapping[str, str]) -> None:
        self._resources = contextlib.ExitStack()
        home = self._resources.enter_context(private_folder(f"local-stack-{name}-"))
        port = free_port()
        child = ChildProcess(name, command(port), log_file=home / f"{name}.log", env=env, cwd=home)
        self._resources.callback(child.stop)
        try:
            child.wait_until_ready(lambda: accepts_connections(port), timeout=60)
        except BaseException:
            self.stop()
            raise
        self.address = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        self._resources.close()
