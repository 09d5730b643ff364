"""What a training run begins with: a file's weights, or random numbers where that makes sense."""

from typing import Any

from anchors_jax.weights import load
from anchors_jax.weights.reading import WeightsError

RANDOM = "random"


def begin(
    variables: Any,
    *,
    network: tuple[str, ...],
    init_from: str | None,
    init_from_family: str | None = None,
    init_from_parts: str | None = None,
    published: bool = False,
) -> tuple[Any, str]:
    """The variables to train, and a line that says where they come from.

    Args:
      variables: freshly initialised.
      network: the names of its parts, under which its parameters lie.
      init_from: a file of weights (a backbone's or a whole detector's), "random", or None.
      init_from_family: how to read it; None: recognised.
      init_from_parts: of a whole detector's file: "backbone,neck" where the classes differ; None:
        all.
      published: the config claims a published result, and those start from ImageNet weights.

    Raises:
      WeightsError: the file cannot be used; or there is none, and training would begin with random
        numbers where weights are expected: frozen values that nothing would ever fill.
    """
    if init_from in (None, RANDOM):
        if init_from is None and (published or load.expects_weights(variables)):
            reason = (
                "its backbone has values that are never trained (frozen stages or norms)"
                if load.expects_weights(variables)
                else "published results start from ImageNet weights"
            )
            raise WeightsError(
                f"this config expects pretrained weights: {reason}; give a file with "
                "--config.init_from=FILE (README, Use released weights), or begin with random "
                f"numbers all the same with --config.init_from={RANDOM}"
            )
        return variables, "random start"
    parts = network if init_from_parts is None else tuple(init_from_parts.split(","))
    if unknown := sorted(set(parts) - set(network)):
        known = ",".join(network)
        raise WeightsError(f"init_from_parts={init_from_parts}: {unknown[0]} is none of {known}")
    found = load.load(init_from, variables, family=init_from_family, parts=parts)
    return found.variables, f"start: {found}"
