"""Airflow's Connections, with an error for people where there is none."""

from __future__ import annotations

from typing import Any

from include.xcom_maintenance.core.errors import ConfigurationError


def connection_of(conn_id: str, setting: str, what: str) -> Any:
    """A Connection.

    :param setting: the setting that names it.
    :param what: which Connection is needed, for whoever has to create it.
    :raises ConfigurationError: if there is none.
    """
    from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConfigurationError(
            f"There is no Connection {conn_id!r}",
            setting=setting,
            remedy=f"Create it in Airflow (Admin > Connections, or AIRFLOW_CONN_{conn_id.upper()}): {what}",
        ) from None
