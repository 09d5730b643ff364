"""Sections as Markdown, and the place in a README where they go."""

import pathlib
from collections.abc import Mapping, Sequence

from anchors_jax import files
from experiments.reporting import wording
from experiments.reporting.section import Section

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def text(parts: Sequence[Section], left_out: Mapping[pathlib.Path, str]) -> str:
    """All sections of a paper."""
    blocks = [block(part) for part in parts]
    notes = "\n".join(f"- {note}" for note in wording.NOTES)
    stale = "\n".join(f"- `{path.name}` is left out: {why}" for path, why in left_out.items())
    return "\n\n".join(filter(None, [notes, stale, *blocks]))


def block(part: Section) -> str:
    """One table with its heading, claim and caption."""
    at = f", {part.scale} scale" if part.scale else ""
    first, second, *orders = wording.claim(part)
    said = [f"{first}  ", f"**{second}**", *(f"- {order}" for order in orders)]
    return "\n\n".join(
        [
            f"### Table {part.table.key}: {part.table.title}{at}",
            "\n".join(said),
            table(*wording.cells(part)),
            wording.caption(part),
        ]
    )


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in (head, *body)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def insert(page: pathlib.Path, content: str, *, title: str) -> None:
    """Put `content` between the marks of a page; a page that does not exist is made.

    Raises:
      ValueError: the page has no marks.
    """
    existing = page.read_text() if page.exists() else f"# {title}\n\n{BEGIN}\n{END}\n"
    before, mark, rest = existing.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"{page}: needs the marks {BEGIN} and {END}")
    files.write_text(page, f"{before}{BEGIN}\n{content}\n{END}{after}")


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
