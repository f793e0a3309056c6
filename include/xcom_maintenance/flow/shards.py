"""A share of a plan, as it travels between tasks."""

from __future__ import annotations

from typing import Any

#: A shard, as it travels between tasks: its number from 1, and which batches of the manifest are its own, from 0.
Shard = dict[str, Any]
