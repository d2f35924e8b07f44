"""Evidence against scipy's Dirichlet, digamma and entropy, and its own invariants."""

from __future__ import annotations

import doctest
import math
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import DTypeLike, NDArray
from scipy import special, stats

from hedge.models import evidence

Array = NDArray[np.floating[Any]]

CLASSES = [2, 3, 10, 100, 1000]
DTYPES = [np.float32, np.float64]
ALPHAS = npst.arrays(
    np.float64,
    st.integers(2, 40),
    elements=st.floats(1.0, 1e4, allow_nan=False),
)


def _alpha(classes: int, *, rows: int = 7, dtype: DTypeLike = np.float64) -> Array:
    """Return asymmetric Dirichlets (rows, classes), of much and of little evidence."""
    random = np.random.default_rng(classes)
    scale = random.uniform(0.2, 30.0, (rows, 1))
    return (1.0 + random.gamma(0.7, scale, (rows, classes))).astype(dtype)


def test_the_worked_examples_hold() -> None:
    assert doctest.testmod(evidence, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_alpha_is_softplus_plus_one_in_the_dtype_of_the_logits(
    classes: int, dtype: DTypeLike
) -> None:
    logits = np.random.default_rng(1).normal(0.5, 8.0, (5, classes)).astype(dtype)

    alpha = evidence.alpha_from_logits(logits)

    wide = logits.astype(np.float64)
    softplus = np.where(wide > 0, wide, 0.0) + np.log1p(np.exp(-np.abs(wide)))
    np.testing.assert_allclose(alpha, softplus + 1.0, rtol=4 * np.finfo(dtype).eps)
    assert alpha.dtype == dtype
    np.testing.assert_array_equal(evidence.alpha_from_logits(logits[2]), alpha[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_ten_thousand_neither_overflow_nor_warn(dtype: DTypeLike) -> None:
    logits = np.array([1e4, -1e4, 0.25, 9e3], dtype)

    with np.errstate(over="raise", invalid="raise", divide="raise"):
        alpha = evidence.alpha_from_logits(logits)
        figures = [
            evidence.vacuity(alpha),
            evidence.aleatoric(alpha),
            evidence.epistemic(alpha),
            evidence.aleatoric_paper(evidence.softmax(logits)),
        ]

    assert np.isfinite(alpha).all()
    assert all(0.0 <= figure <= 1.0 for figure in figures)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vacuity_is_what_belief_leaves(classes: int, dtype: DTypeLike) -> None:
    alpha = _alpha(classes, dtype=dtype)

    belief = (alpha - 1.0) / alpha.sum(axis=1, keepdims=True)

    vacuity = evidence.vacuity(alpha)
    np.testing.assert_allclose(vacuity, 1.0 - belief.sum(axis=1), atol=1e3 * np.finfo(dtype).eps)
    assert vacuity.dtype == np.float64
    assert evidence.vacuity(np.ones(classes, dtype)) == 1.0


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_is_that_of_the_dirichlet(classes: int, dtype: DTypeLike) -> None:
    alpha = _alpha(classes, dtype=dtype)

    probs = evidence.probs(alpha)

    expected = np.array([stats.dirichlet(row.astype(np.float64)).mean() for row in alpha])
    np.testing.assert_allclose(probs, expected, rtol=8 * np.finfo(dtype).eps)
    assert probs.dtype == dtype


def test_digamma_is_accurate_to_a_ten_billionth() -> None:
    x = np.concatenate([np.geomspace(1e-3, 1.4, 400), np.geomspace(1.52, 1e9, 4000)])

    np.testing.assert_allclose(evidence.digamma(x), special.digamma(x), rtol=1e-10)
    alpha = x[x >= 1.0]
    np.testing.assert_allclose(
        evidence.digamma_after(alpha), special.digamma(alpha + 1.0), rtol=1e-10
    )


def test_digamma_has_its_root_where_it_should() -> None:
    x = np.linspace(1.4, 1.52, 101)

    np.testing.assert_allclose(evidence.digamma(x), special.digamma(x), atol=1e-10)


def test_digamma_of_float32_is_right_to_rounding() -> None:
    x = np.geomspace(1.0, 1e6, 1000).astype(np.float32)

    psi = evidence.digamma(x)

    assert psi.dtype == np.float32
    np.testing.assert_allclose(psi, special.digamma(x.astype(np.float64)), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 3e-5), (np.float64, 1e-9)])
def test_the_expected_entropy_has_its_closed_form(
    classes: int, dtype: DTypeLike, rtol: float
) -> None:
    alpha = _alpha(classes, dtype=dtype)

    wide = alpha.astype(np.float64)
    total = wide.sum(axis=1, keepdims=True)
    terms = wide / total * (special.digamma(total + 1.0) - special.digamma(wide + 1.0))

    found = evidence.expected_entropy_nats(alpha)
    np.testing.assert_allclose(found, terms.sum(axis=1), rtol=rtol)
    np.testing.assert_allclose(evidence.aleatoric(alpha), found / math.log(classes), rtol=1e-12)
    assert found.dtype == np.float64


@pytest.mark.parametrize("alpha", [[1.0, 1.0, 1.0], [1.3, 7.5, 2.2, 1.0], [40.0, 3.0]])
def test_the_expected_entropy_is_the_mean_over_drawn_distributions(alpha: list[float]) -> None:
    drawn = stats.dirichlet(alpha).rvs(40_000, random_state=np.random.default_rng(5))
    entropies = stats.entropy(drawn, axis=1)

    found = evidence.expected_entropy_nats(np.array(alpha))

    assert abs(found - entropies.mean()) < 4 * entropies.std() / math.sqrt(len(entropies))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 3e-5), (np.float64, 1e-11)])
