"""A bucket behind the base path of the stock backend."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from local_stack.s3 import RcloneS3
from tests.support.history import SeededRun, days_ago


@dataclass
class Bucket:
    """A bucket of a test's own behind the stock backend's base path ``s3://aws_xcom@<bucket>/xcom``."""

    server: RcloneS3
    name: str

    def __post_init__(self) -> None:
        self.client = self.server.client()
        self.client.create_bucket(Bucket=self.name)

    @property
    def base(self) -> str:
        return f"s3://aws_xcom@{self.name}/xcom"

    def put(self, key: str, content: bytes = b"[1]", *, age_days: float = 0) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)
        if age_days:
            self.set_age({key: age_days})

    def set_age(self, ages: dict[str, float]) -> None:
        moments: dict[str, datetime] = {key: days_ago(age) for key, age in ages.items()}
        self.server.set_modified(self.name, moments)

    def blob(self, run: SeededRun, *, age_days: float, task_id: str = "t", size: int = 100) -> str:
        """Write a blob as the stock backend would; returns the reference that a row would hold."""
        key = f"xcom/{run.dag_id}/{run.run_id}/{task_id}/{uuid.uuid4()}"
        self.put(key, b"x" * size, age_days=age_days)
        return f"s3://aws_xcom@{self.name}/{key}"

    def listing(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {item["Key"] for page in pages for item in page.get("Contents", [])}

    def has(self, reference: str) -> bool:
        return reference.removeprefix(f"s3://aws_xcom@{self.name}/") in self.listing()
