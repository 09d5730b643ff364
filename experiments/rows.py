"""What a paper's table is: rows, each a config with overrides beside the number that was published.

`experiments/<paper>/rows.py` holds PAPER (its name) and TABLES. `python -m experiments.run` fills
experiments/<paper>/results/<table>/<row>_<scale>_seed<k>.json, one file per row and seed: the
`result.json` of a run plus the keys of `RESULT_KEYS`. Whatever shows numbers reads those files.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from anchors_jax.spec import nearest

FOLDER = pathlib.Path(__file__).parent
# Order matters: rows with equal configs share the run of the first.
PAPERS = (
    "semi_anchored",
    "paa",
    "atss",
    "freeanchor",
    "fcos",
    "retinanet",
    "guided_anchoring",
    "anchor_pruning",
    "assignment",
)
SCALES = ("paper", "bench", "smoke")
# What a result file says beside the result.json of a run.
RESULT_KEYS = ("paper", "table", "row", "overrides", "run", "checkpoint_of")


class RowError(ValueError):
    """There is no such paper, table, row or scale, or a row contradicts itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A published number.

    Attributes:
      metrics: AP, AP50, AP75, APs, APm, APl (as far as given) in percent; `ms` per image.
      source: where it stands: paper and table, or whose page.
      verified: False where it is quoted from others than its source.
    """

    metrics: Mapping[str, float]
    source: str
    verified: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: one config to train, or one way to evaluate what another row trained.

    Attributes:
      key: its name in commands, files and folders; unique in the table.
      label: what the table calls it.
      config: file of the config, such as "configs/atss.py"; "" for a number that is only quoted.
      words: scale -> the config's variant at that scale; a scale that is absent has no run. None:
        the scale's own name. See `suffix`.
      overrides: dotted key -> value on top of that config, at every scale. Values may be records of
        `bind` or `make`, which replace the node.
      at: scale -> further overrides at that scale only.
      published: the number beside ours, or None.
      reuse: key of the row of the same table whose checkpoint this one evaluates (a change to
        inference only); None: it is trained.
      unavailable: why this row cannot be run (a sentence); "" where it can.
    """

    key: str
    label: str
    config: str = ""
    words: Mapping[str, str] | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    at: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    published: Published | None = None
    reuse: str | None = None
    unavailable: str = ""

    @property
    def available(self) -> bool:
        """Whether it can be run at some scale."""
        return bool(self.config) and not self.unavailable

    def word(self, scale: str) -> str | None:
        """The config's variant at a scale; None where the row has no such scale."""
        return scale if self.words is None else self.words.get(scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """One question of a paper, and the rows that answer it.

    Attributes:
      key: its name in commands and folders ("3", "2b", "shapes").
      title: what the paper calls it.
      claim: what the paper says that this table shows, in our words: what our numbers can support
        or contradict.
      setting: data, schedule and split of the published numbers.
      baseline: key of the row that the others are compared with.
      rows: the rows, in the paper's order.
      overrides: scale -> overrides of every row at that scale, under the row's own. At bench scale
        they choose drawings on which the question can be decided (`experiments.protocol`).
      expect: (better row, worse row) pairs: the orders in AP that the claim implies. The report
        says of each whether our runs reproduce it, contradict it or leave it open.
    """

    key: str
    title: str
    claim: str
    setting: str
    baseline: str
    rows: tuple[Row, ...]
    overrides: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    expect: tuple[tuple[str, str], ...] = ()

    def row(self, key: str) -> Row:
        """The row with this key; RowError names the nearest."""
        return _find(self.rows, key, f"table {self.key} has no row")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper:
    """The tables of `experiments/<key>/rows.py`."""

    key: str
    tables: tuple[Table, ...]

    def table(self, key: str) -> Table:
        """The table with this key; RowError names the nearest."""
        return _find(self.tables, key, f"{self.key} has no table")


def load(paper: str) -> Paper:
    """The tables of a paper.

    Raises:
      RowError: no such paper, or its rows contradict each other.
    """
    if paper not in PAPERS:
        raise RowError(f"no paper {paper!r}{nearest(paper, PAPERS)}")
    module = importlib.import_module(f"experiments.{paper}.rows")
    found = Paper(key=module.PAPER, tables=tuple(module.TABLES))
    _check(found)
    return found


def suffix(word: str, *, paper: str | None = None) -> dict[str, str]:
    """`Row.words` of a config whose variants are SCALE_word; `paper`: its word at paper scale."""
    words = {scale: f"{scale}_{word}" for scale in SCALES}
    return words if paper is None else {**words, "paper": paper}


def only(*scales: str) -> dict[str, str]:
    """`Row.words` of a row that exists at these scales only."""
    return {scale: scale for scale in scales}


def ap(*values: float, source: str, verified: bool = True, **others: float) -> Published:
    """Published AP, AP50, AP75, APs, APm, APl in percent, as far as given, and other metrics."""
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    if len(values) > len(names):
        raise RowError(f"{len(values)} values for {', '.join(names)}")
    metrics = dict(zip(names, values, strict=False)) | others
    return Published(metrics=metrics, source=source, verified=verified)


def result_file(
    paper: str, table: str, row: str, *, scale: str, seed: int, folder: pathlib.Path = FOLDER
) -> pathlib.Path:
    """Where the result of a row stands; `folder` stands for experiments/."""
    return folder / paper / "results" / table / f"{row}_{scale}_seed{seed}.json"


def _find(items: tuple[Any, ...], key: str, what: str) -> Any:
    for item in items:
        if item.key == key:
            return item
    raise RowError(f"{what} {key!r}{nearest(key, [item.key for item in items])}")


def _check(paper: Paper) -> None:
    """A paper's tables are consistent: keys are unique, baselines and reused rows exist."""
    _unique([table.key for table in paper.tables], f"{paper.key}: table")
    for table in paper.tables:
        where = f"{paper.key}, table {table.key}"
        _unique([row.key for row in table.rows], f"{where}: row")
        table.row(table.baseline)
        for pair in table.expect:
            better, worse = (table.row(key) for key in pair)
            if better is worse:
                raise RowError(f"{where}: {better.key} cannot be better than itself")
        for scale in table.overrides:
            if scale not in SCALES:
                raise RowError(f"{where}: no scale {scale!r}{nearest(scale, SCALES)}")
        for row in table.rows:
            if row.reuse is not None and table.row(row.reuse).reuse is not None:
                raise RowError(f"{where}: {row.key} reuses {row.reuse}, which is not trained")
            if not row.config and not (row.published or row.unavailable):
                raise RowError(f"{where}: {row.key} has neither a config nor a published number")


def _unique(keys: list[str], what: str) -> None:
    for key in keys:
        if keys.count(key) > 1:
            raise RowError(f"{what} {key!r} stands twice")
