"""The settings of ``xcom_offload_large_values``; what moves, and which way, is said in the trigger form alone."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from include.xcom_maintenance.settings.common import CommonSettings
from include.xcom_maintenance.settings.fields import Choice, Positive


class ThresholdSettings(CommonSettings):
    """What can be configured for all runs."""

    #: Values from so many bytes on as JSON are moved into blobs by hand; None: the threshold of the XCom backend.
    offload_threshold_bytes: Annotated[Positive, Field(ge=1_024)] | None = None


class OffloadSettings(ThresholdSettings):
    """With what is chosen for one run."""

    FORM_ONLY: ClassVar[frozenset[str]] = frozenset({"direction", "dag_ids", "key_order"})
    OWN_MODE: ClassVar[bool] = True

    #: offload moves values from rows into blobs, inline brings them back.
    direction: Literal["offload", "inline"] = "offload"
    #: Globs of the DAGs whose values move; empty: all.
    dag_ids: Choice = ()

    #: What comes back into rows: keep leaves values in their blobs whose keys JSONB would sort, any does not.
    key_order: Literal["keep", "any"] = "keep"

    def chooses(self, dag_id: str) -> bool:
        """Whether the values of a DAG are among those to move."""
        return not self.dag_ids or any(fnmatchcase(dag_id, glob) for glob in self.dag_ids)
