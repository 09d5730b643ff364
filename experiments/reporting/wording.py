"""Numbers and captions of a section in words: the same in Markdown and on the page."""

from collections.abc import Callable, Iterable, Mapping

from experiments.reporting import section, speeds
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
    first, others, columns = part.metrics[0], _others(part), _columns(part)
    head = ["row", f"published {first}", "to baseline", f"our {first}", "to baseline, by seed"]
    head += [*others, *(column.head for column in columns)]
    return head, [_cells(part, line) for line in part.lines]


def _columns(part: Section) -> tuple[speeds.Column, ...]:
    """Columns of what rows cost, where that was measured."""
    return speeds.COLUMNS if part.speed else ()


def _others(part: Section) -> list[str]:
    """Metrics beside the first; published costs go to the columns of ours where there are any."""
    elsewhere = speeds.PUBLISHED if part.speed else ()
    return [metric for metric in part.metrics[1:] if metric not in elsewhere]


def _cells(part: Section, line: Line) -> list[str]:
    first = part.metrics[0]
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
    own += [_mean_beside(line, metric) for metric in _others(part)]
    return own + [_cost_beside(part.costs(line), line, column) for column in _columns(part)]


def _mean_beside(line: Line, metric: str) -> str:
    ours = line.means.get(metric)
    return _beside(number(ours.mean) if ours else "-", _published(line, metric))


def _cost_beside(costs: Mapping[str, float], line: Line, column: speeds.Column) -> str:
    ours = column.say(costs[column.ours]) if costs else "-"
    return _beside(ours, _published(line, column.published, say=column.say))


def _beside(ours: str, published: str) -> str:
    """Our number, and the published one in brackets."""
    words = [ours] if ours != "-" else []
    words += [f"({published})"] if published != "-" else []
    return " ".join(words) or "-"


def _published(line: Line, metric: str, *, say: Callable[[float], str] = number) -> str:
    found = section.published(line.row, metric)
    if found is None:
        return "-"
    return say(found) + UNVERIFIED * (not line.row.published.verified)


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
        f"commits {_joined(r.commit for r in results)}. {_measured(part)}{published}"
    )


def _measured(part: Section) -> str:
    """What the costs were measured with; the head's are those of one image."""
    if not part.speed:
        return ""
    at = f"{part.speed.device}, commit {part.speed.commit}, JAX {part.speed.jax}"
    return (
        f"Times: ours with one image at a time, median of {part.speed.images} images, rows in "
        f"turn; {at}. Boxes and multiply-adds of the head (MACs): of one image. "
    )


def _joined(words: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, words)))
