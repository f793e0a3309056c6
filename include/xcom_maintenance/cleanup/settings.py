"""The settings of ``xcom_cleanup`` beside the retention rules."""

from __future__ import annotations

from include.xcom_maintenance.retention.settings import RetentionSettings
from include.xcom_maintenance.settings.fields import Positive, Share


class CleanupSettings(RetentionSettings):
    """How a plan is shared out, and above which limits it asks first."""

    #: A task gets at least so many rows to delete.
    shard_rows: Positive = 300_000
    #: Above these a cleanup asks first; None: no limit.
    max_delete_rows: Positive | None = None
    max_delete_bytes: Positive | None = None
    max_delete_share: Share | None = None
