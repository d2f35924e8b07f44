"""Fusion: the weights of eq. 7, its edge cases, and a distribution in any case."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import DTypeLike, NDArray
from scipy import special, stats

from hedge.models import fusion
from hedge.models.errors import ModelError
from hedge.models.fusion import combine, fuse
from hedge.models.opinion import Assessor
from hedge.models.records import Opinion

Array = NDArray[np.floating[Any]]

LOGITS = npst.arrays(np.float32, (2, 5), elements=st.floats(-30.0, 30.0, width=32))


def _assessor(head: str, classes: int) -> Assessor:
    return Assessor(
        output="logits", head="evidential" if head == "evidential" else "softmax", classes=classes
    )


def _logits(classes: int, *, seed: int, dtype: DTypeLike = np.float64) -> Array:
    return np.random.default_rng(seed).normal(0.3, 2.5, (6, classes)).astype(dtype)


def test_the_worked_example_holds() -> None:
    assert doctest.testmod(fusion, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("classes", [2, 7, 1000])
@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-6), (np.float64, 1e-10)])
def test_two_sides_with_evidence_are_weighed_by_their_expected_entropies(
    classes: int, dtype: DTypeLike, atol: float
) -> None:
    near, far = _logits(classes, seed=1, dtype=dtype), _logits(classes, seed=2, dtype=dtype)
    assessor = _assessor("evidential", classes)

    fused = fuse(assessor.assess_batch(near), assessor.assess_batch(far))

    def expected_entropy(logits: Array) -> Array:
        alpha = 1.0 + np.logaddexp(0.0, logits.astype(np.float64))
        total = alpha.sum(axis=1, keepdims=True)
        terms = alpha / total * (special.digamma(total + 1) - special.digamma(alpha + 1))
        return terms.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]

    def mean(logits: Array) -> Array:
        alpha = 1.0 + np.logaddexp(0.0, logits.astype(np.float64))
        return alpha / alpha.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]

    a_near, a_far = expected_entropy(near), expected_entropy(far)
    expected = (a_far * mean(near) + a_near * mean(far)) / (a_near + a_far)
    np.testing.assert_allclose(fused, expected, atol=atol)
    assert fused.dtype == dtype


@pytest.mark.parametrize(
    ("edge_head", "cloud_head"),
    [("evidential", "softmax"), ("softmax", "evidential"), ("softmax", "softmax")],
)
def test_without_evidence_on_a_side_both_are_weighed_by_the_entropy_of_the_mean(
    edge_head: str, cloud_head: str
) -> None:
    edge = _assessor(edge_head, 5).assess_batch(_logits(5, seed=3))
    cloud = _assessor(cloud_head, 5).assess_batch(_logits(5, seed=4))

    fused = fuse(edge, cloud)

    near, far = stats.entropy(edge.probs, axis=1), stats.entropy(cloud.probs, axis=1)
    weight = (far / (near + far))[:, None]
    np.testing.assert_allclose(fused, weight * edge.probs + (1 - weight) * cloud.probs, rtol=1e-9)


def test_a_row_alone_is_fused_as_it_is_among_others() -> None:
    near, far = _logits(6, seed=5), _logits(6, seed=6)
    assessor = _assessor("evidential", 6)
    edges, clouds = (
        assessor.deepen_batch(assessor.assess_batch(logits), logits) for logits in (near, far)
    )

    together = fuse(edges, clouds)

    for row, fused in enumerate(together):
        edge = assessor.deepen(assessor.assess(near[row]), near[row])
        cloud = assessor.deepen(assessor.assess(far[row]), far[row])
        np.testing.assert_array_equal(fuse(edge, cloud), fused)


def test_an_opinion_that_was_not_deepened_is_fused_all_the_same() -> None:
    near, far = _logits(6, seed=5), _logits(6, seed=6)
    assessor = _assessor("evidential", 6)
    edge, cloud = assessor.assess(near[0]), assessor.assess(far[0])

    np.testing.assert_allclose(
        fuse(edge, cloud),
        fuse(assessor.deepen(edge, near[0]), assessor.deepen(cloud, far[0])),
        rtol=1e-8,
    )


def test_two_certain_sides_count_alike() -> None:
    edge = Opinion(np.array([1.0, 0.0, 0.0]), 0.0, "max_prob")
    cloud = Opinion(np.array([0.0, 0.0, 1.0]), 0.0, "max_prob")

    np.testing.assert_array_equal(fuse(edge, cloud), [0.5, 0.0, 0.5])


def test_a_side_that_is_certain_alone_decides() -> None:
    edge = Opinion(np.array([0.5, 0.25, 0.25]), 0.5, "max_prob")
    cloud = Opinion(np.array([0.0, 0.0, 1.0]), 0.0, "max_prob")

    np.testing.assert_array_equal(fuse(edge, cloud), [0.0, 0.0, 1.0])


def test_only_the_rows_of_zero_over_zero_get_a_half() -> None:
    edge = np.array([[0.8, 0.2], [0.8, 0.2]])
    cloud = np.array([[0.4, 0.6], [0.4, 0.6]])

    fused = combine(edge, cloud, doubt_edge=np.array([0.0, 0.3]), doubt_cloud=np.array([0.0, 0.1]))

    np.testing.assert_allclose(fused, [[0.6, 0.4], [0.5, 0.5]])


@given(LOGITS, st.sampled_from(["evidential", "softmax"]))
def test_the_result_is_a_distribution_between_the_two_sides(logits: Array, head: str) -> None:
    near, far = logits
    edge = _assessor("evidential", 5).assess(near)
    cloud = _assessor(head, 5).assess(far)

    fused = fuse(edge, cloud)

    assert fused.dtype == np.float32
    assert abs(float(fused.sum()) - 1.0) < 1e-5
    assert (fused >= np.minimum(edge.probs, cloud.probs) - 1e-6).all()
    assert (fused <= np.maximum(edge.probs, cloud.probs) + 1e-6).all()


def test_evidence_beyond_float32_still_gives_a_distribution() -> None:
    alpha = np.array([3e38, 2e38, 1e38], np.float32)
    cloud = Opinion(np.array([0.5, 0.3, 0.2], np.float32), 0.0, "none", alpha=alpha)
    edge = _assessor("evidential", 3).assess(np.array([0.5, 1.0, -2.0], np.float32))

    fused = fuse(edge, cloud)

    assert np.isfinite(fused).all()
    assert abs(float(fused.sum()) - 1.0) < 1e-6


def test_sides_with_different_classes_are_refused() -> None:
    edge = _assessor("evidential", 3).assess(np.array([0.5, 1.0, -2.0]))
    cloud = _assessor("evidential", 2).assess(np.array([0.5, 1.0]))

    with pytest.raises(ModelError, match=r"cannot fuse .*\(3,\).*\(2,\)"):
        fuse(edge, cloud)
