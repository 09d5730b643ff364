"""Which anchors of a trained detector are needed? The command `prune`.

It scores the evaluation set once, searches over subsets of anchors without any training, and writes
the front of accuracy and cost; with --apply it turns one configuration into a smaller run. Every
evaluation is on disk when it is known: the same command goes on where it was killed.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from anchors_jax import (
    commands,
    commands_surgery,
    experiment,
    files,
    inference,
    options,
    spec,
    visualize,
)
from anchors_jax.search import (
    candidates,
    incremental,
    pareto,
    prices,
    redundancy,
    report,
    sampling,
    surgery,
    tree,
)
from anchors_jax.search.layout import Layout, Removed
from anchors_jax.search.store import Store

NAME = "prune"
SEARCHES = ("tree", "layers", "shared", "optuna")
COSTS = ("macs", "boxes", "latency")
CANDIDATES, EVALUATIONS, LATENCIES = "candidates.npz", "evaluations.jsonl", "latencies.jsonl"
FRONT, TABLE, PICTURE = "front.json", "front.md", "pareto.png"
COVER, COVER_PICTURE = "redundancy.md", "redundancy.png"
SHARE_OF_MAP = 0.8  # default of --min-map, relative to the full set; the paper has 0.2 on COCO

DESCRIPTION = """\
Search for anchors that a trained detector does not need (Bonnaerens et al., CVIU 2022). The config
is the run's own; name --config only to change it, such as the place of the data.
"""


class Parser(argparse.ArgumentParser):
    """Mistakes are UsageErrors."""

    def error(self, message: str) -> None:
        """Raise instead of leaving the program."""
        raise options.UsageError(message)


def flags() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = Parser(
        prog=f"python -m anchors_jax {NAME}",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )

    def add(name: str, **keywords: Any) -> None:
        names = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
        parser.add_argument(*names, **keywords)

    add("workdir", metavar="DIR", help="folder of the trained run")
    add("out", metavar="DIR", help="where to write (default: WORKDIR/pruned)")
    add("checkpoint", default="best", help="best, latest or a step (default: best)")
    add("search", choices=SEARCHES, help="default: shared for shared heads, tree for others")
    add("cost", choices=COSTS, default="macs", help="what is to be small (default: macs)")
    add("min-map", type=float, metavar="AP", help="drop configurations below, 0..1 "
        f"(default: {SHARE_OF_MAP} of the AP with all anchors)")  # fmt: skip
    add("rule", choices=("weak", "strict"), default="weak", help="of the front (default: weak)")
    add("quantum", type=float, default=1e-3, help="metrics are rounded to it (default: 0.001)")
    add("max-anchors-layer", type=int, default=4, help="where --search=layers stops (default: 4)")
    add("sampler", choices=sampling.SAMPLERS, default="nsga2", help="of --search=optuna")
    add("trials", type=int, default=300, help="of --search=optuna (default: 300)")
    add("capacity", type=int, default=candidates.CAPACITY, help="candidates kept per image")
    add("apply", metavar="INDEX|IDS", help="instead of searching, slice the network: an index "
        "of front.json, or prototype ids with commas (a single one: 7,)")  # fmt: skip
    add("to", metavar="DIR", help="with --apply: folder of the smaller run")
    return parser


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained run."""

    run: experiment.Experiment
    workdir: pathlib.Path
    out: pathlib.Path
    source: Any
    variables: Any
    step: int

    @property
    def config(self) -> ConfigDict:
        return self.run.config


def prune_command(words: Sequence[str]) -> None:
    """Search, or slice; see the flags."""
    own, rest = flags().parse_known_args([word for word in words if word != "--debug"])
    if own.workdir is None:
        raise options.UsageError("--workdir=DIR is missing: the folder of a trained run")
    if (own.apply is None) != (own.to is None):
        raise options.UsageError("--apply=INDEX|IDS and --to=DIR go together")
    workdir = pathlib.Path(own.workdir)
    run = experiment.load(_config(workdir, rest))
    variables, step = commands.load_variables(run, workdir, own.checkpoint)
    subject = Subject(
        run=run,
        workdir=workdir,
        out=pathlib.Path(own.out) if own.out else workdir / "pruned",
        source=run.source("eval"),
        variables=variables,
        step=step,
    )
    if own.apply is None:
        search(subject, own)
    else:
        layout = candidates.layout_of(run.detector, variables, _example(subject))
        removed = layout.check(_chosen(own.apply, subject.out / FRONT))
        commands_surgery.apply(run, variables, layout, removed, pathlib.Path(own.to))


