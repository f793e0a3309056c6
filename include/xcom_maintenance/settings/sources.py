"""Where settings come from: the trigger form, the Variable, the settings file, and Airflow's own configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.settings.layers import FORM, Layer

VARIABLE = "xcom_maintenance"
FILE = Path(__file__).parents[2] / "xcom_maintenance.yaml"
#: Not in the trigger form: whoever may trigger a run could make a worker import and send anything.
_NOT_FOR_ONE_RUN = ("notifier", "notifier_kwargs")

#: Airflow's own options, as sources are named.
STOCK_BACKEND = "[common.io] xcom_objectstorage_path"
OWN_BACKEND = "[xcom_blob_backend] path"
_HEARTBEAT = "[scheduler] task_instance_heartbeat_timeout"


def sources(params: Mapping[str, Any]) -> list[Callable[[], Layer]]:
    """Where users set settings, the strongest first; each is read when it is called.

    :param params: of the trigger form.
    """
    from airflow.sdk import Variable

    return [
        lambda: form_layer(params),
        lambda: variable_layer(Variable.get(VARIABLE, default=None)),
        file_layer,
    ]


def form_layer(params: Mapping[str, Any]) -> Layer:
    """What the trigger form sets; a field left empty means "as configured".

    :raises ConfigurationError: if it sets what cannot be set for one run.
    """
    for name in _NOT_FOR_ONE_RUN:
        if params.get(name):
            raise ConfigurationError(
                f"{name} cannot be set for one run",
                setting=name,
                remedy=f"Set it in the Variable {VARIABLE} or in include/{FILE.name}",
            )
    return Layer(FORM, {k: v for k, v in params.items() if v is not None and v != ""})


def variable_layer(text: str | None) -> Layer:
    """What the Airflow Variable sets.

    :raises ConfigurationError: if it is not a JSON object.
    """
    source = f"Variable {VARIABLE}"
    if text is None or not text.strip():
        return Layer(source, {})
    try:
        values = json.loads(text)
    except ValueError as why:
        raise ConfigurationError(
            f"The Airflow Variable {VARIABLE!r} is not valid JSON: {why}",
            setting=source,
            remedy='Write an object, such as {"max_age_days": 14}',
        ) from None
    return Layer(source, _an_object(values, source))


def file_layer(path: Path = FILE) -> Layer:
    """What the settings file sets; a missing or empty file sets nothing.

    :raises ConfigurationError: if it is not a YAML mapping.
    """
    import yaml

    source = f"include/{path.name}"
    try:
        # The parser in C, where PyYAML has it, takes a tenth of the time.
        loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        values = yaml.load(path.read_text(encoding="utf-8"), loader)  # noqa: S506 - a safe one
    except FileNotFoundError:
        values = None
    except (yaml.YAMLError, UnicodeDecodeError) as why:
        line = (
            f" at line {why.problem_mark.line + 1}"
            if isinstance(why, yaml.MarkedYAMLError) and why.problem_mark
            else ""
        )
        raise ConfigurationError(
            f"The settings file {source} is not valid YAML{line}", setting=source, remedy="Correct the file"
        ) from None
    return Layer(source, _an_object(values if values is not None else {}, source))


def _an_object(values: object, source: str) -> Mapping[str, Any]:
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigurationError(
            f"{source} does not hold an object with settings by name",
            setting=source,
            remedy="Write an object, such as {'max_age_days': 14}",
        )
    return values


def airflow_layers() -> list[Layer]:
    """What Airflow's own configuration says, for the settings that are left out."""
    home = os.path.abspath(os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow"))
    source, path = STOCK_BACKEND, airflow_option("common.io", "xcom_objectstorage_path")
    if airflow_option("core", "xcom_backend").startswith("xcom_blob_backend."):
        source, path = OWN_BACKEND, airflow_option("xcom_blob_backend", "path")
    return [
        Layer(source, {"blob_base_path": path} if path else {}),
        Layer(_HEARTBEAT, {"heartbeat_timeout_seconds": _heartbeat_timeout()}),
        # A folder of the machine: good for one worker, to be set for several.
        Layer("AIRFLOW_HOME", {"report_path": f"file://{home}/xcom_maintenance_reports"}),
    ]


def airflow_option(section: str, option: str) -> str:
    """An option of Airflow's own configuration; empty if it is not set."""
    from airflow.providers.common.compat.sdk import conf

    return (conf.get(section, option, fallback="") or "").strip()


def _heartbeat_timeout() -> float | None:
    """Seconds without a heartbeat after which the scheduler fails a task; None if not a sensible number."""
    with suppress(ValueError):
        seconds = float(airflow_option("scheduler", "task_instance_heartbeat_timeout") or "300")
        return seconds if 0.1 <= seconds <= 86_400 else None
    return None
