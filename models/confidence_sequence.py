"""What a share of errors can be, told at any time: a confidence sequence of a Bernoulli mean.

A confidence interval holds at one number of rows, fixed before they are seen. One that is
looked at after every row, and acted on, has to hold at all of them at once. That of a mixture
does: for every mean m, the likelihood of the rows averaged over other means, over that of m
itself, is a martingale that begins at 1 where m is true, and exceeds 1/δ ever with a
probability of δ at most (Ville 1939). The bounds enclose the means at which it has not.

For rows that are 0 or 1 this mixture is the capital of a bettor against m (Waudby-Smith and
Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024, arXiv
2010.09686, appendix on Bernoulli); with a Beta(½, ½) over the means it has a closed form
(Robbins 1970; Howard et al., Annals of Statistics 2021, §3.2), which takes two counts.
"""

from __future__ import annotations

import math

from .errors import DataError

_STEPS = 60  # of bisection: below the spacing of floats near any bound that matters


def log_capital(hits: int, rows: int, *, mean: float) -> float:
    """Return ln B(k + ½, n - k + ½)/B(½, ½) - k ln m - (n - k) ln(1 - m).

    That is what a bettor against ``mean`` has made of 1, after ``hits`` among ``rows``;
    infinite where the rows refute it.

    >>> round(math.exp(log_capital(1, 1, mean=0.25)), 6)  # (½) / (¼)
    2.0
    """
    misses = rows - hits
    if (hits and mean <= 0) or (misses and mean >= 1):
        return math.inf
    mixed = math.lgamma(hits + 0.5) + math.lgamma(misses + 0.5) - math.lgamma(rows + 1)
    told = hits * math.log(mean) if hits else 0.0
    told += misses * math.log1p(-mean) if misses else 0.0
    return mixed - math.log(math.pi) - told


def bounds(hits: int, rows: int, *, confidence: float) -> tuple[float, float]:
    """Return the least and the greatest mean that ``hits`` among ``rows`` leave possible.

    With at least that ``confidence`` the true mean, as long as it is one, lies between them at
    every number of rows, however one decides when to look and when to stop. No rows leave (0, 1).

    Raises:
        DataError: the counts or the confidence contradict themselves.

    >>> bounds(0, 0, confidence=0.95)
    (0.0, 1.0)
    >>> low, high = bounds(3, 100, confidence=0.95)
    >>> round(low, 4), round(high, 4)
    (0.0019, 0.1229)
    """
    if not 0 <= hits <= rows:
        raise DataError(f"{hits} of {rows} rows")
    if not 0 < confidence < 1:
        raise DataError(f"a confidence of {confidence}", hint="it lies between 0 and 1")
    if rows == 0:
        return 0.0, 1.0
    limit = -math.log1p(-confidence)
    middle = hits / rows
    low = _edge(hits, rows, inside=middle, outside=0.0, limit=limit) if hits else 0.0
    high = _edge(hits, rows, inside=middle, outside=1.0, limit=limit) if hits < rows else 1.0
    return low, high


def _edge(hits: int, rows: int, *, inside: float, outside: float, limit: float) -> float:
    """Return where the capital reaches ``limit`` between two means, on the far side of it."""
    for _ in range(_STEPS):
        mean = (inside + outside) / 2
        if log_capital(hits, rows, mean=mean) < limit:
            inside = mean
        else:
            outside = mean
    return outside
