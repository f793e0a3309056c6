"""Settings as a DAG without any of its own resolves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from include.xcom_maintenance.bundle.settings import Settings
from include.xcom_maintenance.settings import layers


def resolve(found: Sequence[layers.Layer], kind: type[Settings] = Settings) -> layers.Resolved[Any]:
    return layers.resolve(found, kind)
