"""The settings of ``xcom_cleanup`` other than the retention rules."""

from __future__ import annotations

from include.xcom_maintenance.retention.settings import RetentionSettings
from include.xcom_maintenance.settings.fields import Positive, Share


class CleanupSettings(RetentionSettings):
    """How a plan is split between tasks, and the limits above which it needs approval."""

    #: Each task gets at least about this many rows to delete.
    shard_rows: Positive = 300_000
    #: A plan above one of these needs approval. None: no limit.
    max_delete_rows: Positive | None = None
    max_delete_bytes: Positive | None = None
    max_delete_share: Share | None = None
