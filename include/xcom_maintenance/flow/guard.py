"""What the guards of all DAGs share. Pure: figures in, objections out.

An objection means: stop until somebody has looked.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Below this number a share means little: three orphans among four blobs are nothing to worry about.
SHARE_MATTERS_FROM = 1_000


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a plan is not carried out, the setting concerned, and what to do."""

    problem: str
    setting: str
    remedy: str
    #: Merely large, so that a person may approve of it; otherwise it is implausible, and refused.
    large: bool = False


def above_limit(problem: str, setting: str) -> Objection:
    remedy = "Check the plan in the report; if it is right, raise the limit for one run in the trigger form"
    return Objection(problem, setting, remedy, large=True)
