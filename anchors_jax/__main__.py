"""The command line: python -m anchors_jax COMMAND --config=FILE.py[:variant] --workdir=DIR ...

Any value of the config is overridden by --config.some.key=value.
"""

import logging
import os
import sys
import traceback
from collections.abc import Sequence

USAGE = """\
usage: python -m anchors_jax COMMAND --config=FILE.py[:VARIANT] [flags] [--config.KEY=VALUE ...]

commands
  train    --workdir=DIR           train, evaluate, draw; continues where it stopped
  eval     --workdir=DIR           evaluate a trained run; writes eval.json
  predict  --workdir=DIR IMAGE...  detect in images or folders; writes pictures and COCO JSON
  convert  --weights=FILE --to=PATH a checkpoint as a run or as a plain file (convert --help)
  prepare  --out=DIR               write the config's data as an ArrayRecord data set (TFDS)
  assign   --config=B ... [--image=N] draw which anchors several configs take as positives;
           [--predicted]           or the anchors that a network predicts, beside the grid
  describe                         print the config, network size and FLOPs; computes nothing else
  coverage [--workdir=DIR]         how well the anchors cover the data's boxes (coverage --help)
  cluster  --workdir=DIR -k K      anchor shapes from the data's boxes (cluster --help)
  prune    --workdir=DIR           which anchors a trained run needs; slices them (prune --help)
  speed    --workdir=DIR ...       what detection costs: ms per image, boxes, MACs (speed --help)

flags
  --weights=FILE                   a released checkpoint for eval and predict, instead of a run
  --checkpoint=best|latest|STEP    which checkpoint eval and predict read (default: best)
  --out=DIR                        where eval, predict, prepare and assign write
  --score_threshold=0.3            least score of a box that is drawn
  --debug                          on an error, show where it happened

examples
  python -m anchors_jax train --config=configs/quickstart.py --workdir=runs/quickstart
  python -m anchors_jax train --config=configs/bccd.py --config.data.root=DIR --workdir=runs/bccd
  python -m anchors_jax predict --config=configs/bccd.py --workdir=runs/bccd photo.jpg
"""


def main(argv: Sequence[str]) -> int:
    """Run one command line; returns the exit status (1: failed, 2: not understood)."""
    if len(argv) < 2 or argv[1] in ("help", "--help", "-h", "--helpfull"):
        print(USAGE)
        return 0 if len(argv) >= 2 else 2
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    except Exception as error:
        if "--debug" in argv:
            traceback.print_exc()
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 1


def settle_jax() -> None:
    """How JAX works here, said before it is imported.

    Compiled programs are kept: a resumed run, eval and predict start in seconds. Arrays of
    different ranks do not broadcast: [A] with [A, 1] is a mistake, not an [A, A].
    """
    cache = os.environ.get("ANCHORS_CACHE_DIR", os.path.expanduser("~/.cache/anchors_jax"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "xla"))
    os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")


def _run(argv: Sequence[str]) -> int:
    settle_jax()
    # Imported late: --help and a mistyped command answer at once.
    from anchors_jax import (
        commands,
        commands_cluster,
        commands_coverage,
        commands_prune,
        commands_speed,
        commands_weights,
        compare,
        options,
    )

    logging.basicConfig(format="%(levelname)s: %(message)s")
    # Libraries' notes on their own housekeeping; faults reach the user as exceptions.
    logging.getLogger("absl").setLevel(logging.ERROR)
    name, rest = argv[1], argv[2:]
    known = commands.COMMANDS
    own_flags = {  # commands that read the command line themselves
        compare.NAME: compare.compare_command,
        commands_coverage.NAME: commands_coverage.coverage_command,
        commands_cluster.NAME: commands_cluster.cluster_command,
        commands_prune.NAME: commands_prune.prune_command,
        commands_speed.NAME: commands_speed.speed_command,
        commands_weights.EVAL: commands_weights.eval_command,
        commands_weights.PREDICT: commands_weights.predict_command,
        commands_weights.CONVERT: commands_weights.convert_command,
    }
    helps = {
        commands_coverage.NAME: commands_coverage.flags,
        commands_cluster.NAME: commands_cluster.flags,
        commands_prune.NAME: commands_prune.flags,
        commands_speed.NAME: commands_speed.flags,
        commands_weights.CONVERT: commands_weights.flags,
    }
    if name not in known and name not in own_flags:
        hint = options.nearest(name, [*known, *own_flags])
        print(f"error: no command {name!r}{hint}", file=sys.stderr)
        return 2
    if any(flag in ("--help", "-h") for flag in rest):
        print(helps[name]().format_help() if name in helps else USAGE)
        return 0
    try:
        if name in own_flags:
            own_flags[name](rest)
        else:
            known[name](options.parse(rest))
    except options.UsageError as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    return 0


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    expected = isinstance(error, ValueError | OSError | RuntimeError | ImportError)
    return text if expected else f"{type(error).__name__}: {text} (--debug shows where)"


def run() -> None:
    """Entry point of the console script."""
    sys.path.insert(0, os.getcwd())  # configs import their neighbours as `configs.*`
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
