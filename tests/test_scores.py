"""The gate scores against plain Python, and what every score must hold."""

from __future__ import annotations

import doctest
import math
from random import Random
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import DTypeLike, NDArray
from scipy import special

from hedge.models import evidence, scores
from hedge.models.manifest import Score

Array = NDArray[np.floating[Any]]

NAMES: tuple[Score, ...] = get_args(Score)
CLASSES = [2, 3, 10, 100, 1000]
LOGITS = npst.arrays(
    np.float64, st.integers(3, 30), elements=st.floats(-50.0, 50.0, allow_nan=False)
)


def _inputs(logits: Array) -> dict[str, Array]:
    return {
        "logits": logits,
        "probs": evidence.softmax(logits),
        "alpha": evidence.alpha_from_logits(logits),
    }


def _plain(name: Score, logits: list[float]) -> float:
    """Return the score by its definition, in plain Python."""
    probs: list[float] = special.softmax(logits).tolist()
    first, second, *_ = sorted(probs, reverse=True)
    centre = sum(logits) / len(logits)
    norm: float = sum((z - centre) ** 4 for z in logits) ** 0.25
    definitions: dict[Score, float] = {
        "vacuity": len(logits) / sum(1.0 + math.log1p(math.exp(z)) for z in logits),
        "max_prob": 1.0 - first,
        "entropy": -sum(p * math.log(p) for p in probs) / math.log(len(probs)),
        "margin": 1.0 - (first - second),
        "p_norm": 1.0 - (max(logits) - centre) / norm,
    }
    return definitions[name]


def test_the_worked_examples_hold() -> None:
    assert doctest.testmod(scores, extraglobs={"np": np}).failed == 0


def test_every_score_that_a_manifest_may_name_has_a_rule() -> None:
    assert set(scores.SCORES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 2e-6), (np.float64, 1e-13)])
def test_a_score_is_what_its_definition_says(
    name: Score, classes: int, dtype: DTypeLike, atol: float
) -> None:
    logits = np.random.default_rng(classes).normal(1.0, 4.0, (9, classes)).astype(dtype)
    rule = scores.SCORES[name]

    found = rule.rows(_inputs(logits)[rule.of])

    assert found.shape == (9,)
    assert found.dtype == np.float64
    expected = [_plain(name, row) for row in logits.astype(np.float64).tolist()]
    np.testing.assert_allclose(found, expected, atol=atol)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_row_alone_scores_exactly_what_it_does_among_others(
    name: Score, classes: int, dtype: DTypeLike
) -> None:
    logits = np.random.default_rng(classes).normal(1.0, 4.0, (9, classes)).astype(dtype)
    rule = scores.SCORES[name]
    rows = _inputs(logits)[rule.of]

    together = rule.rows(rows).tolist()

    assert [rule.row(row) for row in rows] == together
    assert [float(rule.rows(row)) for row in rows] == together


@pytest.mark.parametrize("name", NAMES)
@given(logits=LOGITS)
def test_scores_lie_between_zero_and_one(name: Score, logits: Array) -> None:
    rule = scores.SCORES[name]

    score = rule.row(_inputs(logits)[rule.of])

    assert -1e-12 <= score <= 1.0 + 1e-12


@pytest.mark.parametrize("name", NAMES)
@given(logits=LOGITS, random=st.randoms(use_true_random=False))
def test_the_order_of_the_classes_does_not_matter(
    name: Score, logits: Array, random: Random
) -> None:
    order = list(range(len(logits)))
    random.shuffle(order)
    rule = scores.SCORES[name]

    shuffled, plain = (rule.row(_inputs(rows)[rule.of]) for rows in (logits[order], logits))

    assert math.isclose(shuffled, plain, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("name", ["max_prob", "entropy", "margin", "p_norm"])
@given(logits=LOGITS, shift=st.floats(-20.0, 20.0))
def test_what_a_softmax_cannot_see_does_not_change_its_scores(
    name: Score, logits: Array, shift: float
) -> None:
    assume(np.ptp(logits) > 1e-6)
    rule = scores.SCORES[name]

    moved, plain = (rule.row(_inputs(rows)[rule.of]) for rows in (logits + shift, logits))

    assert math.isclose(moved, plain, abs_tol=1e-6)


@pytest.mark.parametrize("name", ["vacuity", "max_prob", "entropy", "margin"])
@given(logits=LOGITS, more=st.floats(0.01, 20.0))
def test_raising_the_greatest_logit_never_makes_less_sure(
    name: Score, logits: Array, more: float
) -> None:
    raised = logits.copy()
    raised[logits.argmax()] += more
    rule = scores.SCORES[name]

    surer, plain = (rule.row(_inputs(rows)[rule.of]) for rows in (raised, logits))

    assert surer <= plain + 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_knowing_nothing_scores_one_or_next_to_it(name: Score) -> None:
    rule = scores.SCORES[name]

    score = rule.row(_inputs(np.full(7, -800.0))[rule.of])

    expected = 1.0 - 1.0 / 7.0 if name == "max_prob" else 1.0
    assert score == pytest.approx(expected, abs=1e-12)


def test_the_p_norm_survives_the_greatest_and_the_least_logits_of_float32() -> None:
    for scale in (1e30, 1e-30):
        logits = np.array([3.0, 1.0, 0.5], np.float32) * np.float32(scale)
        with np.errstate(over="raise", invalid="raise"):
            assert scores.p_norm(logits) == pytest.approx(_plain("p_norm", [3.0, 1.0, 0.5]))


def test_equal_logits_are_equal_whatever_their_mean_rounds_to() -> None:
    for logit in (11.687013233260572, -0.1, 1e-30, 1e9):
        logits = np.full((2, 11), logit)
        assert scores.p_norm(logits).tolist() == [1.0, 1.0]
        assert scores.SCORES["p_norm"].row(logits[0]) == 1.0


def test_the_p_norm_of_two_classes_says_nothing() -> None:
    logits = np.array([[3.0, -1.0], [0.5, 0.25], [-7.0, 90.0]])

    np.testing.assert_allclose(scores.p_norm(logits), 1.0 - 0.5**0.25, rtol=1e-12)