def search(subject: Subject, own: argparse.Namespace) -> None:
    """Score, search and write what was found."""
    begin = time.perf_counter()
    found = scored(subject, capacity=own.capacity)
    layout = found.layout
    evaluator = incremental.Evaluator(
        found, subject.source.ground_truth(), category_ids=tuple(subject.source.category_ids)
    )
    about = identity(subject, found.rule, own.capacity)
    store = Store(subject.out / EVALUATIONS, about)

    def exact(removed: Removed, parent: Removed | None = None) -> tuple[float, ...]:
        return tuple(store.get(removed, lambda: list(evaluator(removed, parent))))

    def evaluate(removed: Removed, parent: Removed | None) -> pareto.Metrics:
        return pareto.quantize(exact(removed, parent), own.quantum)

    whole = exact(frozenset())
    if whole[0] <= 0:
        raise ValueError(f"step {subject.step} detects nothing right (AP {whole[0]}): train first")
    own.min_map = SHARE_OF_MAP * whole[0] if own.min_map is None else own.min_map
    cost = price(subject, layout, own.cost, about)
    names = anchor_names(subject, layout)
    searched = time.perf_counter()
    line = Progress(store, whole[0])
    result = run_search(own, subject, layout, evaluate, cost, line)
    line.end()
    extra = {own.cost: cost} if own.cost != "boxes" else {}
    if own.cost != "macs" and _has_macs(subject.config):
        extra["macs"] = prices.macs(subject.config, subject.variables, layout)
    root = pareto.Node(frozenset(), evaluate(frozenset(), None), cost(frozenset()))
    base = report.front_rows((root,), layout, exact, extra)[0]
    rows = report.front_rows(result.front, layout, exact, extra)
    content = {"config": subject.config.name, "step": subject.step, "cost": own.cost}
    content |= {"search": own.search, "rule": own.rule, "quantum": own.quantum}
    content |= {"min_map": own.min_map, "images": len(found.count), "cut_images": found.cut}
    content |= {"evaluations": len(store), "new_evaluations": store.added}
    content |= {"seconds": time.perf_counter() - begin}
    content |= {"search_seconds": time.perf_counter() - searched}
    content |= {"anchors": [{"id": n, "level": int(layout.level[n]), "shape": name}
                            for n, name in enumerate(names)]}  # fmt: skip
    files.write_json(subject.out / FRONT, content | {"base": base, "front": rows})
    table = report.markdown(base, rows)
    files.write_text(subject.out / TABLE, table)
    draw(subject, evaluator, layout, store, cost, (base, rows), own, names)
    print(table)
    rate = store.added / max(content["search_seconds"], 1e-9)
    print(
        f"{len(store)} configurations ({store.added} new, {rate:.0f} per second), "
        f"{len(rows)} on the front; written to {subject.out}"
    )


def scored(subject: Subject, *, capacity: int) -> candidates.CandidateSet:
    """The candidates of the evaluation set, from disk where they were scored before."""
    rule = candidates.DetectRule.of(spec.build(subject.config.detector.detect))
    about = identity(subject, rule, capacity)
    path = subject.out / CANDIDATES
    found = candidates.load(path, about)
    if found is None:
        total, begin = len(subject.source), time.perf_counter()

        def on_batch(done: int) -> None:
            if sys.stderr.isatty():
                eta = (total - done) * (time.perf_counter() - begin) / done
                print(f"\rscored {done}/{total}  eta {eta:.0f} s ", end="", file=sys.stderr)

        found = candidates.collect(
            subject.run.detector,
            subject.variables,
            subject.run.eval_batches(subject.source),
            rule=rule,
            capacity=capacity,
            on_batch=on_batch,
        )
        candidates.save(path, found, about)
        seconds = time.perf_counter() - begin
        print(f"\rscored {total} images in {seconds:.1f} s: {found.count.sum()} candidates")
    if found.cut:
        print(
            f"warning: {found.cut} images have more than {capacity} candidates, the rest is cut; "
            "raise --capacity for exact results",
            file=sys.stderr,
        )
    return found


def run_search(
    own: argparse.Namespace,
    subject: Subject,
    layout: Layout,
    evaluate: tree.Evaluate,
    cost: tree.Cost,
    progress: tree.Progress,
) -> tree.Found:
    """The search that the flags ask for; sets own.search where it was left open."""
    shared = subject.config.detector.model.head.get("make", "") != surgery.PER_LEVEL
    own.search = own.search or ("shared" if shared else "tree")
    common = {"min_map": own.min_map, "rule": own.rule, "progress": progress}
    if own.search == "layers":
        most = own.max_anchors_layer
        return tree.layer_search(evaluate, cost, layout, max_anchors_layer=most, **common)
    if own.search == "optuna":
        groups = sampling.shared_groups(layout) if shared else sampling.single_groups(layout)
        common |= {"trials": own.trials, "sampler": own.sampler, "seed": subject.run.seed}
        return sampling.sampled_search(evaluate, cost, groups, layout, **common)
    moves = {"tree": tree.single_moves, "shared": tree.shared_moves}[own.search](layout)
    return tree.tree_search(evaluate, cost, moves, **common)


def price(
    subject: Subject, layout: Layout, name: str, about: dict[str, Any]
) -> Callable[[Removed], int | float]:
    """The cost function of that name."""
    if name == "boxes":
        return prices.boxes(layout)
    if name == "macs":
        return prices.macs(subject.config, subject.variables, layout)
    score = jax.jit(subject.run.detector.score)
    batch = _example(subject)
    one = jax.tree.map(lambda leaf: leaf[0], score(subject.variables, batch))
    store = Store(subject.out / LATENCIES, about | {"device": jax.devices()[0].device_kind})
    return prices.Latency(one, spec.build(subject.config.detector.detect), layout, store)


