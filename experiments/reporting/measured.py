"""Result files of a paper's tables, read, checked and grouped: one group per row and scale."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from experiments import rows
from experiments.reporting import speeds

KEYS = {
    **dict.fromkeys(("config", "scale", "commit", "device"), str),
    **dict.fromkeys(("seed", "step"), int),
    **dict.fromkeys(("data", "metrics"), dict),
}
OWN = {"table": str, "row": str}  # keys of a row's result beside those of a run's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One run, as its result file says."""

    file: pathlib.Path
    content: dict[str, Any]

    @property
    def data(self) -> str:
        """What it was trained and evaluated on, in a few words."""
        return data_name(self.content)

    def metric(self, name: str) -> float | None:
        """A metric as tables show it: AP and AR in percent; None where it has no value."""
        value = self.content["metrics"].get(name)
        if not isinstance(value, int | float) or value < 0:
            return None
        return 100 * value if is_share(name) else float(value)

    def __getattr__(self, name: str) -> Any:
        if name not in KEYS and name not in OWN:
            raise AttributeError(name)
        return self.content[name]


Group = dict[int, Result]  # by seed
Stale = Callable[[rows.Table, rows.Row, Result], str]


def read(path: pathlib.Path, *, own: bool = True) -> Result:
    """One result file. `own`: of a table's row, not just of a run.

    Raises:
      ValueError: it is none, naming file and key.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    expected = "expected the result.json of a run" + own * " as experiments.run writes it"
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no result: {expected}")
    for key, kind in (KEYS | (OWN if own else {})).items():
        if key not in content:
            raise ValueError(f"{path}: no key {key!r}; {expected}")
        if not isinstance(content[key], kind) or isinstance(content[key], bool):
            raise ValueError(f"{path}: {key!r} is no {kind.__name__}; {expected}")
    return Result(file=path, content=content)


def collect(
    paper: rows.Paper, folder: pathlib.Path, *, stale: Stale
) -> tuple[dict[tuple[str, str, str], Group], dict[pathlib.Path, str]]:
    """(table, row, scale) -> results by seed, and the files that are left out, each with a reason.

    Args:
      folder: of the paper, with results/TABLE/ROW_SCALE_seedK.json; costs beside them are read
        by `speeds.collect`.
      stale: says why a result does not belong to its row as it is now; "" where it does.

    Raises:
      ValueError: a file that is no result, that belongs to another place, or whose seeds differ
        in more than the seed. Names the file.
    """
    groups: dict[tuple[str, str, str], Group] = {}
    left_out = {}
    known = {(table.key, row.key): (table, row) for table in paper.tables for row in table.rows}
    for path in sorted((folder / "results").glob("*/*.json")):
        if speeds.is_speed(path):
            continue
        result = read(path)
        place = pathlib.Path(result.table, f"{result.row}_{result.scale}_seed{result.seed}.json")
        if path.relative_to(folder / "results") != place:
            raise ValueError(f"{path} says that it is results/{place}")
        if (result.table, result.row) not in known:
            left_out[path] = "there is no such row any more"
            continue
        reason = stale(*known[result.table, result.row], result)
        if reason:
            left_out[path] = reason
            continue
        groups.setdefault((result.table, result.row, result.scale), {})[result.seed] = result
    for group in groups.values():
        _check_equal(group.values())
    return groups, left_out


def _check_equal(group: Iterable[Result]) -> None:
    first, *others = group
    for other in others:
        for what in ("step", "data"):
            one, two = first.content[what], other.content[what]
            if one != two:
                named = f": {one} and {two}" if what == "step" else ""
                raise ValueError(f"{first.file} and {other.file} differ in {what}{named}")


def is_share(metric: str) -> bool:
    """Whether a metric is kept as a share of 1 and shown in percent."""
    return metric.startswith(("AP", "AR", "VOC_AP"))


def data_name(result: dict[str, Any]) -> str:
    """What a run was evaluated on, in a few words.

    Raises:
      ValueError: the result names no evaluation data.
    """
    data = result["data"].get("eval")
    if not isinstance(data, dict) or "make" not in data:
        raise ValueError("the result names no evaluation data (data.eval.make)")
    where = data.get("root") or data.get("annotations") or data.get("directory")
    if "image_size" in data:  # drawn, not read
        where = f"{data['image_size']} px"
    return f"{data['make'].partition(':')[2]} {where}, {data.get('split') or 'all'}"
