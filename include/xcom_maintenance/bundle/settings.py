"""Everything that can be configured, put together from the rooms and validated as one."""

from __future__ import annotations

from typing import ClassVar

from include.xcom_maintenance.cleanup.settings import CleanupSettings
from include.xcom_maintenance.offload.settings import OffloadSettings, ThresholdSettings
from include.xcom_maintenance.reconciliation.settings import ReconciliationSettings
from include.xcom_maintenance.restore.settings import RestoreSettings
from include.xcom_maintenance.size_audit.settings import AuditSettings


class Settings(AuditSettings, ReconciliationSettings, ThresholdSettings, CleanupSettings):
    """What a Variable or the settings file may hold. Every DAG gets all, so that no mistake waits for its turn."""


class SettingsOfRestore(RestoreSettings, Settings):
    """With what ``xcom_restore`` is told for one run."""


class SettingsOfOffload(OffloadSettings, Settings):
    """With what ``xcom_offload_large_values`` is told for one run."""


class SettingsOfRotation(Settings):
    """What lets other DAGs delete does not let ``xcom_rotate_keys`` rewrite rows."""

    OWN_MODE: ClassVar[bool] = True
