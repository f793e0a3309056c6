"""What has moved between the versions of Airflow that the tests run on."""

from __future__ import annotations

from typing import Any

from airflow.sdk.bases.xcom import BaseXCom

try:
    from airflow.sdk import serde
    from airflow.sdk.observability.stats import Stats

    #: Whether the destination of metrics is named by the variables of OpenTelemetry itself.
    OTEL_BY_ITS_OWN_VARIABLES = True
except ImportError:  # Airflow before 3.2
    from airflow.serialization import serde
    from airflow.stats import Stats

    OTEL_BY_ITS_OWN_VARIABLES = False

try:
    from airflow.serialization.stringify import stringify
except ImportError:

    def stringify(row: Any) -> Any:
        """What the API shows of a row."""
        return serde.deserialize(row, full=False)


#: Whether tasks can push and pull asynchronously.
HAS_ASYNC = hasattr(BaseXCom, "aset")


def can_serialize(value: Any) -> bool:
    """Whether the default backend of this version takes a value: a UUID since Airflow 3.2, for one."""
    try:
        serde.serialize(value)
    except TypeError:
        return False
    return True


__all__ = ["HAS_ASYNC", "OTEL_BY_ITS_OWN_VARIABLES", "Stats", "can_serialize", "serde", "stringify"]
