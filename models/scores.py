"""The scores a policy may gate on: one number per row, higher is less sure.

Each takes rows along the last axis, (K,) or (N, K), and returns float64 figures, () or
(N,). Beside each stands its form for one row, which is fast and gives exactly the same
number. Which score serves a model best is for calibration to find out: none wins
everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from .errors import ModelError
from .evidence import LEAST, Array, Figures, depth_of, ones_of, vacuity
from .manifest import Router, Score, Scoring

_LEAST_TOP, _MOST = 1e-7, 1e9  # whose fourth powers float32 holds
_FAR = 700.0  # odds beyond e to this are as good as certain, and overflow
Below: TypeAlias = Callable[[Array, np.intp], float]
_LOG_LEAST = math.log(LEAST)
_LEAST = MappingProxyType({dtype: np.array(LEAST, dtype) for dtype in ("f", "d")})


def max_prob(probs: Array) -> Figures:
    """Return 1 - max p of ``probs`` (..., K).

    >>> float(max_prob(np.array([0.75, 0.25])))
    0.25
    """
    top: Figures = np.maximum.reduce(probs, axis=-1).astype(np.float64)
    return 1.0 - top


def _max_prob_row(probs: Array) -> float:
    top: float = probs.item(probs.argmax())
    return 1.0 - top


def _max_prob_at(probs: Array, answer: np.intp) -> float:
    top: float = probs.item(answer)
    return 1.0 - top


def entropy(probs: Array) -> Figures:
    """Return the entropy of ``probs`` (..., K) over ln K.

    >>> float(entropy(np.array([0.5, 0.5, 0.0, 0.0])))
    0.5
    """
    return _by_row(_entropy_row, probs)


def _entropy_row(probs: Array) -> float:
    logs = probs + _LEAST[probs.dtype.char]  # changes none but 0, which has no logarithm
    np.log(logs, logs)
    return -float(logs.dot(probs)) / math.log(probs.size)


def margin(probs: Array) -> Figures:
    """Return 1 - (p1 - p2) of ``probs`` (..., K), p1 and p2 the two greatest.

    >>> float(margin(np.array([0.25, 0.625, 0.125])))
    0.625
    """
    top = np.partition(probs, -2, axis=-1)[..., -2:].astype(np.float64)
    gap: Figures = top[..., 1] - top[..., 0]
    return 1.0 - gap


def _margin_row(probs: Array) -> float:
    return _margin_at(probs, probs.argmax())


def _margin_at(probs: Array, answer: np.intp) -> float:
    rest, first = probs.copy(), float(probs.item(answer))
    rest[answer] = -1.0  # less than any: what is now the greatest is the second
    second: float = rest.item(rest.argmax())
    return 1.0 - (first - second)


def p_norm(logits: Array) -> Figures:
    """Return 1 - max(d)/‖d‖₄ of ``logits`` (..., K), in (0, 1], where d = z - mean(z).

    MaxLogit-pNorm (Cattelan & Silva, "How to fix a broken confidence estimator", 2023,
    arXiv 2305.15508), who choose p on held-out data from 0 to 9; a fixed one in the middle of
    that range keeps thresholds comparable. Equal logits score 1. With two classes all rows
    score the same.

    >>> round(float(p_norm(np.array([3.0, 0.0, 0.0]))), 4)  # 1 - 2 / (16 + 1 + 1) ** 0.25
    0.029
    """
    return _by_row(_p_norm_row, logits)


def _p_norm_row(logits: Array) -> float:
    return p_norm_below(logits.size)(*depth_of(logits))


def p_norm_below(classes: int) -> Below:
    """Return `p_norm` of the depth of a row (K,) and its answer, as a function."""
    shares = {dtype: np.full(classes, 1.0 / classes, dtype) for dtype in ("f", "d")}
    most = _MOST / classes  # none lies further from the mean than that times K

    def below(depth: Array, answer: np.intp) -> float:
        mean = depth.dot(shares[depth.dtype.char])
        top = -float(mean)
        if not _LEAST_TOP < top < most:
            return far(depth, answer)
        square = depth - mean
        square *= square
        return 1.0 - top / math.sqrt(math.sqrt(float(square.dot(square))))

    def far(depth: Array, answer: np.intp) -> float:
        """Return it where fourth powers would vanish or overflow: in units of the lowest."""
        size = -float(depth.min())
        return below(depth.astype(np.float64) / size, answer) if 0.0 < size < math.inf else 1.0

    return below


def _vacuity_row(alpha: Array) -> float:
    return alpha.size / float(np.add.reduce(alpha))


def temperature(logits: Array, *, temperature: float) -> Figures:
    """Return 1 - max softmax(z/T) of ``logits`` (..., K).

    Temperature scaling (Guo et al., "On calibration of modern neural networks", 2017).

    >>> round(float(temperature(np.array([0.0, 2.0]), temperature=2.0)), 4)  # 1 / (1 + e)
    0.2689
    """
    below = _temperature_below(temperature, classes=logits.shape[-1])
    return _by_row(lambda row: below(*depth_of(row)), logits)


def _temperature_below(temperature: float, *, classes: int) -> Below:
    """Return the score of one row's depth (K,) as a function."""
    rest_of = _rest_of(classes)
    cold = {dtype: np.array(1.0 / temperature, dtype) for dtype in ("f", "d")}

    def below(depth: Array, answer: np.intp) -> float:
        rest = rest_of(depth * cold[depth.dtype.char], answer)
        return rest / (1.0 + rest)

    return below


