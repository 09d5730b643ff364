"""Sections as one static page: no scripts, no files beside it."""

import html
import pathlib
from collections.abc import Mapping, Sequence

from experiments.reporting import charts, section, wording
from experiments.reporting.section import Section

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 75em; margin: 2em auto;
  padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr.baseline { background: #f3f6fa; }
tr.absent td { color: #888; }
figure { margin: 1em 0; } img { max-width: 100%; }
figcaption, .caption { color: #555; font-size: .9em; }
.verdict { font-weight: 600; padding: .1em .5em; border-radius: .3em; background: #eee; }
.reproduced { background: #d8f0dc; } .contradicted { background: #f8dcdc; }
nav a { margin-right: 1em; }
"""


def page(
    title: str,
    parts: Sequence[Section],
    left_out: Mapping[pathlib.Path, str],
    *,
    runs: pathlib.Path,
) -> str:
    """The whole page of a paper; curves and pictures of the runs that are under `runs`."""
    names = [_anchor(part) for part in parts]
    links = "".join(
        f'<a href="#{name}">{_text(_heading(part))}</a>'
        for name, part in zip(names, parts, strict=True)
    )
    notes = [*wording.NOTES, *(f"{p.name} is left out: {why}" for p, why in left_out.items())]
    body = "\n".join(_section(part, runs) for part in parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{_text(title)}</h1>\n<nav>{links}</nav>\n{_list(notes)}\n{body}\n</body></html>\n"
    )


def _section(part: Section, runs: pathlib.Path) -> str:
    said, verdict, *orders = wording.claim(part)
    kind = part.word if part.word in (section.REPRODUCED, section.CONTRADICTED) else ""
    blocks = [
        f'<section id="{_anchor(part)}"><h2>{_text(_heading(part))}</h2>',
        f'<p>{_text(said)}<br><span class="verdict {kind}">{_text(verdict)}</span></p>',
        _list(orders),
        _table(part),
        f'<p class="caption">{_text(wording.caption(part))}</p>',
        _figure(charts.intervals(part), "Means and differences with 95 % intervals."),
        _figure(charts.curves(part, runs), "AP at each evaluation, mean over seeds."),
        *(_figure(uri, f"Detections: {name}") for name, uri in charts.pictures(part, runs).items()),
        "</section>",
    ]
    return "\n".join(filter(None, blocks))


def _table(part: Section) -> str:
    head, body = wording.cells(part)
    lines = [f"<tr>{''.join(f'<th>{_text(cell)}</th>' for cell in head)}</tr>"]
    for line, cells in zip(part.lines, body, strict=True):
        kind = "baseline" if line.row is part.baseline else "absent" if line.absent else ""
        inside = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        lines.append(f'<tr class="{kind}">{inside}</tr>')
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _figure(uri: str | None, says: str) -> str:
    if uri is None:
        return ""
    words = _text(says)
    return f'<figure><img src="{uri}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(item)}</li>' for item in items)}</ul>" if items else ""


def _heading(part: Section) -> str:
    at = f", {part.scale} scale" if part.scale else ""
    return f"Table {part.table.key}: {part.table.title}{at}"


def _anchor(part: Section) -> str:
    return f"table-{part.table.key}-{part.scale or 'not-run'}"


def _text(words: str) -> str:
    return html.escape(words)
