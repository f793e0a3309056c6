"""The settings of ``xcom_restore``. What to restore is chosen only in the trigger form."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, ClassVar

from pydantic import Field

from include.xcom_maintenance.core.reference_formats import names
from include.xcom_maintenance.retention.settings import RetentionSettings
from include.xcom_maintenance.settings.fields import Choice, Place


class RestoreSettings(RetentionSettings):
    """Includes the retention rules, since the next cleanup applies them."""

    FORM_ONLY: ClassVar[frozenset[str]] = frozenset({"archive", "quarantine", "dag_ids", "run_ids", "task_ids"})
    OWN_MODE: ClassVar[bool] = True
    NOT_SHOWN: ClassVar[frozenset[str]] = frozenset({"archive"})

    #: An archive folder or file; a relative path is taken below archive_path.
    archive: Place | None = None
    #: Restore blobs instead of rows: the run id, manifest or quarantine folder of a reconciliation run, or all.
    quarantine: Annotated[str, Field(min_length=1)] | None = None
    #: Globs of what to restore; empty: everything.
    dag_ids: Choice = ()
    run_ids: Choice = ()
    task_ids: Choice = ()

    def chooses(self, dag_id: str, run_id: str, task_id: str) -> bool:
        """Whether the rows of a task instance are among those to restore."""
        chosen = ((dag_id, self.dag_ids), (run_id, self.run_ids), (task_id, self.task_ids))
        # An id that is cut in the name of a blob, and that nobody knows any more, still has its hash.
        return all(
            not globs or any(fnmatchcase(name, glob) or names(name, glob) for glob in globs) for name, globs in chosen
        )
