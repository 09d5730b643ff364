"""What a few seeds can say: means, intervals of Student's t, differences by seed."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and how far it may be off.

    Attributes:
      mean: of the values.
      half: half the width of the interval; None for a single value, which has none.
      count: number of values.
    """

    mean: float
    half: float | None
    count: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of 0; 0 where that is not resolved."""
        if self.half is None or abs(self.mean) <= self.half:
            return 0
        return 1 if self.mean > 0 else -1


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Student's t: |t| stays below it with this probability."""
    return float(stdtrit(degrees, 0.5 + confidence / 2))


def interval(values: Sequence[float]) -> Interval:
    """The mean of independent values and its interval, mean -+ t * s / sqrt(n).

    Raises:
      ValueError: no values.
    """
    if not values:
        raise ValueError("no values, no mean")
    count, mean = len(values), statistics.fmean(values)
    if count == 1:
        return Interval(mean=mean, half=None, count=1)
    half = t_quantile(count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Interval(mean=mean, half=half, count=count)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval | None:
    """Ours - theirs over the seeds that both have: what a seed does to both cancels out."""
    both = sorted(ours.keys() & theirs.keys())
    return interval([ours[seed] - theirs[seed] for seed in both]) if both else None
