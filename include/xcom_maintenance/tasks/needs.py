"""What the tasks of each DAG need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from include.xcom_maintenance.settings import OffloadSettings, RestoreSettings, RotateSettings, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the tasks of a DAG need; rights in the metadata database only when it enforces."""

    #: The settings that the DAG has.
    settings: type[Settings] = Settings
    #: Whether rows are deleted, which may be a matter of the settings.
    deletes: Callable[[Settings], bool] = lambda _: False
    #: Whether rows are inserted, which may be a matter of the settings.
    inserts: Callable[[Settings], bool] = lambda _: False
    #: Whether values in rows are replaced.
    updates: bool = False
    #: Whether blobs are looked at by our own adapters; None: if they can be, and else the DAG does without.
    blobs: bool | None = True
    #: Whether a plan warns if no run has enforced for long.
    looks_back: bool = False

    def rights(self, settings: Settings, mode: str) -> dict[str, bool]:
        """The rights that are needed, by the names that ``MetadataStore.check`` has for them."""
        wanted = {
            "may_delete": self.deletes(settings),
            "may_insert": self.inserts(settings),
            "may_update": self.updates,
        }
        return {right: needed and mode == "enforce" for right, needed in wanted.items()}


CLEANUP = Needs(deletes=lambda _: True, looks_back=True)
AUDIT = Needs(blobs=None)
RECONCILIATION = Needs(deletes=lambda settings: settings.delete_dangling_rows)
#: Blobs that return from the quarantine need no row.
RESTORE = Needs(
    settings=RestoreSettings,
    inserts=lambda settings: not (isinstance(settings, RestoreSettings) and settings.quarantine is not None),
)
#: The job itself asks for the right to replace values, since a direction may not be possible here.
OFFLOAD = Needs(settings=OffloadSettings, blobs=False)
ROTATION = Needs(settings=RotateSettings, updates=True, blobs=False)
