"""The paired bootstrap: how often each row, or each group of rows, is drawn anew.

All that is compared is weighed alike (Efron 1979): the same drawings for every model and score,
and whole groups where rows come from groups. Rubin's bootstrap, whose weights are never 0, would
be sure of a difference that rests on one single row.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .evidence import Figures

RESAMPLES = 1000
LEAST_GROUPS = 5
"""Fewer say nothing of how groups differ: then rows are drawn."""
_QUANTILES = (0.025, 0.975)
_CHUNK = 1 << 17  # weights drawn at a time: what is made of them stays in the cache


class Resampling:
    """Drawings of ``rows`` rows, or of the groups that ``group`` (rows,) names.

    ``by`` is what is taken as independent, ``units`` how many of these there are. The same
    ``seed`` gives the same drawings each time.
    """

    def __init__(
        self,
        rows: int,
        *,
        group: NDArray[Any] | None = None,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> None:
        unit = np.arange(rows) if group is None else np.unique(group, return_inverse=True)[1]
        by_group = group is not None and int(unit.max()) + 1 >= LEAST_GROUPS
        self._unit = unit if by_group else np.arange(rows)
        self._seed = seed
        self.by: Literal["row", "group"] = "group" if by_group else "row"
        self.units = int(self._unit.max()) + 1
        self.resamples = resamples

    def weights(self) -> Iterator[Figures]:
        """Yield all drawings in chunks (R, rows): how often each row was drawn."""
        random, size = np.random.default_rng(self._seed), max(1, _CHUNK // len(self._unit))
        even = np.full(self.units, 1.0 / self.units)
        for start in range(0, self.resamples, size):
            drawn = random.multinomial(
                self.units, even, size=min(size, self.resamples - start)
            ).astype(np.float64)
            yield drawn if self.by == "row" else drawn[:, self._unit]

    def draw(self, measure: Callable[[Figures], Mapping[str, Figures]]) -> dict[str, Figures]:
        """Return the figures that ``measure`` takes of weights (R, rows), for all drawings."""
        parts = [measure(weights) for weights in self.weights()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(drawn: Figures) -> tuple[float, float]:
    """Return the 95 % interval of figures (R, ...), NaN aside; NaN where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a figure that no drawing has
        low, high = np.nanquantile(drawn, _QUANTILES)
    return float(low), float(high)
