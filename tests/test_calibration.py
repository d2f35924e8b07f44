"""Calibration: thresholds, the choice of a score, and when fusion is switched on."""

from __future__ import annotations

import doctest
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray
from scipy import special, stats

from hedge.models.calibration import (
    Aim,
    BudgetAim,
    PaperQuantiles,
    TargetAccuracy,
    TargetRate,
    aims,
    calibrate,
    choose_score,
    fusion_gain,
    promise,
    threshold,
    threshold_for_rate,
)
from hedge.models.calibration import fusion as fusing
from hedge.models.calibration.fusion import sign_test
from hedge.models.calibration.promise import (
    binomial_p_value,
    promise_groups,
    promise_rows,
    student_quantile,
)
from hedge.models.calibration.router import fit_router, folds
from hedge.models.calibration.temperature import fit_temperature
from hedge.models.errors import ConfigError, DataError, ModelError
from hedge.models.manifest import Budget, Calibration, Cloud, Edge, Head, Score
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
        near,
        far,
        y,
        edge=edge,
        cloud=CLOUD,
        aim=TargetRate(rate),
        data_sha256=DIGEST,
        scores=scores,
    )


@pytest.mark.parametrize("module", [aims, fusing, promise, threshold])
def test_the_worked_examples_hold(module: ModuleType) -> None:
    found = doctest.testmod(module, extraglobs={"np": np})
    assert (found.failed, found.attempted > 0) == (0, True)


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
    p_value = sign_test(won, lost)

    expected = stats.binom.sf(won - 1, won + lost, 0.5)
    assert p_value == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_the_calibrated_gate_escalates_what_was_asked(dtype: DTypeLike, rate: float) -> None:
    near, far, y = _task(dtype=dtype)

    found = calibrate(
        near, far, y, edge=EDGE, cloud=CLOUD, aim=TargetRate(rate), data_sha256=DIGEST
    )

    opinions = Assessor.of(EDGE, classes=5, score=found.scoring).assess_batch(near)
    assert (opinions.score >= found.total).sum() == round(rate * 600)
    assert (found.rows, found.data_sha256) == (600, DIGEST)
    assert found.method.startswith(f"escalation rate {rate:g}")


def test_the_split_stands_at_the_paper_s_quantiles() -> None:
    near, _, _ = _task()
    found = _calibrate()
    assessor = Assessor.of(EDGE, classes=5)

    deep = assessor.deepen_batch(assessor.assess_batch(near), near)

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
    with pytest.raises(ConfigError, match=r"rate: .* is not within"):
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
        calibrate(edge, cloud, y, edge=EDGE, cloud=CLOUD, aim=TargetRate(0.3), data_sha256=DIGEST)


def test_an_output_that_is_no_number_is_refused_by_its_row() -> None:
    near, far, y = _task()
    far[17, 2] = np.nan

    with pytest.raises(ModelError, match=r"cloud\.onnx: row 17, output 2 is nan"):
        calibrate(near, far, y, edge=EDGE, cloud=CLOUD, aim=TargetRate(0.3), data_sha256=DIGEST)


def _gates(rows: int, *, seed: int) -> tuple[Figures, Flags]:
    """Return how hard each row is, and whether the edge gets it right."""
    random = np.random.default_rng(seed)
    hard = random.random(rows)
    return hard, random.random(rows) > 0.6 * hard


def test_the_score_that_silently_fails_least_is_chosen() -> None:
    hard, correct = _gates(800, seed=1)
    noise = np.random.default_rng(2).random(800)

    scores: dict[Score, Figures] = {"vacuity": noise, "entropy": hard + noise, "margin": hard}

    assert choose_score(scores, correct) == "margin"


def test_of_scores_that_order_the_rows_alike_the_first_is_chosen() -> None:
    hard, correct = _gates(300, seed=3)

    assert choose_score({"vacuity": hard, "entropy": hard**3}, correct) == "vacuity"
    assert choose_score({"entropy": hard**3, "vacuity": hard}, correct) == "entropy"


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
        aim=TargetRate(0.5),
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
    edge, cloud = Assessor.of(EDGE, classes=5, score=found.scoring), Assessor.of(CLOUD, classes=5)
    policy = Policy.of(msgspec.structs.replace(found, fusion=True))

    fused = [
        policy.decide(edge.assess(row), row, deepen=edge.deepen)[0].action == "fuse" for row in near
    ]

    keep = np.array(fused)
    assert keep.sum() > 10
    deep = edge.deepen_batch(edge.assess_batch(near), near).rows(keep)
    far_deep = cloud.deepen_batch(cloud.assess_batch(far), far).rows(keep)
    assert found.fusion_gain == fusion_gain(deep, far_deep, y[keep]).gain