def _rest_of(classes: int) -> Below:
    """Return what sums exp of a row's depth (K,) over all but the answer: exact, however little."""
    ones = ones_of(classes)

    def rest_of(depth: Array, answer: np.intp) -> float:
        shares = np.exp(depth)
        shares[answer] = 0.0
        return float(shares.dot(ones[shares.dtype.char]))

    return rest_of


def router_width(classes: int) -> int:
    """Return how many features a router looks at: `router_features`."""
    return 1 + classes


def router_features(logits: Array) -> Figures:
    """Return what a router looks at in ``logits`` (N, K): (N, 1 + K).

    First ln((1 - p)/p) with p the greatest of the softmax: how much speaks against the
    answer. Then for each class 1 where it is the answer, else 0: some answers are oftener
    wrong than they look. That is all. Margin, entropy, p-norm, strength of evidence and more
    were tried beside these and made no router better on rows, or people, that were new.
    """
    classes = logits.shape[1]
    rest_of = _rest_of(classes)
    features = np.zeros((len(logits), router_width(classes)))
    for features_row, row in zip(features, logits, strict=True):
        depth, answer = depth_of(row)
        features_row[0] = _against(rest_of(depth, answer))
        features_row[1 + answer] = 1.0
    return features


def _against(rest: float) -> float:
    """Return ln((1 - p)/p) of the greatest p, where the others have ``rest`` times as much."""
    return math.log(rest) if rest > LEAST else _LOG_LEAST


def _router_score(router: Router) -> Callable[[float, np.intp], float]:
    """Return the logistic of bias + weights · features, as a function of rest and answer."""
    slope, *answers = router.weights
    biases = [router.bias + weight for weight in answers]

    def score(rest: float, answer: np.intp) -> float:
        odds = biases[answer] + slope * _against(rest)
        if not -_FAR <= odds <= _FAR:
            odds = math.copysign(_FAR, odds)
        return 1.0 / (1.0 + math.exp(-odds))

    return score


def _by_row(score: Callable[[Array], float], rows: Array) -> Figures:
    """Score row by row: arithmetic on all at once would round otherwise than on the device."""
    found = [score(row) for row in rows.reshape(-1, rows.shape[-1])]
    return np.array(found, np.float64).reshape(rows.shape[:-1])


class Rule(NamedTuple):
    """A score: what it is computed from, for rows (N, K) and for one row (K,).

    Those of logits have shorter ways: ``below`` of a row's `depth_of`, and ``beside`` where it is
    known too what exp of that depth sums to over all but the answer. Some of probabilities have
    one where the answer is known: ``at``.
    """

    of: Literal["alpha", "probs", "logits"]
    rows: Callable[[Array], Figures]
    row: Callable[[Array], float]
    below: Below | None = None
    beside: Callable[[float, np.intp], float] | None = None
    at: Below | None = None


def _logits_rule(below: Below, beside: Callable[[float, np.intp], float] | None = None) -> Rule:
    def row(logits: Array) -> float:
        return below(*depth_of(logits))

    return Rule("logits", lambda rows: _by_row(row, rows), row, below, beside)


SCORES: Mapping[Score, Rule] = MappingProxyType(
    {
        "vacuity": Rule("alpha", vacuity, _vacuity_row),
        "max_prob": Rule("probs", max_prob, _max_prob_row, at=_max_prob_at),
        "entropy": Rule("probs", entropy, _entropy_row),
        "margin": Rule("probs", margin, _margin_row, at=_margin_at),
        "p_norm": Rule("logits", p_norm, _p_norm_row),
    }
)
"""The scores that need nothing but the outputs."""


def rule_of(scoring: Scoring, *, classes: int, where: str) -> Rule:
    """Return the rule of any score, with what it needs.

    Raises:
        ModelError: the temperature or the router is missing, or of another number of classes.
    """
    if scoring.score == "temperature":
        if scoring.temperature is None:
            raise ModelError('score "temperature" needs its temperature', where=where)
        return _logits_rule(_temperature_below(scoring.temperature, classes=classes))
    if scoring.score == "p_norm":
        return _logits_rule(p_norm_below(classes))
    if scoring.score == "router":
        wanted = router_width(classes)
        found = None if scoring.router is None else len(scoring.router.weights)
        if scoring.router is None or found != wanted:
            what = f'score "router" needs {wanted} weights for {classes} classes'
            raise ModelError(f"{what}, not {found or 'none'}", where=where)
        score, rest_of = _router_score(scoring.router), _rest_of(classes)
        return _logits_rule(lambda depth, at: score(rest_of(depth, at), at), score)
    return SCORES[scoring.score]