def draw(
    subject: Subject,
    evaluator: incremental.Evaluator,
    layout: Layout,
    store: Store,
    cost: Callable[[Removed], int | float],
    found: tuple[dict[str, Any], list[dict[str, Any]]],
    own: argparse.Namespace,
    names: list[str],
) -> None:
    """The front's picture, and who covers whom."""
    base, rows = found
    points = [(row["cost"], row["metrics"]["AP"]) for row in rows]
    measured = own.cost == "latency"  # a price that was not asked for is not measured for a picture
    tried = [] if measured else [(cost(key), value[0]) for key, value in store.items()]
    visualize.pareto_plot(
        {own.search: points},
        subject.out / PICTURE,
        tried=tried,
        whole=(base["cost"], base["metrics"]["AP"]),
        unit={"macs": "multiply-adds of the head", "latency": "seconds"}.get(own.cost, own.cost),
    )
    nothing: Removed = frozenset()
    alive = evaluator.flat.alive(nothing)
    cover = redundancy.redundancy(evaluator.flat, evaluator.detections(nothing), alive)
    files.write_text(subject.out / COVER, redundancy.table(cover, layout, names))
    visualize.cover_plot(cover.matrix, names, layout.level.tolist(), subject.out / COVER_PICTURE)


class Progress:
    """One line: what was evaluated, how fast, and how long it may still take."""

    def __init__(self, store: Store, whole: float) -> None:
        self._store, self._whole = store, whole
        self._begin, self._shown, self._expanded = time.perf_counter(), 0.0, 0

    def __call__(self, front: pareto.Front, waiting: int) -> None:
        """Called after each expanded node; new ones may still be found, so time is a least."""
        self._expanded += 1
        now = time.perf_counter()
        if now - self._shown < (0.2 if sys.stderr.isatty() else 30.0):
            return
        self._shown, seconds = now, now - self._begin
        eta = waiting * seconds / self._expanded
        best = min(front, key=lambda node: node.cost)
        line = (
            f"{len(self._store)} evaluated ({self._store.added / seconds:.0f}/s), front "
            f"{len(front)}, cheapest AP {100 * best.map:.1f}, open {waiting}, eta >= {eta:.0f} s"
        )
        end = "" if sys.stderr.isatty() else "\n"
        print(f"\r{line:<90}", end=end, file=sys.stderr)

    def end(self) -> None:
        """Leave the line."""
        if sys.stderr.isatty():
            print(file=sys.stderr)


def identity(subject: Subject, rule: candidates.DetectRule, capacity: int) -> dict[str, Any]:
    """What evaluations depend on: another run, checkpoint or setting may not reuse them."""
    config = spec.plain(subject.config)
    parts = {name: config[name] for name in ("detector", "seed", "num_classes")}
    text = json.dumps(parts, sort_keys=True)
    return {
        "config": config["name"],
        "digest": hashlib.sha256(text.encode()).hexdigest()[:16],
        "step": subject.step,
        "images": len(subject.source),
        "rule": dataclasses.asdict(rule),
        "capacity": capacity,
    }


def anchor_names(subject: Subject, layout: Layout) -> list[str]:
    """Names of the prototypes, by their shapes where the config has any."""
    record = subject.config.detector.anchors
    if "shapes" not in record:
        return [f"slot {slot}" for slot in layout.slot]
    strides = spec.build(record.strides)
    pairs = tuple((s, s) if isinstance(s, int | float) else tuple(s) for s in strides)
    return report.anchor_names(list(spec.build(record.shapes)(pairs)))


def _config(workdir: pathlib.Path, rest: Sequence[str]) -> ConfigDict:
    """The run's own config, or the one that the command line names."""
    if rest:
        parsed = options.parse(rest)
        if parsed.arguments:
            raise options.UsageError(f"{parsed.arguments[0]!r} is not a flag of {NAME}")
        return parsed.config
    path = workdir / commands.CONFIG
    if not path.exists():
        raise ValueError(f"{path} does not exist: {workdir} is not the folder of a run")
    return surgery.variant(json.loads(path.read_text())["config"])


def _example(subject: Subject) -> Any:
    arrays = next(iter(subject.run.eval_batches(subject.source)))
    return inference.as_batch({name: value[:1] for name, value in arrays.items()})


def _has_macs(config: ConfigDict) -> bool:
    try:
        surgery.head_of(config)
    except ValueError:
        return False
    return True


def _chosen(text: str, front: pathlib.Path) -> list[int]:
    """Prototype ids of --apply."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words if word) or not any(words):
        raise options.UsageError(f"--apply={text} is neither an index nor ids with commas")
    if len(words) > 1:
        return [int(word) for word in words if word]
    if not front.exists():
        raise ValueError(f"{front} does not exist: search first, or name prototype ids")
    rows = json.loads(front.read_text())["front"]
    if int(text) >= len(rows):
        raise ValueError(f"--apply={text}: {front} has the indices 0..{len(rows) - 1}")
    return rows[int(text)]["removed"]
