"""Numbers and captions of a section in words: the same in Markdown and on the page."""

from collections.abc import Iterable

from experiments.reporting import section
from experiments.reporting.section import Line, Section
from experiments.reporting.statistics import Interval

UNVERIFIED = "†"
NOTES = (
    "Intervals are 95 % of Student's t over seeds; differences are taken seed by seed. One that is "
    'smaller than its interval is "not resolved". Nothing is corrected for the number of rows.',
    "AP and AR in percent. (In brackets: published.) " + UNVERIFIED + " published number quoted "
    "from others than its source.",
)


def value(found: Interval | None, *, signed: bool = False) -> str:
    """A mean with its interval, or that it has none."""
    if found is None:
        return "-"
    mean = f"{found.mean:+.1f}" if signed else f"{found.mean:.1f}"
    if found.half is None:
        return f"{mean} (one seed, no interval)"
    return f"{mean} ± {found.half:.1f}" + ("" if signed else f" ({found.count} seeds)")


def difference(found: Interval | None) -> str:
    """A difference with its interval, and whether it is more than noise."""
    if found is None:
        return "-"
    open_ = found.half is not None and found.sign == 0
    return value(found, signed=True) + (", not resolved" if open_ else "")


def number(found: float | None, *, signed: bool = False) -> str:
    """A number as tables write it: AP with one decimal, counts with thousands."""
    if found is None:
        return "-"
    if abs(found) >= 1000:
        return f"{found:+,.0f}" if signed else f"{found:,.0f}"
    return f"{found:+.1f}" if signed else f"{found:.1f}"


def cells(part: Section) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of a section's table."""
    first, *others = part.metrics
    head = ["row", f"published {first}", "to baseline", f"our {first}", "to baseline, by seed"]
    return [*head, *others], [_cells(part, line) for line in part.lines]


def _cells(part: Section, line: Line) -> list[str]:
    first, *others = part.metrics
    published = _published(line, first)
    gap = number(part.published_difference(line), signed=True)
    is_baseline = line.row is part.baseline
    ours = line.absent or value(line.means.get(first))
    own = [
        line.row.label,
        published,
        "baseline" if is_baseline else gap,
        ours,
        "baseline" if is_baseline else difference(line.difference),
    ]
    return own + [_beside(line, metric) for metric in others]


def _beside(line: Line, metric: str) -> str:
    """Our mean, and the published number in brackets."""
    ours, given = line.means.get(metric), _published(line, metric)
    words = [number(ours.mean)] if ours else []
    words += [f"({given})"] if given != "-" else []
    return " ".join(words) or "-"


def _published(line: Line, metric: str) -> str:
    found = section.published(line.row, metric)
    quoted = found is not None and not line.row.published.verified
    return number(found) + UNVERIFIED * quoted


def claim(part: Section) -> list[str]:
    """The claim, what became of it, and each order that it implies."""
    at = f" at {part.scale} scale" if part.scale else ""
    lines = [f"Claim: {part.table.claim}", f"Ours{at}: {part.word}."]
    for verdict in part.verdicts:
        measured = "" if verdict.difference is None else f", {difference(verdict.difference)}"
        # The word says already what the difference would add.
        measured = measured.removesuffix(", not resolved")
        order = f"{verdict.better.label} above {verdict.worse.label}"
        lines.append(f"{order}: {verdict.word}{measured}")
    return lines


def caption(part: Section) -> str:
    """What the numbers were measured with: scale, data, steps, seeds, device, commits."""
    given = [line.row.published for line in part.lines if line.row.published is not None]
    sources = f" ({_joined(f'{p.source}{UNVERIFIED * (not p.verified)}' for p in given)})"
    published = f"Published: {part.table.setting}{sources * bool(given)}."
    results = [result for line in part.lines for result in line.group.values()]
    if not results:
        return f"Nothing of this table has been run. {published}"
    seeds = _joined(sorted({result.seed for result in results}))
    drawn = part.table.overrides.get(part.scale, {})
    style = [f"{k.removeprefix('data.eval.')} {v}" for k, v in drawn.items() if "data.eval." in k]
    data = _joined(result.data for result in results) + (f" ({', '.join(style)})" if style else "")
    return (
        f"Ours: {part.scale} scale; {data}; {_joined(sorted({r.step for r in results}))} steps; "
        f"seeds {seeds}; {_joined(r.device for r in results)}; "
        f"commits {_joined(r.commit for r in results)}. {published}"
    )


def _joined(words: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, words)))
