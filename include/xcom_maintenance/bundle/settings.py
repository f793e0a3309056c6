"""Everything that can be configured, put together from the rooms and validated as one."""

from __future__ import annotations

from typing import ClassVar

from include.xcom_maintenance.cleanup.settings import CleanupSettings
from include.xcom_maintenance.offload.settings import OffloadSettings, ThresholdSettings
from include.xcom_maintenance.reconciliation.settings import ReconciliationSettings
from include.xcom_maintenance.restore.settings import RestoreSettings
from include.xcom_maintenance.size_audit.settings import AuditSettings


class Settings(AuditSettings, ReconciliationSettings, ThresholdSettings, CleanupSettings):
    """What a Variable or the settings file may hold. Every DAG validates all of it, so that mistakes surface early."""


class SettingsOfRestore(RestoreSettings, Settings):
    """With the form fields of ``xcom_restore``."""


class SettingsOfOffload(OffloadSettings, Settings):
    """With the form fields of ``xcom_offload_large_values``."""


class SettingsOfRotation(Settings):
    """The configured mode of other DAGs does not let ``xcom_rotate_keys`` rewrite rows."""

    OWN_MODE: ClassVar[bool] = True
