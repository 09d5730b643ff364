"""docs/parity.md, from the measured differences."""

from typing import Any

from configs import parity

_HEAD = """\
# How far this code is from the references

Measured on the cases of `{cases}` (commit {commit}; {machine}; float32 on CPUs) by
`make parity`. References: MMDetection 3.3.0 / MMCV 2.2.0, torchvision 0.28.0, pycocotools.

## Whole networks
Weights rebuilt from the tensor names of the released checkpoints, through the importers
(`anchors_jax/weights`) and the configs of `configs/parity.py`; ImageNet backbones by their logits.
Features and raw outputs: largest difference relative to the largest value of the map (at most
1e-4 is required). Detections: as sets; at most 0.05 px, 1e-4 in score, 1 % without a counterpart.
"tied": every score of the reference is 1 in float32, so which boxes it keeps is chance; they are
looked for among our candidates before NMS. MMDetection 3.3.0 cannot run SSD's inference.

| network | features | raw outputs | boxes, px | scores | without counterpart | agrees |
|---|---|---|---|---|---|---|
"""
_PRIMITIVES = """
## Primitives
The largest difference of any compared number; the same relative to the largest value of its array;
and how much of its tolerance the worst comparison uses (tolerance: rtol * |reference| + atol).
"exact": equal in every number, or integers, masks and sets only.

| operation | cases | largest difference | relative | of its tolerance | rtol, atol | agrees |
|---|---|---|---|---|---|---|
"""
_TAIL = """
## What these cases cannot show
Random weights, small inputs: that the published AP follows was not measured here, as it takes the
released files and COCO. What each source publishes, for the configs of `configs/parity.py`:

| config | AP, COCO val2017 |
|---|---|
"""


def text(content: dict[str, Any]) -> str:
    """The page."""
    page = _HEAD.format(**{key: content[key] for key in ("cases", "commit", "machine")})
    page += "".join(_network(name, row) for name, row in content.get("networks", {}).items())
    page += _PRIMITIVES
    page += "".join(_primitive(name, row) for name, row in content.get("primitives", {}).items())
    page += _TAIL
    page += "".join(f"| `parity.py:{name}` | {ap} |\n" for name, ap in parity.EXPECTED.items())
    return page


def _network(name: str, row: dict[str, Any]) -> str:
    found = row["measured"]
    cells = [_number(found.get(key)) for key in ("features", "outputs", "boxes", "scores")]
    missed = found.get("unmatched")
    tied = " (tied)" * bool(found.get("tied"))
    cells += ["" if missed is None else f"{missed:.1%}{tied}", _agrees(row)]
    return f"| {name} | {' | '.join(cells)} |\n"


def _primitive(name: str, row: dict[str, Any]) -> str:
    cells = [str(row["cases"])]
    if "tolerance" in row:
        tolerance = row["tolerance"]
        cells += [
            _number(row["difference"]),
            _number(row["relative"]),
            f"{row['share']:.1%}",
            f"{tolerance['rtol']:.0e}, {tolerance['atol']:.0e}",
        ]
    else:
        cells += ["exact", "", "", ""]
    return f"| {name} | {' | '.join([*cells, _agrees(row)])} |\n"


def _agrees(row: dict[str, Any]) -> str:
    return "no" if row["failed"] else "yes"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
