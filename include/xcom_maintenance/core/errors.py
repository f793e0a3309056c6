"""The errors of the bundle. Each says what is wrong, which setting it is about, and what to do."""

from __future__ import annotations


class MaintenanceError(Exception):
    """Base of every error that the bundle raises on purpose.

    :param problem: what is wrong, in a sentence without a full stop; never a secret and never a value of an XCom.
    :param setting: the setting that the problem is about, if there is one.
    :param remedy: what the reader can do about it.
    """

    def __init__(self, problem: str, *, setting: str | None = None, remedy: str) -> None:
        self.problem = problem
        self.setting = setting
        self.remedy = remedy
        about = f" (setting: {setting})" if setting else ""
        super().__init__(f"{problem}{about}. {remedy}")


class ConfigurationError(MaintenanceError):
    """Something that a person has to change; trying again would give the same answer."""


class StoreUnavailable(MaintenanceError):
    """A database or an object store that cannot be reached now; trying again may help."""


class TryAgain(StoreUnavailable):
    """Something passing, such as a lost connection or a lock that was not granted: the same may succeed in a moment."""


class ImplausiblePlan(MaintenanceError):
    """The guard refused a plan: nothing was changed, and trying again would give the same answer."""


class ThresholdBreached(MaintenanceError):
    """An audit found what it was told to fail for; its report is written, and people have been told."""


class UnreadableManifest(MaintenanceError):
    """A manifest that is cut short: it is no plan."""


class PartialFailure(MaintenanceError):
    """Some of the work was done and some failed; the counts are in the report, and a re-run converges."""


class SharesFailed(PartialFailure):
    """Other tasks did not do all of their work; this one would find the same if it tried again."""


class FailedBefore(MaintenanceError):
    """There is nothing to finish, because a task before this one failed; that one says why and tells people."""
