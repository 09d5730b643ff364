"""What the command `prune` does with a trained run: score, search, write, draw."""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

from anchors_jax import experiment, files, inference, nms, results, spec, visualize
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
from anchors_jax.types import Parts

CANDIDATES, EVALUATIONS, LATENCIES = "candidates.npz", "evaluations.jsonl", "latencies.jsonl"
FRONT, TABLE, PICTURE = "front.json", "front.md", "pareto.png"
COMPARED = "front_{cost}_{search}.json"  # of the last run of every search, for the picture
COVER, COVER_PICTURE = "redundancy.md", "redundancy.png"
SHARE_OF_MAP = 0.8  # default of --min-map, relative to the full set; the paper has 0.2 on COCO


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
    def parts(self) -> Parts:
        return self.run.detector.parts

    @property
    def shared(self) -> bool:
        """Whether one head reads all levels."""
        return not any(getattr(head, "per_level", False) for head in self.parts.heads.values())

    def macs(self, layout: Layout) -> Callable[[Removed], int]:
        """Multiply-adds of the head."""
        return prices.macs(self.parts, layout, canvas=self.run.canvases[0])


def search(subject: Subject, own: argparse.Namespace) -> None:
    """Score, search and write what was found."""
    begin = time.perf_counter()
    prunable = surgery.is_prunable(subject.parts)
    own.search = own.search or ("shared" if subject.shared else "tree")
    if own.cost is None:  # one anchor of one level saves a shared head boxes, but no multiply-adds
        single = own.search in ("tree", "layers") and subject.shared
        own.cost = "boxes" if single or not prunable else "macs"
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
    if own.cost != "macs" and prunable:
        extra["macs"] = subject.macs(layout)
    root = pareto.Node(frozenset(), evaluate(frozenset(), None), cost(frozenset()))
    base = report.front_rows((root,), layout, exact, extra)[0]
    rows = report.front_rows(result.front, layout, exact, extra)
    content = results.conditions(spec.plain(subject.run.config))
    content |= {"step": subject.step, "cost": own.cost}
    content |= {"search": own.search, "rule": own.rule, "quantum": own.quantum}
    content |= {"min_map": own.min_map, "images": len(found.count), "cut_images": found.cut}
    content |= {"evaluations": len(store), "new_evaluations": store.added}
    content |= {"seconds": time.perf_counter() - begin}
    content |= {"search_seconds": time.perf_counter() - searched}
    content |= {"anchors": [{"id": n, "level": int(layout.level[n]), "shape": name}
                            for n, name in enumerate(names)]}  # fmt: skip
    content |= {"base": base, "front": rows}
    for name in (FRONT, COMPARED.format(cost=own.cost, search=label(own))):
        files.write_json(subject.out / name, content)
    table = report.markdown(base, rows)
    files.write_text(subject.out / TABLE, table)
    draw(subject, store, cost, base, own.cost)
    draw_cover(subject, evaluator, names)
    print(table)
    rate = store.added / max(content["search_seconds"], 1e-9)
    print(
        f"{len(store)} configurations ({store.added} new, {rate:.0f} per second), "
        f"{len(rows)} on the front; written to {subject.out}"
    )


def scored(subject: Subject, *, capacity: int) -> candidates.CandidateSet:
    """The candidates of the evaluation set, from disk where they were scored before."""
    rule = candidates.followed(subject.parts.detect)
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
    """The search that the flags ask for."""
    common = {"min_map": own.min_map, "rule": own.rule, "progress": progress}
    if own.search == "layers":
        most = own.max_anchors_layer
        return tree.layer_search(evaluate, cost, layout, max_anchors_layer=most, **common)
    if own.search == "optuna":
        groups = (sampling.shared_groups if subject.shared else sampling.single_groups)(layout)
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
        return subject.macs(layout)
    score = jax.jit(subject.run.detector.score)
    batch = example(subject)
    one = jax.tree.map(lambda leaf: leaf[0], score(subject.variables, batch))
    store = Store(subject.out / LATENCIES, about | {"device": jax.devices()[0].device_kind})
    return prices.Latency(one, subject.parts.detect, layout, store)


def draw(
    subject: Subject,
    store: Store,
    cost: Callable[[Removed], int | float],
    base: dict[str, Any],
    kind: str,
) -> None:
    """The fronts of all searches so far with that cost, and everything that was tried."""
    before = COMPARED.format(cost=kind, search="")[: -len(".json")]
    fronts = {
        path.stem.removeprefix(before): [
            (row["cost"], row["metrics"]["AP"]) for row in json.loads(path.read_text())["front"]
        ]
        for path in sorted(subject.out.glob(COMPARED.format(cost=kind, search="*")))
    }
    measured = kind == "latency"  # a price that was not asked for is not measured for a picture
    tried = [] if measured else [(cost(key), value[0]) for key, value in store.items()]
    visualize.pareto_plot(
        fronts,
        subject.out / PICTURE,
        tried=tried,
        whole=(base["cost"], base["metrics"]["AP"]),
        unit={"macs": "multiply-adds of the head", "latency": "seconds"}.get(kind, kind),
    )


def draw_cover(subject: Subject, evaluator: incremental.Evaluator, names: list[str]) -> None:
    """Who covers whom among all anchors: a table and a picture."""
    layout, nothing = evaluator.layout, frozenset()
    cover = redundancy.redundancy(
        evaluator.flat, evaluator.detections(nothing), evaluator.flat.alive(nothing)
    )
    files.write_text(subject.out / COVER, redundancy.table(cover, layout, names))
    visualize.cover_plot(cover.matrix, names, layout.level.tolist(), subject.out / COVER_PICTURE)


def label(own: argparse.Namespace) -> str:
    """The search as it is called in pictures."""
    return f"optuna_{own.sampler}" if own.search == "optuna" else own.search


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


def identity(subject: Subject, rule: nms.Rule, capacity: int) -> dict[str, Any]:
    """What evaluations depend on: another run, checkpoint or setting may not reuse them."""
    config = spec.plain(subject.run.config)
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
    grid = subject.parts.anchors
    if not grid.has_shapes:
        return [f"slot {slot}" for slot in layout.slot]
    return report.anchor_names(list(grid.prototypes))


def example(subject: Subject) -> Any:
    """A batch of the first image of the evaluation set."""
    arrays = next(iter(subject.run.eval_batches(subject.source)))
    return inference.as_batch({name: value[:1] for name, value in arrays.items()})
