"""The steps of a DAG: each runs a part of a room's work in the current task."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from include.xcom_maintenance.core.errors import ConfigurationError, FailedBefore, ImplausiblePlan, SharesFailed
from include.xcom_maintenance.flow import metrics, notifier
from include.xcom_maintenance.flow.ending import look_back, record, summary, tell_of, tell_of_breaches
from include.xcom_maintenance.flow.job import Job
from include.xcom_maintenance.flow.opening import Needs, begin, open_job
from include.xcom_maintenance.flow.run_context import place_of, planned_report, run_of, settings_of
from include.xcom_maintenance.metadata.ports import MetadataStore
from include.xcom_maintenance.reports.place import ReportPlace
from include.xcom_maintenance.reports.report import Report
from include.xcom_maintenance.settings.common import CommonSettings

_T = TypeVar("_T")
_S = TypeVar("_S", bound=CommonSettings)


@dataclass(frozen=True, slots=True)
class Flow(Generic[_S]):
    """What all steps of one DAG have in common, and the ways to run one.

    :param settings: the settings that the DAG has.
    :param needs: what its tasks need.
    """

    settings: type[_S]
    needs: Needs[_S]

    def plan(self, step: Callable[[Job[_S, MetadataStore]], None]) -> dict[str, Any]:
        """Run the first step of a DAG.

        :returns: a small summary: status, mode, the headline, the paths of the report and of the manifest.
        :raises AirflowFailException: for errors that only a person can fix, so that Airflow does not retry.
        """
        return self._run(step, planned=None)

    def part(
        self, step: Callable[[Job[_S, MetadataStore]], _T], planned: Mapping[str, Any], *, reports: bool = False
    ) -> _T:
        """Run a step in the middle, possibly in parallel with others; the last step writes the report.

        :param planned: the summary of the first step.
        :param reports: whether the step changes nothing, so that it is run in both modes.
        :returns: what the step does.
        :raises AirflowSkipException: as ``apply``, or if the plan was rejected.
        """
        results: list[_T] = []
        self._run(lambda job: results.append(step(job)), planned=planned, ends=False, reports=reports)
        return results[0]

    def decide(self, step: Callable[[Job[_S, MetadataStore]], None], planned: Mapping[str, Any]) -> dict[str, Any]:
        """Run the step that completes a plan made by several tasks, in both modes; it changes nothing.

        :param planned: the summary of the first step.
        :returns: a small summary, as ``plan``.
        """
        return self._run(step, planned=planned, reports=True)

    def apply(self, step: Callable[[Job[_S, MetadataStore]], None], planned: Mapping[str, Any]) -> dict[str, Any]:
        """Run the step that carries out what the first one planned, and ends the run.

        :param planned: the summary of the first step.
        :returns: a small summary, as ``plan``.
        :raises AirflowSkipException: if the mode is report, or was when the plan was made: such a plan has passed no
            guard.
        """
        return self._run(step, planned=planned)

    def finish(
        self, step: Callable[[Job[_S, MetadataStore]], None], planned: Mapping[str, Any] | None, *, begun: bool
    ) -> dict[str, Any]:
        """Run the last step, whatever happened to the earlier ones.

        :param planned: the summary of the first step; None if it failed.
        :param begun: whether carrying out the plan has begun.
        :raises AirflowFailException: if a step before it failed so that there is nothing to finish.
        """
        from airflow.providers.common.compat.sdk import AirflowFailException

        try:
            if planned is None:
                raise FailedBefore(
                    "There is no plan, so there is nothing to finish", remedy="See the logs of the earlier tasks"
                )
            if not begun and planned["mode"] == "enforce":
                self._why_not_begun(planned)
        except (ConfigurationError, FailedBefore) as error:
            raise AirflowFailException(str(error)) from error
        return self.apply(step, planned)

    def _why_not_begun(self, planned: Mapping[str, Any]) -> None:
        """A plan was not carried out: that is fine if a person decided so.

        :raises FailedBefore: if it is because a task has failed.
        """
        from airflow.sdk import get_current_context

        context: Any = get_current_context()
        settings = settings_of(context, self.settings).settings
        place = place_of(context, settings)
        report = planned_report(place, planned)
        if report.status == "rejected":
            return
        if settings.mode_of(report.dag_id) == "report":
            report.warnings.append("The mode was changed back to report before the plan was carried out.")
            report.finish("reported")
            place.write(report)
            return
        if report.error is None:  # nobody could write it down
            message = "The plan was not carried out, because the task approve or share_out failed. See its log"
            report.error = {"type": "FailedBefore", "message": message, "setting": None, "remedy": "See its log"}
            report.finish("failed")
            place.write(report)
        raise FailedBefore("The plan was not carried out", remedy=report.error["message"])

    def _run(
        self,
        step: Callable[[Job[_S, MetadataStore]], None],
        *,
        planned: Mapping[str, Any] | None,
        ends: bool = True,
        reports: bool = False,
    ) -> dict[str, Any]:
        """Run a step; one that does not end the run leaves the report alone unless it fails."""
        from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
        from airflow.sdk import get_current_context

        context: Any = get_current_context()
        report, before, idle = Report(*run_of(context)), metrics.Before(), None
        breaches: list[str] = []
        place: ReportPlace | None = None
        try:
            resolved = settings_of(context, self.settings)
            settings, mode = resolved.settings, resolved.settings.mode_of(report.dag_id)
            if planned is not None and not reports and "report" in (mode, planned["mode"]):
                raise AirflowSkipException("Nothing to do: the mode is report.")
            place = place_of(context, settings)
            if planned is not None:
                report = planned_report(place, planned)
                if report.status == "rejected":
                    raise AirflowSkipException(f"Nothing to do: the plan was {report.approval}.")
                report.error = None  # of an attempt before this one
                before = metrics.Before.of(report)
            report.mode, report.settings = mode, resolved.described()
            if planned is None:
                begin(report, place, settings)
            with open_job(resolved, report, place, self.needs, is_first=planned is None) as job, heap_set_aside():
                step(job)
                breaches = job.breaches
            if not ends:
                return {}
            idle = look_back(report, place, settings) if self.needs.looks_back else None
            place.write(report)
        except AirflowSkipException:
            raise
        except Exception as error:
            place = record(report, error, place, context)
            metrics.emit(report, before)
            if isinstance(error, ImplausiblePlan):
                tell_of(notifier.PLAN_REFUSED, str(error), report, place, context)
            if isinstance(error, ConfigurationError | ImplausiblePlan | SharesFailed):
                raise AirflowFailException(str(error)) from None
            raise
        metrics.emit(report, before)
        if idle is not None:
            tell_of(notifier.NOT_ENFORCED, idle, report, place, context)
        if breaches:
            tell_of_breaches(breaches, report, place, context, fail=self.needs.fails_on_breach(settings))
        return summary(report, place)


def publish(asset: Any, summary: Mapping[str, Any]) -> None:
    """Put the headline of a report into the event of an asset that the current task updates.

    :param asset: one of the task's outlets.
    :param summary: what ``Flow.plan`` returned.
    """
    from airflow.sdk import get_current_context

    events: Any = get_current_context().get("outlet_events")
    if events is not None:
        events[asset].extra = {**events[asset].extra, **summary}


@contextmanager
def heap_set_aside() -> Iterator[None]:
    """Let Python's collector of cycles pass over all that Airflow has imported; it looks at what the step makes."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