def test_the_temperature_is_that_of_the_greatest_likelihood() -> None:
    random = np.random.default_rng(4)
    true = random.normal(0.0, 2.0, (4000, 5))
    y = (true + random.gumbel(size=true.shape)).argmax(axis=1)

    heat = fit_temperature(2.5 * true, y)

    losses = [
        -float(np.mean(special.log_softmax(2.5 * true / t, axis=1)[np.arange(4000), y]))
        for t in (heat / 1.02, heat, heat * 1.02)
    ]
    assert losses[1] == min(losses)
    assert heat == pytest.approx(2.5, rel=0.06)


def test_a_temperature_stays_in_bounds_where_nothing_holds_it() -> None:
    logits = np.array([[3.0, 1.0], [0.5, 2.0], [4.0, -1.0]])

    assert fit_temperature(logits, logits.argmax(axis=1)) == pytest.approx(0.05)
    assert fit_temperature(logits, logits.argmin(axis=1)) == pytest.approx(20.0)


def _answers(rows: int, *, seed: int) -> tuple[Figures, Flags]:
    """Return a router's features where answer 2 is wrong far oftener than it looks."""
    random = np.random.default_rng(seed)
    against, answer = random.normal(-2.0, 2.0, rows), random.integers(0, 4, rows)
    features = np.column_stack((against, np.eye(4)[answer]))
    odds = 0.8 * against + np.where(answer == 2, 3.0, -0.5)
    return features, random.random(rows) < special.expit(odds)


def test_a_router_learns_which_answers_are_wrong_oftener_than_they_look() -> None:
    features, wrong = _answers(4000, seed=5)

    fit = fit_router(features, wrong, folds(4000, None, seed=0))

    assert fit is not None
    slope, *biases = fit.router.weights
    assert slope == pytest.approx(0.8, abs=0.1)
    others = np.array(biases)[[0, 1, 3]] + fit.router.bias
    np.testing.assert_allclose(others, -0.5, atol=0.3)
    assert biases[2] + fit.router.bias == pytest.approx(3.0, abs=0.4)


def test_a_router_is_the_optimum_of_its_penalised_likelihood() -> None:
    features, wrong = _answers(500, seed=6)
    fit = fit_router(features, wrong, folds(500, None, seed=0))
    assert fit is not None
    scale = features.std(axis=0)
    pull = np.array([0.1, *[fit.penalty] * 4]) * np.square(scale)

    def loss(bias: float, weights: Figures) -> float:
        odds = bias + features @ weights
        loss = np.logaddexp(0.0, odds).sum() - odds[wrong].sum()
        return float(loss + 0.5 * (pull * weights**2).sum())

    bias, weights = fit.router.bias, np.array(fit.router.weights)
    best = loss(bias, weights)
    for place in range(5):
        for step in (-1e-3, 1e-3):
            moved = weights.copy()
            moved[place] += step
            assert loss(bias, moved) > best
    assert min(loss(bias - 1e-3, weights), loss(bias + 1e-3, weights)) > best


def test_a_router_s_honest_scores_are_of_fits_without_the_row() -> None:
    random = np.random.default_rng(7)
    features = np.column_stack((random.normal(size=300), np.eye(30)[random.integers(0, 30, 300)]))
    wrong = random.random(300) < 0.3  # nothing tells which

    fit = fit_router(features, wrong, folds(300, None, seed=0))

    assert fit is not None
    seen = special.expit(fit.router.bias + features @ np.array(fit.router.weights))
    assert fit.honest[wrong].mean() - fit.honest[~wrong].mean() < 0.02
    assert seen[wrong].mean() - seen[~wrong].mean() > fit.honest[wrong].mean() - (
        fit.honest[~wrong].mean()
    )


def test_the_parts_of_a_cross_validation_keep_groups_together() -> None:
    group = np.repeat(["anna", "ben", "cleo", "dan", "eva", "fay", "gus"], [3, 9, 4, 4, 5, 1, 7])

    part = folds(len(group), group, seed=1)

    assert set(part.tolist()) == {0, 1, 2, 3, 4}
    assert all(len(set(part[group == one].tolist())) == 1 for one in set(group.tolist()))


def test_too_few_errors_teach_no_router() -> None:
    features, _ = _answers(200, seed=8)
    wrong = np.arange(200) < 9

    assert fit_router(features, wrong, folds(200, None, seed=0)) is None


