"""The errors of the Postgres drivers, turned into ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from include.xcom_maintenance.core.errors import ConfigurationError, MaintenanceError, StoreUnavailable, TryAgain


@contextmanager
def translated(setting: str) -> Iterator[None]:
    """Turn the driver's errors into ours. Only the primary message is kept: details can quote values."""
    try:
        yield
    except MaintenanceError:
        raise
    except Exception as error:
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if not type(error).__module__.startswith("psycopg"):
            raise
        message = getattr(getattr(error, "diag", None), "message_primary", None)
        raise _explain(error, state, message, setting) from None


def _explain(error: Exception, state: str | None, message: str | None, setting: str) -> MaintenanceError:
    """The error for a state of https://www.postgresql.org/docs/current/errcodes-appendix.html.

    A connection that fails has no state with every driver, only a text.
    """
    whole = str(error).strip()
    text = (message or whole or type(error).__name__).splitlines()[0]
    state = state or ""
    kind: type[MaintenanceError] = MaintenanceError
    if state == "42501":
        kind, problem = ConfigurationError, f"The metadata database denied access: {text}"
        remedy = "Grant the missing privilege to the role of the connection"
    elif state == "55P03":
        kind, problem = TryAgain, "A lock in the metadata database could not be acquired in time"
        setting, remedy = "lock_timeout_seconds", "Nothing in this batch was changed; the task is retried"
    elif state in {"40001", "40P01"}:
        kind, problem = TryAgain, "Another transaction interfered (serialization failure or deadlock)"
        remedy = "Nothing in this batch was changed; the task is retried"
    elif state == "57014":
        kind, problem = StoreUnavailable, "A statement on the metadata database took too long and was cancelled"
        setting = "statement_timeout_seconds"
        remedy = "Nothing in this batch was changed; lower batch_rows or raise the timeout"
    elif state.startswith("28") or "authentication failed" in whole or "no password supplied" in whole:
        kind = ConfigurationError
        problem = "The metadata database rejected the login or password of the connection"
        remedy = "Correct the connection's login and password"
    elif re.search(r'(database|role) "[^"]*" does not exist', whole):
        kind, problem = ConfigurationError, f"The metadata database cannot be opened: {text}"
        remedy = "Correct the connection's schema (the name of the database) and login"
    elif not state or state[:2] in {"08", "57", "53"}:
        kind, problem = TryAgain, f"The metadata database cannot be reached: {text}"
        remedy = "Check the connection's host and port, and that the workers can reach the database"
    else:
        problem = f"The metadata database returned error {state}: {text}"
        remedy = "Nothing in this batch was changed"
    return kind(problem, setting=setting, remedy=remedy)
