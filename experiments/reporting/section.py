"""A table at one scale, as numbers and verdicts: what Markdown and HTML then only have to print."""

import dataclasses
import types
from collections.abc import Mapping, Sequence

from experiments import rows
from experiments.reporting import statistics
from experiments.reporting.measured import Group, is_share
from experiments.reporting.speeds import Speed
from experiments.reporting.statistics import Interval

REPRODUCED, OPEN, CONTRADICTED = "reproduced", "not resolved", "contradicted"
NOT_RUN, UNDECLARED = "not run", "no order declared"
FIRST = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a table.

    Attributes:
      row: what it is.
      group: our results by seed; may be empty.
      means: metric -> mean over the seeds that have it.
      difference: to the baseline, by seed, in the table's first metric; None without seeds in
        common, and for the baseline itself.
      absent: why there is no result; "" where there is one.
    """

    row: rows.Row
    group: Group
    means: Mapping[str, Interval]
    difference: Interval | None
    absent: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether one row is better than another, as the table's claim has it."""

    better: rows.Row
    worse: rows.Row
    difference: Interval | None

    @property
    def word(self) -> str:
        """reproduced, contradicted, not resolved or not run."""
        if self.difference is None:
            return NOT_RUN
        return {1: REPRODUCED, 0: OPEN, -1: CONTRADICTED}[self.difference.sign]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A table at one scale; None: nothing of it has been run.

    `speed` is what its rows cost; None: that was not measured.
    """

    table: rows.Table
    scale: str | None
    metrics: tuple[str, ...]  # the first is what is compared
    lines: tuple[Line, ...]
    verdicts: tuple[Verdict, ...]
    speed: Speed | None = None

    @property
    def word(self) -> str:
        """What becomes of the claim: all of its orders together."""
        if not any(line.group for line in self.lines):
            return NOT_RUN
        words = [verdict.word for verdict in self.verdicts]
        if not words:
            return UNDECLARED
        if CONTRADICTED in words:
            return CONTRADICTED
        for word in (REPRODUCED, NOT_RUN):
            if set(words) == {word}:
                return word
        if REPRODUCED in words:
            return f"{REPRODUCED} in {words.count(REPRODUCED)} of {len(words)} orders"
        return OPEN

    @property
    def baseline(self) -> rows.Row:
        """The row that the others are compared with."""
        return self.table.row(self.table.baseline)

    def costs(self, line: Line) -> Mapping[str, float]:
        """What a row costs, by the fields of `anchors_jax.speed.Cost`; empty where not measured.

        Costs of a row without a result of its present config do not count either.
        """
        return self.speed.rows.get(line.row.key, {}) if self.speed and line.group else {}

    def published_difference(self, line: Line) -> float | None:
        """To the baseline, as published."""
        ours, theirs = (published(row, self.metrics[0]) for row in (line.row, self.baseline))
        if line.row is self.baseline or ours is None or theirs is None:
            return None
        return ours - theirs


def build(
    table: rows.Table,
    groups: Mapping[tuple[str, str, str], Group],
    scale: str | None,
    *,
    speed: Speed | None = None,
) -> Section:
    """The section of a table at a scale. Results of other scales never enter it."""
    found = {row.key: groups.get((table.key, row.key, scale), {}) for row in table.rows}
    metrics = _metrics(table, found)
    first = metrics[0]
    values = {key: _by_seed(group, first) for key, group in found.items()}
    lines = tuple(
        Line(
            row=row,
            group=found[row.key],
            means=_means(found[row.key], metrics),
            difference=None
            if row.key == table.baseline
            else statistics.paired(values[row.key], values[table.baseline]),
            absent="" if found[row.key] else _why_absent(row, scale),
        )
        for row in table.rows
    )
    verdicts = tuple(
        Verdict(
            better=table.row(better),
            worse=table.row(worse),
            difference=statistics.paired(values[better], values[worse]),
        )
        for better, worse in table.expect
    )
    return Section(
        table=table, scale=scale, metrics=metrics, lines=lines, verdicts=verdicts, speed=speed
    )


def sections(
    paper: rows.Paper,
    groups: Mapping[tuple[str, str, str], Group],
    scales: Sequence[str],
    speeds: Mapping[tuple[str, str], Speed] = types.MappingProxyType({}),
) -> list[Section]:
    """For each table one section per scale with results, or one that says that it was not run.

    `speeds` are the costs of (table, scale) as far as they were measured.
    """
    built = []
    for table in paper.tables:
        run = [s for s in scales if any(key[0] == table.key and key[2] == s for key in groups)]
        for scale in run or [None]:
            built.append(build(table, groups, scale, speed=speeds.get((table.key, scale))))
    return built


def published(row: rows.Row, metric: str) -> float | None:
    """The published number of a row; None where there is none."""
    return None if row.published is None else row.published.metrics.get(metric)


def _metrics(table: rows.Table, found: Mapping[str, Group]) -> tuple[str, ...]:
    """The table's metrics: AP first (without it, what was published), then those that are known."""
    given = {m: None for row in table.rows if row.published for m in row.published.metrics}
    ours = {
        metric
        for group in found.values()
        for result in group.values()
        for metric in FIRST
        if result.metric(metric) is not None
    }
    first = "AP" if "AP" in given or not given else next(iter(given))
    known = [metric for metric in FIRST if metric in given or metric in ours]
    return tuple(dict.fromkeys([first, *known, *(m for m in given if is_share(m)), *given]))


def _by_seed(group: Group, metric: str) -> dict[int, float]:
    values = {seed: result.metric(metric) for seed, result in group.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _means(group: Group, metrics: Sequence[str]) -> dict[str, Interval]:
    values = {metric: list(_by_seed(group, metric).values()) for metric in metrics}
    return {metric: statistics.interval(found) for metric, found in values.items() if found}


def _why_absent(row: rows.Row, scale: str | None) -> str:
    if row.unavailable:
        return f"cannot be run: {row.unavailable}"
    if not row.config:
        return "quoted only"
    if scale is not None and row.word(scale) is None:
        return f"does not exist at {scale} scale"
    return NOT_RUN