@pytest.mark.parametrize(("wrong", "rows"), [(0, 50), (3, 50), (40, 1000), (49, 50), (50, 50)])
@pytest.mark.parametrize("error", [0.02, 0.3])
def test_the_p_value_of_a_promise_is_the_exact_binomial_one(
    wrong: int, rows: int, error: float
) -> None:
    expected = float(stats.binom.cdf(wrong, rows, error))

    assert binomial_p_value(wrong, rows, error=error) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 20, 57])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.95, 0.99])
def test_the_quantile_of_student_s_t_is_scipy_s(freedom: int, probability: float) -> None:
    expected = float(stats.t.ppf(probability, freedom))

    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-6)


def test_a_promise_by_row_is_seldom_broken() -> None:
    broken = 0
    for seed in range(100):
        hard, correct = _gates(1500, seed=seed)
        design = np.arange(1500) < 500
        promised = promise_rows(hard, correct, design, aim=TargetAccuracy(accuracy=0.8))
        broken += 0.3 * promised.total > 0.2  # the mean of 0.6·hard below the threshold
        assert promised.rows > 300

    assert broken <= 8  # at most 5 are to be expected


def test_a_threshold_that_only_luck_lets_pass_is_not_taken() -> None:
    score = np.linspace(0.0, 1.0, 3000)
    correct = np.ones(3000, bool)
    correct[::20] = False  # 5 % everywhere
    correct[(score > 0.5) & (score < 0.6)] = False
    correct[score >= 0.6] = True  # so that over all it looks better again
    design = np.arange(3000) % 3 == 0

    promised = promise_rows(score, correct, design, aim=TargetAccuracy(accuracy=0.85))

    assert 0.4 < promised.total < 0.56


def test_a_promise_that_needs_more_rows_says_how_many() -> None:
    hard, correct = _gates(60, seed=1)

    with pytest.raises(DataError, match=r"60 rows are too few to promise 0\.9 .*about \d+ are"):
        promise_rows(hard, correct, np.arange(60) < 20, aim=TargetAccuracy(accuracy=0.9))


def test_a_promise_beyond_the_edge_is_refused_with_what_it_reaches() -> None:
    random = np.random.default_rng(3)
    score, correct = random.random(3000), random.random(3000) > 0.3

    with pytest.raises(DataError, match=r"0\.95 cannot be promised: .* right in 0\.[67]"):
        promise_rows(score, correct, np.arange(3000) < 1000, aim=TargetAccuracy(accuracy=0.95))


