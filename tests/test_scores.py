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
from hedge.models.errors import ModelError
from hedge.models.manifest import Router, Score, Scoring

Array = NDArray[np.floating[Any]]

NAMES: tuple[Score, ...] = get_args(Score)
PLAIN = [name for name in NAMES if name != "router"]  # which takes classes as they are named
CLASSES = [2, 3, 10, 100, 1000]
LOGITS = npst.arrays(
    np.float64, st.integers(3, 30), elements=st.floats(-50.0, 50.0, allow_nan=False)
)


HEAT = 1.7


def _rule(name: Score, classes: int) -> scores.Rule:
    """Return the rule of a score, with some temperature or some router."""
    weights = (0.9, *np.linspace(-1.0, 2.0, classes).tolist())
    scoring = Scoring(score=name, temperature=HEAT, router=Router(weights=weights, bias=-0.25))
    return scores.rule_of(scoring, classes=classes, where="model")


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
        "temperature": 1.0 - float(special.softmax(np.array(logits) / HEAT).max()),
        "router": _routed(logits),
    }
    return definitions[name]


def _routed(logits: list[float]) -> float:
    answer = logits.index(max(logits))
    rest = sum(math.exp(z - logits[answer]) for i, z in enumerate(logits) if i != answer)
    bias = -0.25 + np.linspace(-1.0, 2.0, len(logits))[answer]
    return float(special.expit(bias + 0.9 * math.log(rest)))


def test_the_worked_examples_hold() -> None:
    assert doctest.testmod(scores, extraglobs={"np": np}).failed == 0


def test_every_score_that_a_manifest_may_name_has_a_rule() -> None:
    assert {*scores.SCORES, "temperature", "router"} == set(NAMES)
    assert all(_rule(name, 5).rows(np.ones((2, 5))).shape == (2,) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 2e-6), (np.float64, 1e-13)])
def test_a_score_is_what_its_definition_says(
    name: Score, classes: int, dtype: DTypeLike, atol: float
) -> None:
    logits = np.random.default_rng(classes).normal(1.0, 4.0, (9, classes)).astype(dtype)
    rule = _rule(name, logits.shape[-1])

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
    rule = _rule(name, logits.shape[-1])
    rows = _inputs(logits)[rule.of]

    together = rule.rows(rows).tolist()

    assert [rule.row(row) for row in rows] == together
    assert [float(rule.rows(row)) for row in rows] == together


@pytest.mark.parametrize("name", NAMES)
@given(logits=LOGITS)
def test_scores_lie_between_zero_and_one(name: Score, logits: Array) -> None:
    rule = _rule(name, logits.shape[-1])

    score = rule.row(_inputs(logits)[rule.of])

    assert -1e-12 <= score <= 1.0 + 1e-12


@pytest.mark.parametrize("name", PLAIN)
@given(logits=LOGITS, random=st.randoms(use_true_random=False))
def test_the_order_of_the_classes_does_not_matter(
    name: Score, logits: Array, random: Random
) -> None:
    order = list(range(len(logits)))
    random.shuffle(order)
    rule = _rule(name, logits.shape[-1])

    shuffled, plain = (rule.row(_inputs(rows)[rule.of]) for rows in (logits[order], logits))

    assert math.isclose(shuffled, plain, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("name", ["max_prob", "entropy", "margin", "p_norm", "temperature"])
@given(logits=LOGITS, shift=st.floats(-20.0, 20.0))
def test_what_a_softmax_cannot_see_does_not_change_its_scores(
    name: Score, logits: Array, shift: float
) -> None:
    assume(np.ptp(logits) > 1e-6)
    rule = _rule(name, logits.shape[-1])

    moved, plain = (rule.row(_inputs(rows)[rule.of]) for rows in (logits + shift, logits))

    assert math.isclose(moved, plain, abs_tol=1e-6)


@pytest.mark.parametrize(
    "name", ["vacuity", "max_prob", "entropy", "margin", "temperature", "router"]
)
@given(logits=LOGITS, more=st.floats(0.01, 20.0))
def test_raising_the_greatest_logit_never_makes_less_sure(
    name: Score, logits: Array, more: float
) -> None:
    raised = logits.copy()
    raised[logits.argmax()] += more
    rule = _rule(name, logits.shape[-1])

    surer, plain = (rule.row(_inputs(rows)[rule.of]) for rows in (raised, logits))

    assert surer <= plain + 1e-12


@pytest.mark.parametrize("name", PLAIN)
def test_knowing_nothing_scores_one_or_next_to_it(name: Score) -> None:
    rule = _rule(name, 7)

    score = rule.row(_inputs(np.full(7, -800.0))[rule.of])

    expected = 1.0 - 1.0 / 7.0 if name in ("max_prob", "temperature") else 1.0
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


def test_however_sure_a_softmax_is_a_router_and_a_temperature_still_tell_rows_apart() -> None:
    logits = np.array([[60.0, 0.0, 0.0], [70.0, 0.0, 0.0], [80.0, 0.0, 0.0]], np.float32)

    for name in ("temperature", "router"):
        first, second, third = _rule(name, 3).rows(logits)
        assert first > second > third > 0.0


def test_a_router_s_features_are_the_odds_against_and_the_answer() -> None:
    logits = np.log([[0.2, 0.5, 0.3], [0.75, 0.125, 0.125]])

    features = scores.router_features(logits)

    assert features.shape == (2, scores.router_width(3))
    np.testing.assert_allclose(features[:, 0], [0.0, math.log(0.25 / 0.75)], atol=1e-12)
    assert features[:, 1:].tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_a_router_scores_what_it_was_fitted_to_say_of_its_features() -> None:
    logits = np.random.default_rng(3).normal(0.0, 3.0, (40, 6))
    router = Router(weights=(0.7, 0.1, -0.2, 0.3, 1.5, -0.6, 0.0), bias=-0.4)
    rule = scores.rule_of(Scoring(score="router", router=router), classes=6, where="model")

    odds = router.bias + scores.router_features(logits) @ np.array(router.weights)

    np.testing.assert_allclose(rule.rows(logits), special.expit(odds), rtol=1e-12)


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        (Scoring(score="temperature"), r'"temperature" needs its temperature'),
        (Scoring(score="router"), r'"router" needs 4 weights for 3 classes, not none'),
        (
            Scoring(score="router", router=Router(weights=(1.0, 2.0), bias=0.0)),
            r'"router" needs 4 weights for 3 classes, not 2',
        ),
    ],
)
def test_a_score_without_what_it_needs_is_refused(scoring: Scoring, message: str) -> None:
    with pytest.raises(ModelError, match=rf"^edge\.onnx: score {message}"):
        scores.rule_of(scoring, classes=3, where="edge.onnx")