def test_epistemic_is_the_variance_of_the_dirichlet_over_its_greatest(
    classes: int, dtype: DTypeLike, rtol: float
) -> None:
    alpha = _alpha(classes, dtype=dtype)

    variances = [stats.dirichlet(row.astype(np.float64)).var().sum() for row in alpha]
    greatest = stats.dirichlet(np.ones(classes)).var().sum()

    np.testing.assert_allclose(evidence.epistemic_variance(alpha), variances, rtol=rtol)
    np.testing.assert_allclose(evidence.epistemic(alpha), np.array(variances) / greatest, rtol=rtol)


@given(ALPHAS)
def test_the_variance_of_the_mean_splits_into_noise_and_ignorance(alpha: Array) -> None:
    """1 - Σp² = S/(S+1)·(1 - Σp²) + eq. 3, both sides from different formulas."""
    total = alpha.sum()
    impurity = 1.0 - np.square(alpha / total).sum()

    variance = evidence.epistemic_variance(alpha)

    assert math.isclose(impurity, total / (total + 1.0) * impurity + variance, abs_tol=1e-12)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_paper_s_aleatoric_is_the_entropy_of_the_mean(classes: int, dtype: DTypeLike) -> None:
    probs = evidence.probs(_alpha(classes, dtype=dtype))

    expected = stats.entropy(probs.astype(np.float64), axis=1)

    np.testing.assert_allclose(evidence.entropy_nats(probs), expected, rtol=1e-5)
    np.testing.assert_allclose(
        evidence.aleatoric_paper(probs), expected / math.log(classes), rtol=1e-5
    )


def test_certainty_has_no_entropy_and_no_warning() -> None:
    with np.errstate(all="raise"):
        entropy = evidence.entropy_nats(np.array([0.0, 1.0, 0.0], np.float32))

    assert entropy == 0.0


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_is_scipy_s(classes: int, dtype: DTypeLike) -> None:
    logits = np.random.default_rng(3).normal(-2.0, 9.0, (6, classes)).astype(dtype)

    probs = evidence.softmax(logits)

    expected = special.softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(probs, expected, rtol=1e3 * np.finfo(dtype).eps, atol=1e-38)
    assert probs.dtype == dtype
    np.testing.assert_array_equal(evidence.softmax(logits[4]), probs[4])


def test_the_logarithm_of_a_quantised_zero_is_that_of_half_a_step() -> None:
    logs = evidence.log_probs(np.array([0.0, 0.25, 0.75], np.float32), floor=1 / 512)

    np.testing.assert_allclose(logs, [math.log(1 / 512), math.log(0.25), math.log(0.75)], rtol=1e-6)
    assert logs.dtype == np.float32


@given(ALPHAS)
def test_every_uncertainty_lies_between_zero_and_one(alpha: Array) -> None:
    for kept in (alpha, alpha.astype(np.float32)):
        assert 0.0 < evidence.vacuity(kept) <= 1.0
        assert 0.0 <= evidence.aleatoric(kept) <= 1.0
        assert 0.0 <= evidence.epistemic(kept) <= 1.0
        assert 0.0 <= evidence.aleatoric_paper(evidence.probs(kept)) <= 1.0


@given(ALPHAS, st.randoms(use_true_random=False))
def test_the_order_of_the_classes_does_not_matter(alpha: Array, random: Random) -> None:
    order = list(range(len(alpha)))
    random.shuffle(order)

    for figure in (evidence.vacuity, evidence.aleatoric, evidence.epistemic):
        assert math.isclose(figure(alpha[order]), figure(alpha), rel_tol=1e-9, abs_tol=1e-12)
    np.testing.assert_allclose(evidence.probs(alpha[order]), evidence.probs(alpha)[order])


@given(ALPHAS, st.floats(1.01, 50.0))
def test_the_same_opinion_on_more_evidence_is_less_vacuous_and_less_ignorant(
    alpha: Array, factor: float
) -> None:
    assert evidence.vacuity(alpha * factor) < evidence.vacuity(alpha)
    assert evidence.epistemic(alpha * factor) < evidence.epistemic(alpha)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 3e-6), (np.float64, 1e-9)])
def test_the_quick_form_for_one_row_agrees(classes: int, dtype: DTypeLike, atol: float) -> None:
    alpha = _alpha(classes, dtype=dtype)
    probs = evidence.probs(alpha)
    totals = evidence.strength(alpha)[:, 0].astype(np.float64)

    both = evidence.Uncertainties(classes)
    quick = [both(row, p, total=total) for row, p, total in zip(alpha, probs, totals, strict=True)]

    wide = alpha.astype(np.float64)
    np.testing.assert_allclose([q[0] for q in quick], evidence.aleatoric(wide), atol=atol)
    np.testing.assert_allclose([q[1] for q in quick], evidence.epistemic(wide), atol=10 * atol)
