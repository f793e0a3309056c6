"""What lies below a base path, as each store's own client sees it: not as the backend does."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from local_stack.azure import Azurite
from local_stack.gcs import GcsEmulator
from local_stack.s3 import MotoS3, RcloneS3

Server = RcloneS3 | MotoS3 | GcsEmulator | Azurite

_PREFIX = "airflow/xcom/"
#: Below that the emulators list and read in one page.
_FEW = 1_000


@dataclass(frozen=True)
class Stored:
    """A base path, and the objects below it by their names relative to it."""

    path: str
    objects: Callable[[], dict[str, bytes]]
    write: Callable[[str, bytes], object]

    @property
    def one(self) -> tuple[str, bytes]:
        """The only object."""
        [found] = self.objects().items()
        return found


def in_folder(folder: Path) -> Stored:
    def objects() -> dict[str, bytes]:
        files = (file for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}

    return Stored(f"file://{folder}", objects, lambda name, data: (folder / name).write_bytes(data))


def in_bucket(server: Server, monkeypatch: pytest.MonkeyPatch, *, endpoint: str | None = None) -> Stored:
    """A bucket of its own, whose Connection ``blobs`` is in the environment.

    :param endpoint: of something in front of the server, which the Connection names instead.
    """
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    if isinstance(server, GcsEmulator):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint or server.endpoint)
        monkeypatch.setenv("AIRFLOW_CONN_BLOBS", server.airflow_connection_json())
        return _gcs(server, bucket)
    if isinstance(server, Azurite):
        monkeypatch.setenv("AIRFLOW_CONN_BLOBS", server.airflow_connection_json(endpoint))
        return _azure(server, bucket)
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", server.airflow_connection_json())
    return _s3(server, bucket)


def _s3(server: RcloneS3 | MotoS3, bucket: str) -> Stored:
    client = server.client()
    client.create_bucket(Bucket=bucket)

    def objects() -> dict[str, bytes]:
        keys = [found["Key"] for found in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
        assert len(keys) < _FEW
        return {key.removeprefix(_PREFIX): client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def write(name: str, data: bytes) -> object:
        return client.put_object(Bucket=bucket, Key=_PREFIX + name, Body=data)

    return Stored(f"s3://blobs@{bucket}/{_PREFIX}", objects, write)


def _gcs(server: GcsEmulator, bucket: str) -> Stored:
    client = server.client()
    found = client.create_bucket(bucket)

    def objects() -> dict[str, bytes]:
        # By name: the links that the emulator lists are wrong for names with a percent sign.
        names = [blob.name for blob in client.list_blobs(bucket)]
        return {name.removeprefix(_PREFIX): found.blob(name).download_as_bytes() for name in names}

    return Stored(
        f"gs://blobs@{bucket}/{_PREFIX}",
        objects,
        lambda name, data: found.blob(_PREFIX + name).upload_from_string(data),
    )


def _azure(server: Azurite, bucket: str) -> Stored:
    container = server.client().create_container(bucket)

    def objects() -> dict[str, bytes]:
        names = [blob.name for blob in container.list_blobs()]
        return {name.removeprefix(_PREFIX): container.download_blob(name).readall() for name in names}

    return Stored(
        f"abfs://blobs@{bucket}/{_PREFIX}",
        objects,
        lambda name, data: container.upload_blob(_PREFIX + name, data, overwrite=True),
    )
