"""Re-encrypt what old keys hold, so that they can be taken out of the configuration.

``plan`` asks every value of this project's own XCom backend which key seals it. ``apply`` goes through what old keys
hold, in batches: each value is sealed again, as a new blob if it is one, and then its row is changed to hold that, if
it still holds what was sealed again. A task that pushed anew meanwhile, or was cleared, has the last word.

No blob is overwritten that a row refers to, and none deleted. So whenever the work breaks off each row refers to a
whole blob, and what is left over is an orphan for the reconciliation: the new blob if that was before the commit, the
former one after it. The latter is written once more, as it was, so that a task which read the row just before finds it
for as long as the grace period is.
"""

from __future__ import annotations

from include.xcom_maintenance.key_rotation.job import RotationJob
from include.xcom_maintenance.key_rotation.survey import Lines, survey
from include.xcom_maintenance.key_rotation.tables import describe
from include.xcom_maintenance.xcom_backend.port import Vault

# -- plan --------------------------------------------------


def plan(job: RotationJob, vault: Vault) -> None:
    """Find out which key holds what, and write down what is to be re-encrypted. Changes nothing."""
    if vault.unusable:
        _nothing_to_ask(job, vault)
        return
    with job.report.phase("look at keys"), job.place.write_manifest() as manifest:
        manifest.add(**job.plan_header("rotate_keys", job.metadata.now()))
        holdings = survey(job, vault, Lines(job, manifest))
        job.report.manifest = manifest.path
    describe(job, holdings)
    job.log.info("Plan: %s", ", ".join(f"{name}: {value}" for name, value in job.report.headline.items()))
    job.report.finish("planned" if job.enforcing else "reported")


def _nothing_to_ask(job: RotationJob, vault: Vault) -> None:
    job.report.warnings.append(f"{vault.unusable}, so there are no encrypted values to rotate.")
    job.report.headline = {"values_under_old_keys": 0}
    job.report.finish("reported")


# -- apply --------------------------------------------------
