"""The flow of each DAG: which settings it has, and what its tasks need."""

from __future__ import annotations

from include.xcom_maintenance.bundle.settings import (
    Settings,
    SettingsOfOffload,
    SettingsOfRestore,
    SettingsOfRotation,
)
from include.xcom_maintenance.flow.opening import Needs
from include.xcom_maintenance.flow.steps import Flow, publish

__all__ = ["CLEANUP", "OFFLOAD", "RECONCILIATION", "RESTORE", "ROTATION", "SIZE_AUDIT", "publish"]

CLEANUP = Flow(Settings, Needs(deletes=lambda _: True, looks_back=True))
SIZE_AUDIT = Flow(Settings, Needs(blobs=None, fails_on_breach=lambda settings: settings.fail_on_breach))
RECONCILIATION = Flow(Settings, Needs(deletes=lambda settings: settings.delete_dangling_rows))
#: Blobs that return from the quarantine need no row.
RESTORE = Flow(SettingsOfRestore, Needs(inserts=lambda settings: settings.quarantine is None))
#: The plan itself asks for the right to replace values, since a direction may not be possible here.
OFFLOAD = Flow(SettingsOfOffload, Needs(blobs=False))
ROTATION = Flow(SettingsOfRotation, Needs(updates=True, blobs=False))