def _people(people: int, *, seed: int) -> tuple[Figures, Flags, NDArray[np.intp]]:
    """Return score, hits and people, of whom some are harder than others at every score."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(people), 300)
    score = random.random(len(group))
    trouble = random.uniform(0.1, 1.0, people)[group]
    return score, random.random(len(group)) > 0.5 * trouble * score**2, group


def test_a_promise_by_group_holds_for_most_new_groups_where_one_by_row_does_not() -> None:
    broken = {"row": 0, "group": 0}
    for seed in range(40):
        score, correct, group = _people(14, seed=seed)
        known = group < 10
        aim = TargetAccuracy(accuracy=0.9, by="group")
        totals = {
            "group": promise_groups(score[known], correct[known], group[known], aim=aim).total,
            "row": promise_rows(
                score[known], correct[known], np.arange(3000) % 3 == 0, aim=aim
            ).total,
        }
        for by, total in totals.items():
            for one in range(10, 14):
                mine = (group == one) & (score < total)
                broken[by] += bool(mine.any() and correct[mine].mean() < 0.9)

    assert broken["group"] <= 0.1 * 160 < broken["row"]


def test_too_few_groups_promise_nothing() -> None:
    score, correct, group = _people(4, seed=0)

    with pytest.raises(DataError, match=r"group: 4 groups say too little .*5 are needed"):
        promise_groups(score, correct, group, aim=TargetAccuracy(accuracy=0.8, by="group"))


def test_a_calibration_for_an_accuracy_carries_its_promise() -> None:
    near, far, y = _task(3000)
    aim = TargetAccuracy(accuracy=0.9)

    found = calibrate(near, far, y, edge=EDGE, cloud=CLOUD, aim=aim, data_sha256=DIGEST)

    opinions = Assessor.of(EDGE, classes=5, score=found.scoring).assess_batch(near)
    accepted = opinions.score < found.total
    assert found.promise is not None
    assert (found.promise.accuracy, found.promise.by, found.promise.groups) == (0.9, "row", None)
    assert found.promise.coverage == pytest.approx(accepted.mean())
    assert (opinions.probs.argmax(axis=1) == y)[accepted].mean() > 0.9
    assert (opinions.probs.argmax(axis=1) == y).mean() < 0.9


def test_a_promise_by_group_needs_groups() -> None:
    near, far, y = _task()
    aim = TargetAccuracy(accuracy=0.9, by="group")

    with pytest.raises(DataError, match="no group column"):
        calibrate(near, far, y, edge=EDGE, cloud=CLOUD, aim=aim, data_sha256=DIGEST)


def test_the_paper_s_quantiles_gate_on_vacuity_and_say_what_its_own_threshold_would() -> None:
    near, far, y = _task()

    found = calibrate(
        near, far, y, edge=EDGE, cloud=CLOUD, aim=PaperQuantiles(), data_sha256=DIGEST
    )

    vacuity = Assessor.of(EDGE, classes=5).assess_batch(near).score
    assert found.score == "vacuity"
    assert found.total == pytest.approx(np.quantile(vacuity, 0.7))
    assert f"0.7 would escalate {np.mean(vacuity >= 0.7):.1%}" in found.method


@pytest.mark.parametrize(
    ("budget", "bytes_per_ask", "rate"),
    [
        (Budget(messages_per_hour=720.0), None, 0.2),
        (Budget(bytes_per_hour=360_000.0), 1000.0, 0.1),
        (Budget(messages_per_hour=1e9), None, 1.0),
    ],
)
def test_a_budget_becomes_a_rate_and_stays_in_the_calibration(
    budget: Budget, bytes_per_ask: float | None, rate: float
) -> None:
    near, far, y = _task()
    aim = BudgetAim(budget=budget, samples_per_hour=3600.0, bytes_per_ask=bytes_per_ask)

    found = calibrate(near, far, y, edge=EDGE, cloud=CLOUD, aim=aim, data_sha256=DIGEST)

    score = Assessor.of(EDGE, classes=5, score=found.scoring).assess_batch(near).score
    assert (score >= found.total).mean() == pytest.approx(rate)
    assert found.budget == budget


@pytest.mark.parametrize(
    "aim",
    [
        TargetAccuracy(accuracy=1.0),
        TargetAccuracy(accuracy=0.9, confidence=0.4),
        BudgetAim(budget=Budget(), samples_per_hour=10.0),
        BudgetAim(budget=Budget(bytes_per_hour=5.0), samples_per_hour=10.0),
        BudgetAim(budget=Budget(messages_per_hour=5.0), samples_per_hour=0.0),
        BudgetAim(budget=Budget(messages_per_hour=0.5), samples_per_hour=10.0),
        BudgetAim(
            budget=Budget(messages_per_hour=5.0, bytes_per_hour=500.0),
            samples_per_hour=10.0,
            bytes_per_ask=100.0,
        ),
    ],
)
def test_an_aim_that_no_gate_can_have_is_refused(aim: Aim) -> None:
    near, far, y = _task()

    with pytest.raises(ConfigError, match=r"accuracy|confidence|budget"):
        calibrate(near, far, y, edge=EDGE, cloud=CLOUD, aim=aim, data_sha256=DIGEST)


def test_the_losers_figures_and_the_reference_are_kept() -> None:
    found = _calibrate()

    names = [one.score for one in found.candidates]
    least = min(found.candidates, key=lambda one: one.augrc)
    assert names == list(get_args(Score))
    assert found.score == least.score
    assert all(0.5 < one.area < 1.0 and 0.0 < one.augrc < 0.5 for one in found.candidates)
    assert len(found.reference) == 19
    assert found.reference[13] == pytest.approx(found.total, rel=0.02)  # of 30 % that escalate


def test_without_a_cloud_the_far_end_counts_as_right() -> None:
    near, _, y = _task()

    found = calibrate(near, None, y, edge=EDGE, cloud=None, aim=TargetRate(0.3), data_sha256=DIGEST)

    chosen = next(one for one in found.candidates if one.score == found.score)
    assert chosen.area == pytest.approx(1.0 - chosen.augrc)
    assert (found.fusion, found.fusion_gain) == (False, None)


def test_one_class_is_none_to_choose_from() -> None:
    ones = np.ones((5, 1))

    with pytest.raises(DataError, match="1 classes; at least 2 are needed"):
        calibrate(
            ones,
            ones,
            np.zeros(5, int),
            edge=EDGE,
            cloud=CLOUD,
            aim=TargetRate(0.3),
            data_sha256=DIGEST,
        )
