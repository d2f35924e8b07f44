"""How the latencies of a run spread, and how they moved while it lasted.

They are counted in bins of equal ratio, for each of up to MOST_SPANS spans of consecutive
rounds. So little is kept, the picture of the distribution can be drawn of it, and two runs
can be compared with what a machine's slow changes add to chance: the bootstrap draws
stretches of the run, not calls.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from .latency import Nanoseconds, Ratio

MOST_SPANS = 20
LEAST_SPANS = 6
"""Fewer say nothing of how a run changed."""
STEP = 1.01
_MOST_BIN = 4000  # 6 years
_MOST_COUNT = 1 << 30
_BLOCKS = 5  # of spans that are drawn together
_RESAMPLES = 1000
_COVERED = (2.5, 97.5)

Counts = NDArray[np.int64]
Figures = NDArray[np.float64]


class Spread(Struct, frozen=True, kw_only=True):
    """Counts of calls; bin b holds those of STEP^b to STEP^(b+1) nanoseconds.

    ``bins`` are the B bins that anything fell into, rising; ``spans`` a line of B counts for
    each span of rounds. Both are numbers between spaces, so that a report stays short.
    """

    bins: str
    spans: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what is no such table.

        Raises:
            ValueError: it is none; msgspec tells where.
        """
        bins = _numbers(self.bins, most=_MOST_BIN)
        counts = [_numbers(span, most=_MOST_COUNT) for span in self.spans]
        if not counts or any(len(one) != len(bins) or not sum(one) for one in counts):
            raise ValueError("each span needs as many counts as there are bins, not all 0")
        if sorted(set(bins)) != bins or len(counts) > MOST_SPANS:
            raise ValueError(f"bins rise, and spans are at most {MOST_SPANS}")

    @classmethod
    def of(cls, rounds: Sequence[Nanoseconds]) -> Spread:
        """Count the nanoseconds of rounds, at least one, in the order they were made."""
        spans = np.array_split(np.arange(len(rounds)), min(len(rounds), MOST_SPANS))
        found = [_bins(np.concatenate([rounds[place] for place in span])) for span in spans]
        bins = np.unique(np.concatenate(found))
        counts = [np.bincount(np.searchsorted(bins, one), minlength=len(bins)) for one in found]
        lines = (" ".join(map(str, one.tolist())) for one in (bins, *counts))
        return cls(bins=next(lines), spans=tuple(lines))

    @property
    def numbers(self) -> Counts:
        """Return the bins (B,)."""
        return np.array(_numbers(self.bins, most=_MOST_BIN), np.int64)

    @property
    def counts(self) -> Counts:
        """Return the calls (spans, B)."""
        return np.array([_numbers(span, most=_MOST_COUNT) for span in self.spans], np.int64)

    @property
    def total(self) -> Counts:
        """Return the calls (bins,) of all spans together."""
        total: Counts = self.counts.sum(axis=0)
        return total

    @property
    def edges_ms(self) -> Figures:
        """Return (bins, 2) where each bin begins and ends, in milliseconds."""
        begins = self.numbers.astype(np.float64)
        edges: Figures = STEP ** np.stack([begins, begins + 1], axis=1) / 1e6
        return edges


class Compared(Struct, frozen=True, kw_only=True):
    """How many times as long as in another run, plainly and beside the floor of each run.

    The floor is the same code in both: what it moved, the machine moved.
    """

    plain: Ratio
    beside_floor: Ratio


def quantile_ratio(
    runs: tuple[Spread, Spread], floors: tuple[Spread, Spread], *, share: float, seed: int
) -> Compared | None:
    """Compare a quantile of two runs, the second by the first; None: too few spans.

    Spans are drawn with return by ``seed``, for a run and its floor the same; for both runs
    the same ones too where they have as many: then what all runs go through, such as a
    processor that grows warm, is no difference.
    """
    sizes = [len(run.spans) for run in runs]
    if min(sizes) < LEAST_SPANS or any(
        len(floor.spans) != size for floor, size in zip(floors, sizes, strict=True)
    ):
        return None
    rng = np.random.default_rng(seed)
    drawn = [_drawn(rng, size) for size in sizes]
    if sizes[0] == sizes[1]:
        drawn[1] = drawn[0]
    before, after = (_quantiles(run, one, share) for run, one in zip(runs, drawn, strict=True))
    low, high = (_quantiles(floor, one, share) for floor, one in zip(floors, drawn, strict=True))
    return Compared(
        plain=_ratio(after / before, pairs=min(sizes)),
        beside_floor=_ratio(after / before / (high / low), pairs=min(sizes)),
    )


def _numbers(text: str, *, most: int) -> list[int]:
    words = text.split(" ")
    if not all(word.isascii() and word.isdigit() and len(word) <= 10 for word in words):
        raise ValueError("not numbers between spaces")
    found = [int(word) for word in words]
    if max(found) > most:
        raise ValueError(f"a number above {most}")
    return found


def _bins(spent_ns: Nanoseconds) -> Counts:
    found: Counts = np.floor(np.log(np.maximum(spent_ns, 1)) / np.log(STEP)).astype(np.int64)
    return found


def _drawn(rng: np.random.Generator, spans: int) -> Counts:
    """Return how often each span is drawn (1 + _RESAMPLES, spans); the first: each once.

    Neighbours are drawn together, round in a circle (Politis and Romano 1992): a machine that
    is slow in one span mostly is in the next.
    """
    together = max(1, round(spans / _BLOCKS))
    starts = rng.integers(0, spans, (_RESAMPLES, -(-spans // together), 1))
    places = (starts + np.arange(together)).reshape(_RESAMPLES, -1)[:, :spans] % spans
    weights = np.zeros((1 + _RESAMPLES, spans), np.int64)
    weights[0] = 1
    rows = np.repeat(np.arange(1, 1 + _RESAMPLES), spans)
    np.add.at(weights, (rows, places.ravel()), 1)
    return weights


def _quantiles(spread: Spread, drawn: Counts, share: float) -> Figures:
    """Return the quantile (draws,) in nanoseconds, between a bin's ends by its ratio."""
    counts = drawn @ spread.counts
    reached = counts.cumsum(axis=1)
    rank = share * reached[:, -1]
    at = (reached >= rank[:, None]).argmax(axis=1)
    rows = np.arange(len(counts))
    inside = counts[rows, at]
    part = (rank - (reached[rows, at] - inside)) / np.maximum(inside, 1)
    quantiles: Figures = STEP ** (spread.numbers[at] + part)
    return quantiles


def _ratio(ratios: Figures, *, pairs: int) -> Ratio:
    """Describe draws of which the first is the run as it was."""
    low, high = np.percentile(ratios[1:], _COVERED).tolist()
    return Ratio(median=float(ratios[0]), low=low, high=high, pairs=pairs)
