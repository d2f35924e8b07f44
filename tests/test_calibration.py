"""Calibration: thresholds, the choice of a score, and when fusion is switched on."""

from __future__ import annotations

import doctest
import math
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray
from scipy import stats

from hedge.models import calibration
from hedge.models.calibration import calibrate, choose_score, fusion_gain, threshold_for_rate
from hedge.models.errors import ConfigError, DataError, ModelError
from hedge.models.manifest import Calibration, Cloud, Edge, Head, Score
from hedge.models.opinion import Assessor, Opinions
from hedge.runtime.policy import Policy

Array = NDArray[np.floating[Any]]
Figures = NDArray[np.float64]
Flags = NDArray[np.bool_]

EDGE = Edge(name="tiny", file="edge.onnx", head="evidential")
CLOUD = Cloud(file="cloud.onnx", head="evidential")
DIGEST = "ab" * 32


def _task(
    rows: int = 600, classes: int = 5, *, seed: int = 0, dtype: DTypeLike = np.float32
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return a weak edge's logits, a strong cloud's, and the labels."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, rows)
    hint = np.eye(classes)[y]
    edge = 2.6 * hint + random.normal(0.0, 1.5, (rows, classes))
    cloud = 5.0 * hint + random.normal(0.0, 1.5, (rows, classes))
    return edge.astype(dtype), cloud.astype(dtype), y


def _calibrate(
    *, rate: float = 0.3, edge: Edge = EDGE, scores: Sequence[Score] = get_args(Score)
) -> Calibration:
    near, far, y = _task()
    return calibrate(
        near, far, y, edge=edge, cloud=CLOUD, target_rate=rate, data_sha256=DIGEST, scores=scores
    )


def test_the_worked_examples_hold() -> None:
    assert doctest.testmod(calibration, extraglobs={"np": np}).failed == 0


@given(
    st.lists(st.one_of(st.integers(0, 4).map(float), st.floats(0.0, 4.0)), min_size=1),
    st.floats(0.0, 1.0),
)
def test_a_threshold_is_the_least_that_keeps_to_the_rate(values: list[float], rate: float) -> None:
    score = np.array(values)

    threshold = threshold_for_rate(score, rate=rate)

    allowed = rate * len(score) + 1e-6
    assert (score >= threshold).sum() <= allowed
    below = score[score < threshold]
    if below.size:
        assert (score >= below.max()).sum() > allowed - 2e-6


@pytest.mark.parametrize("rate", [0.07, 0.29, 0.3, 0.57, 1.0])
def test_without_ties_the_rate_is_met_to_the_row(rate: float) -> None:
    score = np.random.default_rng(2).normal(size=100)

    assert (score >= threshold_for_rate(score, rate=rate)).sum() == round(rate * 100)


def test_a_rate_of_nothing_lets_no_row_through() -> None:
    score = np.array([0.5, 1.0, 1.0])

    assert not (score >= threshold_for_rate(score, rate=0.0)).any()


def test_ties_at_the_edge_all_stay() -> None:
    score = np.array([0.9, 0.5, 0.5, 0.5, 0.1])

    assert threshold_for_rate(score, rate=0.4) == 0.9
    assert threshold_for_rate(score, rate=0.8) == 0.5
    assert threshold_for_rate(score[1:4], rate=0.5) > 0.5


@pytest.mark.parametrize(
    ("won", "lost"), [(0, 0), (5, 0), (0, 5), (17, 6), (300, 250), (900, 1100)]
)
def test_the_sign_test_is_the_exact_binomial_one(won: int, lost: int) -> None:
    p_value = calibration.sign_test(won, lost)

    expected = stats.binom.sf(won - 1, won + lost, 0.5)
    assert p_value == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_the_calibrated_gate_escalates_what_was_asked(dtype: DTypeLike, rate: float) -> None:
    near, far, y = _task(dtype=dtype)

    found = calibrate(near, far, y, edge=EDGE, cloud=CLOUD, target_rate=rate, data_sha256=DIGEST)

    opinions = Assessor.of(EDGE, classes=5, score=found.score).assess_batch(near)
    assert (opinions.score >= found.total).sum() == round(rate * 600)
    assert (found.rows, found.data_sha256) == (600, DIGEST)
    assert found.method.startswith(f"escalation rate {rate:g}")


def test_the_split_stands_at_the_paper_s_quantiles() -> None:
    near, _, _ = _task()
    found = _calibrate()
    assessor = Assessor.of(EDGE, classes=5)

    deep = assessor.deepen_batch(assessor.assess_batch(near))

    assert deep.epistemic is not None
    assert deep.aleatoric is not None
    assert found.epistemic is not None
    assert found.aleatoric is not None
    assert (deep.epistemic < found.epistemic).mean() == pytest.approx(0.7, abs=1 / 600)
    assert (deep.aleatoric < found.aleatoric).mean() == pytest.approx(0.7, abs=1 / 600)


def test_the_same_rows_give_the_same_calibration() -> None:
    assert _calibrate() == _calibrate()


def test_a_calibration_survives_being_written_and_read() -> None:
    found = _calibrate()

    assert msgspec.json.decode(msgspec.json.encode(found), type=Calibration) == found


@pytest.mark.parametrize("head", ["softmax", "none"])
def test_an_edge_without_evidence_gates_on_a_score_it_has(head: Head) -> None:
    found = _calibrate(edge=Edge(name="tiny", file="edge.onnx", head=head))

    assert found.score != "vacuity"
    assert (found.epistemic, found.aleatoric) == (None, None)
    assert (found.fusion, found.fusion_gain) == (False, None)


def test_only_the_scores_asked_for_are_considered() -> None:
    assert _calibrate(scores=["margin"]).score == "margin"


def test_an_edge_that_suits_none_of_the_scores_is_refused() -> None:
    edge = Edge(name="tiny", file="edge.onnx", head="softmax")

    with pytest.raises(ModelError, match=r'edge\.onnx: score "vacuity" needs an evidential head'):
        _calibrate(edge=edge, scores=["vacuity"])
    with pytest.raises(ConfigError, match="no score to choose from"):
        _calibrate(edge=edge, scores=[])


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="target_rate"):
        _calibrate(rate=rate)


