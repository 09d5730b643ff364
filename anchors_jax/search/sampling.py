"""The same trade-off by a general optimiser: NSGA-II or TPE over which anchors to keep.

    K. Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002;
    Y. Ozaki et al., "Multiobjective tree-structured Parzen estimator", 2022; both as in Optuna.

For comparison with the searches that know what anchors are: these see one yes or no per anchor, or
per slot and level of a shared head.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool

from anchors_jax.search.layout import Layout, Removed
from anchors_jax.search.pareto import Front, Node, Rule, insert, ordered
from anchors_jax.search.tree import Cost, Evaluate, Found, Progress

SAMPLERS = ("nsga2", "tpe")


def sampled_search(
    evaluate: Evaluate,
    cost: Cost,
    groups: dict[str, Removed],
    layout: Layout,
    *,
    trials: int = 300,
    sampler: str = "nsga2",
    seed: int = 0,
    min_map: float = 0.2,
    rule: Rule = "weak",
    progress: Progress | None = None,
) -> Found:
    """The front of what a sampler tries, the full set first. The same seed tries the same.

    Args:
      evaluate, cost, min_map, rule, progress: as in `tree.tree_search`.
      groups: name -> prototypes that go together: `single_groups`, `shared_groups`.
      trials: configurations to try, repetitions included.
      sampler: one of SAMPLERS.

    Raises:
      ImportError: Optuna is not installed.
    """
    optuna = _optuna()
    choices = {
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
    }
    if sampler not in choices:
        raise ValueError(f"sampler {sampler!r} is not one of {', '.join(SAMPLERS)}")
    nothing: Removed = frozenset()
    whole = cost(nothing)
    front: Front = (Node(nothing, evaluate(nothing, None), whole),)
    seen = {nothing}
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=choices[sampler]())
    study.enqueue_trial(dict.fromkeys(groups, True))

    def objective(trial: Any) -> tuple[float, float]:
        nonlocal front
        kept = {name: trial.suggest_categorical(name, [True, False]) for name in groups}
        removed = frozenset().union(*(groups[name] for name, keep in kept.items() if not keep))
        if len(removed) == layout.size:
            return 0.0, float(whole)
        # What the full set detects is known: only what differs from it is computed.
        node = Node(removed, evaluate(removed, nothing if removed else None), cost(removed))
        seen.add(removed)
        if node.map >= min_map:
            front, _ = insert(front, node, rule=rule)
        if progress is not None:
            progress(front, trials - trial.number - 1)
        return float(node.map), float(node.cost)

    study.optimize(objective, n_trials=trials)
    return Found(ordered(front), frozenset(seen))


def single_groups(layout: Layout) -> dict[str, Removed]:
    """Every prototype on its own."""
    return {f"anchor_{n}": frozenset({n}) for n in range(layout.size)}


def shared_groups(layout: Layout) -> dict[str, Removed]:
    """Slots over all levels, and levels as a whole: the moves of a shared head."""

    def ids(mask: Bool[np.ndarray, "M"]) -> Removed:
        return frozenset(np.flatnonzero(mask).tolist())

    slots = {f"slot_{n}": ids(layout.slot == n) for n in range(max(layout.shapes))}
    return slots | {f"level_{n}": ids(layout.level == n) for n in range(len(layout.shapes))}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("--search=optuna needs Optuna: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
