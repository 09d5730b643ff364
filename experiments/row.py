"""The config of one row of a table: --config=experiments/row.py:PAPER/TABLE/ROW/SCALE

Run: python -m anchors_jax train --config=experiments/row.py:semi_anchored/1/s5a5/bench
  --workdir=runs/try
What each row is: experiments/PAPER/rows.py. Several rows at once: python -m experiments.run.
"""

from ml_collections import ConfigDict

from anchors_jax.spec import nearest
from experiments import rows
from experiments.runner import resolve


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: PAPER/TABLE/ROW/SCALE."""
    parts = arg.split("/")
    if len(parts) != 4:
        raise rows.RowError(f"{arg!r} is not PAPER/TABLE/ROW/SCALE")
    paper, table_key, row_key, scale = parts
    if scale not in rows.SCALES:
        raise rows.RowError(f"no scale {scale!r}{nearest(scale, rows.SCALES)}")
    table = rows.load(paper).table(table_key)
    return resolve.config_of(table, table.row(row_key), scale)