@pytest.mark.parametrize(
    ("edge", "cloud", "y"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), np.zeros(3, int)),
        (np.zeros((3, 2)), np.zeros((4, 2)), np.zeros(3, int)),
        (np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(4, int)),
        (np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int)),
        (np.zeros(3), np.zeros(3), np.zeros(3, int)),
        (np.zeros((3, 2)), np.zeros((3, 2)), np.array([0, 1, 2])),
        (np.zeros((3, 2)), np.zeros((3, 2)), np.array([0, 1, -1])),
        (np.zeros((3, 2)), np.zeros((3, 2)), np.array([0.0, 1.0, 0.0])),
    ],
)
def test_rows_and_labels_that_do_not_fit_each_other_are_refused(
    edge: Array, cloud: Array, y: NDArray[np.int64]
) -> None:
    with pytest.raises(DataError, match=r"do not fit each other|labels are not integers"):
        calibrate(edge, cloud, y, edge=EDGE, cloud=CLOUD, target_rate=0.3, data_sha256=DIGEST)


def test_an_output_that_is_no_number_is_refused_by_its_row() -> None:
    near, far, y = _task()
    far[17, 2] = np.nan

    with pytest.raises(ModelError, match=r"cloud\.onnx: row 17, output 2 is nan"):
        calibrate(near, far, y, edge=EDGE, cloud=CLOUD, target_rate=0.3, data_sha256=DIGEST)


def _gates(rows: int, *, seed: int) -> tuple[Figures, Flags, Flags]:
    """Return how hard each row is, and whether edge and cloud get it right."""
    random = np.random.default_rng(seed)
    hard = random.random(rows)
    return hard, random.random(rows) > 0.6 * hard, random.random(rows) > 0.15 * hard


def test_a_clearly_better_score_is_chosen() -> None:
    hard, edge, cloud = _gates(800, seed=1)
    noise = np.random.default_rng(2).random(800)

    chosen = choose_score(
        {"vacuity": noise, "margin": hard, "entropy": 0.5 * hard + 0.5 * noise},
        edge_correct=edge,
        cloud_correct=cloud,
        up_to=0.6,
    )

    assert chosen.score == "margin"
    assert chosen.areas["margin"] > chosen.areas["entropy"] > chosen.areas["vacuity"]


def test_the_first_score_stays_unless_another_is_clearly_better() -> None:
    stayed = 0
    for seed in range(40):
        hard, edge, cloud = _gates(300, seed=seed)
        noise = np.random.default_rng(1000 + seed).normal(0.0, 0.1, (4, 300))
        names: list[Score] = ["vacuity", "max_prob", "margin", "entropy"]
        alike = {name: hard + noise[i] for i, name in enumerate(names)}
        chosen = choose_score(alike, edge_correct=edge, cloud_correct=cloud)
        stayed += chosen.score == "vacuity"

    assert stayed >= 36  # the error is held at 5 %


