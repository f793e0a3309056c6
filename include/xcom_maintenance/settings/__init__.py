"""The settings: one validated whole, and where each value came from.

Precedence: trigger form, then the Airflow Variable ``xcom_maintenance`` (JSON), then ``include/xcom_maintenance.yaml``,
then the defaults. ``docs/settings.md`` lists them for users.
"""

from include.xcom_maintenance.settings.fields import DELETING_DAGS, MODES
from include.xcom_maintenance.settings.layers import (
    FILE,
    VARIABLE,
    Layer,
    Resolved,
    file_layer,
    form_layer,
    resolve,
    variable_layer,
)
from include.xcom_maintenance.settings.model import (
    OffloadSettings,
    RestoreSettings,
    RetentionRule,
    RotateSettings,
    Settings,
)

__all__ = [
    "DELETING_DAGS",
    "FILE",
    "MODES",
    "VARIABLE",
    "Layer",
    "OffloadSettings",
    "Resolved",
    "RestoreSettings",
    "RetentionRule",
    "RotateSettings",
    "Settings",
    "file_layer",
    "form_layer",
    "resolve",
    "variable_layer",
]
