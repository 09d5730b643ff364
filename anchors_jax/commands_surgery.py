"""A configuration of `prune` as a run of its own: a folder that eval, predict and train accept."""

import pathlib
import pprint
from typing import Any

import jax
import numpy as np

from anchors_jax import checkpoints, commands, experiment, files, train
from anchors_jax.models import count
from anchors_jax.search import surgery
from anchors_jax.search.layout import Layout, Removed

CONFIG_FILE = "config.py"

TEMPLATE = '''"""{name}: {left} of {size} anchor shapes, found by anchor pruning.

Kept on each level: {kept}.
Run: python -m anchors_jax eval --config={file} --workdir={folder}
From scratch: python -m anchors_jax train --config={file} --workdir=ANOTHER
Fine-tuned: python -m anchors_jax train --config={file}:finetune --workdir={folder}
Variants: scratch (default), finetune.
"""

from ml_collections import ConfigDict

from anchors_jax.search import surgery


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: scratch (default) or finetune."""
    return surgery.variant(CONFIG, arg)


CONFIG = {config}
'''


def apply(
    run: experiment.Experiment,
    variables: Any,
    layout: Layout,
    removed: Removed,
    folder: pathlib.Path,
) -> None:
    """Write the smaller network: config.py, config.json and a checkpoint of step 0.

    The checkpoint starts a training, too: fine-tuning goes on from it.

    Raises:
      ValueError: the folder holds a run already, or the head cannot be sliced.
    """
    if (folder / commands.CONFIG).exists() or (folder / "checkpoints").exists():
        raise ValueError(f"{folder} holds a run already: choose another --to")
    parts, canvas = run.detector.parts, run.canvases[0]
    content = surgery.sliced_config(run.config, parts, layout, removed)
    smaller = surgery.sliced_variables(variables, parts, layout, removed, canvas=canvas)
    files.write_text(folder / CONFIG_FILE, config_file(content, layout, removed, folder))
    config = surgery.variant(content, "finetune")
    after = experiment.load(config)
    source = after.source("train")
    batches, plan = after.train_batches(source), after.plan(after.training_images(source))
    state, _, _ = commands.fresh_state(after, plan, weights=False)
    check_shapes(smaller, state.variables)
    average = None if state.average is None else smaller["params"]
    state = state.replace(variables=jax.tree.map(np.asarray, smaller), average=average)
    commands.keep_config(folder, config, CONFIG_FILE, after.source("eval"))
    stored = checkpoints.Checkpoints(folder)
    train.save(state, batches, stored, None)
    stored.close()
    before, now = (count.parameters(tree["params"]) for tree in (variables, smaller))
    print(
        f"{layout.size - len(removed)} of {layout.size} anchor shapes, {now:,} of {before:,} "
        f"parameters; written to {folder}\n"
        f"evaluate with --config={folder / CONFIG_FILE} --workdir={folder}"
    )


def config_file(
    content: dict[str, Any], layout: Layout, removed: Removed, folder: pathlib.Path
) -> str:
    """The text of config.py, which needs no other file."""
    kept = ", ".join(str(number) for number in layout.counts(removed))
    return TEMPLATE.format(
        name=content["name"],
        left=layout.size - len(removed),
        size=layout.size,
        kept=kept,
        file=folder / CONFIG_FILE,
        folder=folder,
        config=pprint.pformat(content, width=96, compact=True, sort_dicts=False),
    )


def check_shapes(have: Any, want: Any) -> None:
    """The sliced variables are those of the sliced config's network.

    Raises:
      ValueError: naming the first difference.
    """
    one, other = (
        {jax.tree_util.keystr(path): np.shape(leaf)
         for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
        for tree in (have, want)
    )  # fmt: skip
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            raise ValueError(
                f"the sliced network does not fit its config: {name} is {one.get(name)} "
                f"instead of {other.get(name)}"
            )