def test_a_score_that_orders_the_rows_alike_is_no_better() -> None:
    hard, edge, cloud = _gates(300, seed=3)

    chosen = choose_score(
        {"vacuity": hard, "entropy": hard**3}, edge_correct=edge, cloud_correct=cloud
    )

    assert chosen.score == "vacuity"
    assert chosen.areas["entropy"] == pytest.approx(chosen.areas["vacuity"])


def _side(right: Flags, *, sure: float) -> Opinions:
    """Return softmax opinions of two classes, the first being true."""
    top = np.where(right, sure, 1.0 - sure)
    probs = np.stack([top, 1.0 - top], axis=1)
    return Opinions(probs=probs, score=1.0 - probs.max(axis=1), score_name="max_prob")


def test_fusion_gains_where_each_side_is_sure_of_what_it_knows() -> None:
    half = np.arange(40) < 20
    edge, cloud = _side(half, sure=0.9), _side(~half, sure=0.9)
    edge.probs[~half] = [0.45, 0.55]
    cloud.probs[half] = [0.45, 0.55]

    found = fusion_gain(edge, cloud, np.zeros(40, int))

    assert found.rows == 40
    assert found.gain == pytest.approx(0.5)
    assert found.p_value == pytest.approx(0.5**20)


def test_fusion_loses_where_the_cloud_is_simply_better() -> None:
    cloud = _side(np.ones(40, bool), sure=0.6)
    edge = _side(np.arange(40) < 10, sure=0.95)

    found = fusion_gain(edge, cloud, np.zeros(40, int))

    assert found.gain == pytest.approx(-0.75)
    assert found.p_value == 1.0


def test_no_rows_to_fuse_show_no_gain() -> None:
    empty = _side(np.zeros(0, bool), sure=0.6)

    assert fusion_gain(empty, empty, np.zeros(0, int)) == (0, None, 1.0)


def _complementary(rows: int) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return two models that are torn between three classes each on an eighth of the rows.

    The truth is among the three, the other two are not the same on both sides: neither side
    can tell, both together can. A fifth of the rows means nothing to the edge; the rest is
    clear.
    """
    random = np.random.default_rng(11)
    y = random.integers(0, 6, rows)
    part = random.random(rows)
    torn, blank = part < 0.125, part > 0.8
    edge, cloud = random.normal(0.0, 0.7, (2, rows, 6))
    index = np.arange(rows)
    for side, others in ((edge, (1, 2)), (cloud, (3, 4))):
        side[index, y] += np.where(torn, 30.0, 20.0)
        for other in others:
            side[index[torn], (y[torn] + other) % 6] += 30.0
    edge[blank] = random.normal(-3.0, 0.5, (int(blank.sum()), 6))
    return edge, cloud, y


def test_fusion_is_switched_on_only_by_a_gain_on_the_calibration_rows() -> None:
    near, far, y = _complementary(2000)

    helped = calibrate(
        near,
        far,
        y,
        edge=EDGE,
        cloud=CLOUD,
        target_rate=0.5,
        data_sha256=DIGEST,
        scores=["margin"],
    )
    plain = _calibrate()

    assert helped.fusion
    assert helped.fusion_gain is not None
    assert helped.fusion_gain > 0.5
    assert not plain.fusion
    assert plain.fusion_gain is not None
    assert plain.fusion_gain <= 0.0


def test_the_gain_is_counted_on_the_rows_that_the_policy_would_fuse() -> None:
    near, far, y = _task()
    found = _calibrate(rate=0.5)
    edge, cloud = Assessor.of(EDGE, classes=5, score=found.score), Assessor.of(CLOUD, classes=5)
    policy = Policy.of(msgspec.structs.replace(found, fusion=True))

    fused = [
        policy.decide(edge.assess(row), deepen=edge.deepen)[0].action == "fuse" for row in near
    ]

    keep = np.array(fused)
    assert keep.sum() > 10
    deep = edge.deepen_batch(edge.assess_batch(near)).rows(keep)
    far_deep = cloud.deepen_batch(cloud.assess_batch(far)).rows(keep)
    assert found.fusion_gain == fusion_gain(deep, far_deep, y[keep]).gain
