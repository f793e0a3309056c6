"""Which rows are deleted and which are kept, and why. Pure: the time is an argument.

As in borg's ``prune``, every verdict carries its reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import groupby, repeat
from typing import NamedTuple

from include.xcom_maintenance.core.runs import (
    FINISHED_RUN_STATES,
    Cut,
    Doomed,
    Run,
    Scope,
    Selection,
    YoungerRuns,
    matches_any,
)

#: A row is pushed after its run is created. The clocks of two machines may differ, but not by this much.
CLOCK_TOLERANCE = timedelta(days=1)


class Reason(StrEnum):
    """Why rows are deleted or kept."""

    TOO_OLD = "older than max_age_days"
    TOO_MANY_RUNS = "beyond the newest max_runs runs"
    STUCK = "run over, its unfinished tasks idle for stuck_after_days"
    UNFINISHED_RUN = "run not finished"
    UNFINISHED_TASK = "run has unfinished tasks"
    HOLD = "hold: true"
    MIN_RUNS = "among the newest min_runs finished runs"
    WITHIN_MAX_RUNS = "among the newest max_runs runs"
    YOUNG = "younger than max_age_days"
    LATEST_VALUE = "latest value of its key"
    NO_RULE = "no rule matches"


_EVERYTHING = Scope()


@dataclass(frozen=True, slots=True)
class Rule:
    """One retention rule; the first rule that matches a row decides.

    ``max_age`` and ``max_runs`` delete rows; ``min_runs``, ``keep_latest_value`` and ``hold`` keep them.
    """

    dag_ids: tuple[str, ...] = ("*",)
    exclude_dag_ids: tuple[str, ...] = ()
    #: The DAG must have a tag that matches one of these globs. Empty: any DAG, tagged or not.
    tags: tuple[str, ...] = ()
    exclude_tags: tuple[str, ...] = ()
    #: Which rows of those DAGs.
    scope: Scope = _EVERYTHING
    #: Rows pushed longer ago are deleted. None: no row is deleted for its age.
    max_age: timedelta | None = timedelta(days=7)
    #: Only this many newest finished runs keep rows, however young the others are. None: no limit.
    max_runs: int | None = None
    #: This many newest finished runs keep their rows, however old.
    min_runs: int = 1
    keep_latest_value: bool = False
    hold: bool = False
    #: Of a run that is over, unfinished tasks without a sign of life for so long are stuck, and protect nothing; None:
    #: they protect the rows of their run for ever.
    stuck_after: timedelta | None = None

    def matches(self, dag_id: str, tags: Collection[str] = ()) -> bool:
        """Whether the rule applies to a DAG: case-sensitive globs, exclusions last."""
        return (
            matches_any(dag_id, self.dag_ids)
            and (not self.tags or any(matches_any(tag, self.tags) for tag in tags))
            and not matches_any(dag_id, self.exclude_dag_ids)
            and not any(matches_any(tag, self.exclude_tags) for tag in tags)
        )

    def covers(self, later: Rule) -> bool:
        """Whether this rule leaves nothing for a later one, as far as their globs show."""

        def all_in(globs: Sequence[str], wider: Sequence[str]) -> bool:
            return all(glob in wider or (_is_plain(glob) and matches_any(glob, tuple(wider))) for glob in globs) or (
                "*" in wider
            )

        mine, other = self.scope, later.scope
        return (
            all_in(later.dag_ids, self.dag_ids)
            and (not self.tags or (bool(later.tags) and all_in(later.tags, self.tags)))
            and all_in(other.task_ids, mine.task_ids)
            and all_in(other.keys, mine.keys)
            and all_in(self.exclude_dag_ids, later.exclude_dag_ids)
            and all_in(self.exclude_tags, later.exclude_tags)
            and all_in(mine.exclude_task_ids, other.exclude_task_ids)
            and all_in(mine.exclude_keys, other.exclude_keys)
        )


def _is_plain(glob: str) -> bool:
    return not set(glob) & set("*?[")


@dataclass(frozen=True, slots=True)
class Link:
    """A rule that applies to a DAG, and the rows that earlier rules leave for it; None: all of them."""

    position: int
    rule: Rule
    selection: Selection | None


@dataclass(frozen=True, slots=True)
class Part:
    """What one rule does to its rows of a run: delete by a cut, or keep all, and why."""

    #: Position of the rule that decided, from 0; None if no rule matches.
    rule: int | None
    reason: Reason
    cut: Cut | None = None


class RunVerdict(NamedTuple):
    """The verdict on one run: a part for each rule that applies to some of its rows."""

    run: Run
    parts: tuple[Part, ...]


def given_up(verdicts: Iterable[RunVerdict | YoungerRuns], parts: list[Part]) -> Doomed:
    """The runs and cuts that verdicts delete.

    :param parts: filled with the part that each cut comes from, at the same position.
    """
    places: dict[int, int] = {}  # by identity: parts are few and shared
    cuts: list[Cut] = []
    ids: list[int] = []
    which: list[int] = []
    for verdict in verdicts:
        if isinstance(verdict, YoungerRuns):
            continue
        for part in verdict.parts:
            if part.cut is None:
                continue
            if id(part) not in places:
                places[id(part)] = len(parts)
                parts.append(part)
                cuts.append(part.cut)
            ids.append(verdict.run.dag_run_id)
            which.append(places[id(part)])
    return Doomed(tuple(cuts), ids, which)


_NO_RULE = Part(None, Reason.NO_RULE)


class Policy:
    """Retention rules at a point in time.

    :param rules: in the order they are tried.
    :param now: the time (UTC) from which ages are measured. Rows pushed later are never deleted.
    :param tags: the tags of the DAGs that have any.
    """

    def __init__(
        self, rules: Sequence[Rule], *, now: datetime, tags: Mapping[str, Collection[str]] | None = None
    ) -> None:
        self.rules = tuple(rules)
        self.now = now
        self._tags = tags or {}
        self._chains: dict[str, tuple[Link, ...]] = {}
        # Equal verdicts are one object: there are many runs and few verdicts.
        self._shared_chains: dict[tuple[int, ...], tuple[Link, ...]] = {}
        self._parts: dict[tuple[int, Reason, bool], Part] = {}
        self._verdicts: dict[tuple[int, bool, tuple[bool, ...] | None, int], tuple[Part, ...]] = {}
        #: Beyond this many newest finished runs of a DAG, rank makes no difference to any rule.
        self.newest = max((max(rule.min_runs, rule.max_runs or 0) for rule in rules), default=0)
        #: The scopes of the rules that apply to only some rows of a DAG.
        self.scopes = tuple(dict.fromkeys(rule.scope for rule in rules if not rule.scope.whole))

    @property
    def horizon(self) -> datetime | None:
        """Runs created later lose no rows, since a row is never older than its run. None: any run may lose rows."""
        taking = [rule for rule in self.rules if not rule.hold]
        if any(rule.max_runs is not None for rule in taking):
            return None
        ages = [rule.max_age for rule in taking if rule.max_age is not None]
        if not ages:
            return datetime.min.replace(tzinfo=UTC)
        return self.now - min(ages) + CLOCK_TOLERANCE

    def chain(self, dag_id: str) -> tuple[Link, ...]:
        """The rules that apply to a DAG, in order; empty if there are none."""
        found = self._chains.get(dag_id)
        if found is None:
            tags = self._tags.get(dag_id, ())
            positions = tuple(i for i, rule in enumerate(self.rules) if rule.matches(dag_id, tags))
            if positions not in self._shared_chains:
                self._shared_chains[positions] = tuple(self._links(positions))
            found = self._chains[dag_id] = self._shared_chains[positions]
        return found

    def _links(self, positions: Iterable[int]) -> Iterator[Link]:
        before: list[Scope] = []
        for position in positions:
            rule = self.rules[position]
            whole = rule.scope.whole and not before
            yield Link(position, rule, None if whole else Selection(rule.scope, tuple(before)))
            if rule.scope.whole:
                return
            before.append(rule.scope)

    def link(self, dag_id: str, scopes: int) -> Link | None:
        """The rule that decides about some rows of a DAG; None if no rule matches.

        :param scopes: bit i is set if the rows lie in ``self.scopes[i]``.
        """
        for link in self.chain(dag_id):
            if link.rule.scope.whole or scopes >> self.scopes.index(link.rule.scope) & 1:
                return link
        return None

    def judge(self, runs: Iterable[Run | YoungerRuns]) -> Iterator[RunVerdict | YoungerRuns]:
        """Judge every run, in constant memory; counts of younger runs are passed through.

        :param runs: grouped by DAG. Within a DAG, first the count of younger runs, if any, then each other run, newest
            first by ``run_after``, then by ``dag_run_id``.
        """
        for dag_id, runs_of_dag in groupby(runs, key=lambda run: run.dag_id):
            chain = self.chain(dag_id)
            finished_before = 0
            for run in runs_of_dag:
                if isinstance(run, YoungerRuns):
                    finished_before += run.finished
                    yield run
                    continue
                finished = run.state in FINISHED_RUN_STATES
                stuck = self._stuck(chain, run) if run.unfinished_tasks > 0 else None
                yield RunVerdict(run, self._judge(chain, finished=finished, stuck=stuck, rank=finished_before))
                finished_before += finished

    def beyond(self, dag_id: str) -> tuple[Part, ...]:
        """The verdict on every finished run of a DAG beyond its ``newest`` newest finished runs."""
        return self._judge(self.chain(dag_id), finished=True, stuck=None, rank=self.newest)

    def _stuck(self, chain: tuple[Link, ...], run: Run) -> tuple[bool, ...]:
        """Whether the unfinished tasks of a run are stuck, by each rule."""
        afters = (link.rule.stuck_after for link in chain)
        return tuple(
            after is not None and run.last_sign is not None and run.last_sign < self.now - after for after in afters
        )

    def _judge(
        self, chain: tuple[Link, ...], *, finished: bool, stuck: tuple[bool, ...] | None, rank: int
    ) -> tuple[Part, ...]:
        """Judge a run.

        :param stuck: whether its unfinished tasks are stuck, by each rule; None if it has none.
        :param rank: how many newer finished runs its DAG has.
        """
        case = (id(chain), finished, stuck, min(rank, self.newest))
        found = self._verdicts.get(case)
        if found is None:
            parts = [
                self._part(link, *_reason(link.rule, finished=finished, stuck=is_stuck, rank=rank))
                for link, is_stuck in zip(chain, repeat(None) if stuck is None else stuck, strict=False)
            ]
            found = self._verdicts[case] = tuple(parts) or (_NO_RULE,)
        return found

    def _part(self, link: Link, reason: Reason, stuck: bool) -> Part:
        found = self._parts.get((id(link), reason, stuck))
        if found is None:
            rule, cut = link.rule, None
            stuck_before = None if rule.stuck_after is None else self.now - rule.stuck_after
            if reason is Reason.TOO_MANY_RUNS:
                cut = Cut(self.now, rule.keep_latest_value, link.selection, stuck_before)
            elif reason is Reason.TOO_OLD and rule.max_age is not None:
                cut = Cut(self.now - rule.max_age, rule.keep_latest_value, link.selection, stuck_before)
            why = Reason.STUCK if stuck and cut is not None else reason
            found = self._parts[id(link), reason, stuck] = Part(link.position, why, cut)
        return found


def _reason(rule: Rule, *, finished: bool, stuck: bool | None, rank: int) -> tuple[Reason, bool]:
    """Why rows go or stay, and whether only since the unfinished tasks of their run are stuck."""
    if rule.hold:
        return Reason.HOLD, False
    if not finished:
        return Reason.UNFINISHED_RUN, False
    if stuck is False:
        return Reason.UNFINISHED_TASK, False
    if rank < rule.min_runs:
        return Reason.MIN_RUNS, False
    if rule.max_runs is not None and rank >= rule.max_runs:
        return Reason.TOO_MANY_RUNS, bool(stuck)
    return Reason.TOO_OLD if rule.max_age is not None else Reason.WITHIN_MAX_RUNS, bool(stuck)
