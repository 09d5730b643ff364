"""What detection with the rows of a table costs, as `experiments.speed` measured it."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from anchors_jax.commands_speed import millions, milliseconds
from experiments import rows

TEXTS = ("paper", "table", "scale", "device", "commit", "jax")
NUMBERS = ("ms", "detect_ms", "boxes", "head_macs", "parameters")  # of a row
EXPECTED = "expected what experiments.speed writes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """One session of measuring: the rows of a table at one scale.

    Attributes:
      device, commit, jax: what was measured with.
      images: of which each time is the median.
      rows: row key -> the fields of `anchors_jax.speed.Cost`.
    """

    device: str
    commit: str
    jax: str
    images: int
    rows: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table with measured costs.

    Attributes:
      head: its heading.
      ours: the number of a measured row.
      published: the metric of `rows.Published` that says the same; "": none does.
      say: a number in words.
    """

    head: str
    ours: str
    published: str
    say: Callable[[float], str]


COLUMNS = (
    Column(head="boxes", ours="boxes", published="boxes", say="{:,.0f}".format),
    Column(head="head MACs", ours="head_macs", published="macs", say=millions),
    Column(head="post-processing ms", ours="detect_ms", published="", say=milliseconds),
    Column(head="ms", ours="ms", published="ms", say=milliseconds),
)
PUBLISHED = tuple(column.published for column in COLUMNS if column.published)


def file(paper: str, table: str, *, scale: str, folder: pathlib.Path = rows.FOLDER) -> pathlib.Path:
    """Where the costs of a table stand; `folder` stands for experiments/."""
    return folder / paper / "results" / table / f"speed_{scale}.json"


def is_speed(path: pathlib.Path) -> bool:
    """Whether a file among the results holds costs instead of a run."""
    return path.name in {f"speed_{scale}.json" for scale in rows.SCALES}


def read(path: pathlib.Path) -> tuple[dict[str, Any], Speed]:
    """The content of one file, and what it says.

    Raises:
      ValueError: it is none of these files, naming file and key.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no costs: {EXPECTED}")
    kinds = dict.fromkeys(TEXTS, str) | {"images": int, "rows": dict}
    for key, kind in kinds.items():
        _check(content, key, kind, where=f"{path}")
    for name, row in content["rows"].items():
        _check(content["rows"], name, dict, where=f"{path}: rows")
        for key in NUMBERS:
            _check(row, key, int | float, where=f"{path}: rows.{name}")
    names = [field.name for field in dataclasses.fields(Speed)]
    return content, Speed(**{name: content[name] for name in names})


def collect(
    paper: rows.Paper, folder: pathlib.Path
) -> tuple[dict[tuple[str, str], Speed], dict[pathlib.Path, str]]:
    """(table, scale) -> costs, and the files that are left out, each with a reason.

    Args:
      folder: of the paper, with results/TABLE/speed_SCALE.json.

    Raises:
      ValueError: a file that holds no costs, or those of another place. Names the file.
    """
    found, left_out = {}, {}
    known = {table.key: {row.key for row in table.rows} for table in paper.tables}
    for path in filter(is_speed, sorted((folder / "results").glob("*/*.json"))):
        content, speed = read(path)
        place = pathlib.Path(content["table"], f"speed_{content['scale']}.json")
        if path.relative_to(folder / "results") != place or content["paper"] != paper.key:
            raise ValueError(f"{path} says that it is {content['paper']}/results/{place}")
        gone = sorted(speed.rows.keys() - known.get(content["table"], set()))
        if gone:
            left_out[path] = f"there is no row {gone[0]!r} any more"
        else:
            found[content["table"], content["scale"]] = speed
    return found, left_out


def _check(node: Mapping[str, Any], key: str, kind: Any, *, where: str) -> None:
    if key not in node:
        raise ValueError(f"{where}: no key {key!r}; {EXPECTED}")
    if not isinstance(node[key], kind) or isinstance(node[key], bool):
        name = "number" if kind == int | float else kind.__name__
        raise ValueError(f"{where}: {key!r} is no {name}; {EXPECTED}")
