"""The assessor: raw outputs to opinions, one by one and in batches."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from msgspec.structs import replace
from numpy.typing import DTypeLike, NDArray
from scipy import special, stats

from hedge.models.errors import ModelError
from hedge.models.manifest import (
    Cloud,
    Edge,
    EvidenceHead,
    Head,
    Output,
    Router,
    Score,
    Scoring,
)
from hedge.models.opinion import INT8_STEP, Assessor, Opinions
from hedge.models.records import Opinion

Array = NDArray[np.floating[Any]]

KINDS: list[tuple[Output, Head, Score]] = [
    *[("logits", "evidential", score) for score in get_args(Score)],
    *[("logits", "softmax", score) for score in get_args(Score) if score != "vacuity"],
    *[("probabilities", "softmax", score) for score in get_args(Score) if score != "vacuity"],
    ("logits", "none", "max_prob"),
]
SIZES = [(2, 1), (2, 50), (3, 7), (9, 1), (10, 33), (100, 5), (1000, 3)]
CASES = [
    (*kind, *size) for kind in KINDS for size in SIZES if not (kind[2] == "p_norm" and size[0] == 2)
]
DTYPES = [np.float32, np.float64]


def _scoring(score: Score, classes: int) -> Scoring:
    """Return a score with what it needs: some temperature, or some router."""
    weights = (0.8, *np.linspace(-1.0, 1.0, classes).tolist())
    return Scoring(score=score, temperature=1.3, router=Router(weights=weights, bias=0.2))


def _outputs(output: Output, *, classes: int, rows: int, dtype: DTypeLike) -> Array:
    logits = np.random.default_rng(classes + rows).normal(0.4, 5.0, (rows, classes))
    given = special.softmax(logits, axis=1) if output == "probabilities" else logits
    kept: Array = given.astype(dtype)
    return kept


def _row(opinions: Opinions, row: int) -> Opinion:
    """Return one row of a batch as the opinion it should equal."""

    def figure(figures: Array | None) -> float | None:
        return None if figures is None else float(figures[row])

    return Opinion(
        opinions.probs[row],
        float(opinions.score[row]),
        opinions.score_name,
        figure(opinions.vacuity),
        figure(opinions.aleatoric),
        figure(opinions.epistemic),
        None if opinions.alpha is None else opinions.alpha[row],
    )


def _assert_same(found: Opinion, expected: Opinion) -> None:
    for name in found.__struct_fields__:
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(one, other, err_msg=name)
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None), name


@pytest.mark.parametrize(("output", "head", "score", "classes", "rows"), CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_gives_exactly_what_its_rows_give_alone(
    output: Output, head: Head, score: Score, classes: int, rows: int, dtype: DTypeLike
) -> None:
    assessor = Assessor(output=output, head=head, classes=classes, score=_scoring(score, classes))
    outputs = _outputs(output, classes=classes, rows=rows, dtype=dtype)

    batch = assessor.assess_batch(outputs)
    deep = assessor.deepen_batch(batch, outputs)

    for row in range(rows):
        opinion = assessor.assess(outputs[row])
        _assert_same(opinion, _row(batch, row))
        _assert_same(assessor.deepen(opinion, outputs[row]), _row(deep, row))


@pytest.mark.parametrize("precision", ["float", "int8"])
@pytest.mark.parametrize("score", ["vacuity", "margin", "router"])
def test_a_table_on_a_distribution_gives_a_row_what_it_gives_a_batch_with_zeros_or_without(
    score: Score, precision: Literal["float", "int8"]
) -> None:
    assessor = Assessor(
        output="probabilities",
        head="evidential",
        classes=10,
        score=_scoring(score, 10),
        precision=precision,
        evidence=EvidenceHead(
            weights=(0.4, 0.6, 0.3), bias=-0.3, temperature=1.4, data_sha256="0" * 64
        ),
    )
    outputs = _outputs("probabilities", classes=10, rows=30, dtype=np.float32)
    outputs[:10, 3] = 0.0
    outputs[10:20, 4] = INT8_STEP / 2  # the floor itself
    outputs /= outputs.sum(axis=1, keepdims=True)

    batch = assessor.assess_batch(outputs)
    deep = assessor.deepen_batch(batch, outputs)

    for row in range(30):
        opinion = assessor.assess(outputs[row])
        assert opinion.alpha is None, "that is for what comes past the gate"
        _assert_same(opinion, replace(_row(batch, row), alpha=None))
        _assert_same(assessor.deepen(opinion, outputs[row]), _row(deep, row))


@pytest.mark.parametrize("output", get_args(Output))
@pytest.mark.parametrize("score", [one for one in get_args(Score) if one != "vacuity"])
def test_where_another_score_gates_a_table_is_read_past_the_gate(
    output: Output, score: Score
) -> None:
    table = EvidenceHead(weights=(0.4, 0.6, 0.3), bias=-0.3, temperature=1.4, data_sha256="0" * 64)
    scoring = _scoring(score, 5)
    plain = Assessor(output=output, head="softmax", classes=5, score=scoring)
    both = Assessor(output=output, head="evidential", classes=5, score=scoring, evidence=table)
    vacuous = Assessor(output=output, head="evidential", classes=5, evidence=table)
    for row in _outputs(output, classes=5, rows=20, dtype=np.float32):
        opinion = both.assess(row)
        _assert_same(opinion, plain.assess(row))
        deep, read = both.deepen(opinion, row), vacuous.deepen(vacuous.assess(row), row)
        _assert_same(deep, replace(read, probs=deep.probs, score=deep.score, score_name=score))
        assert deep.alpha is not None
        assert deep.alpha.min() >= 1.0
        np.testing.assert_allclose(deep.alpha / deep.alpha.sum(), read.probs, rtol=1e-6)


def test_how_a_batch_lies_in_memory_does_not_matter() -> None:
    assessor = Assessor(output="logits", head="evidential", classes=100)
    outputs = _outputs("logits", classes=100, rows=8, dtype=np.float32)

    plain, turned = (
        assessor.assess_batch(outputs),
        assessor.assess_batch(np.asfortranarray(outputs)),
    )

    np.testing.assert_array_equal(plain.score, turned.score)
    np.testing.assert_array_equal(plain.probs, turned.probs)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-5), (np.float64, 1e-9)])
def test_evidence_becomes_a_dirichlet_and_its_uncertainties(
    classes: int, dtype: DTypeLike, rtol: float
) -> None:
    logits = _outputs("logits", classes=classes, rows=1, dtype=dtype)[0]
    assessor = Assessor(output="logits", head="evidential", classes=classes)

    opinion = assessor.deepen(assessor.assess(logits), logits)

    alpha = 1.0 + np.logaddexp(0.0, logits.astype(np.float64))
    dirichlet = stats.dirichlet(alpha)
    total = alpha.sum()
    expected = (alpha / total * (special.digamma(total + 1) - special.digamma(alpha + 1))).sum()
    np.testing.assert_allclose(opinion.probs, dirichlet.mean(), rtol=rtol)
    assert opinion.score == opinion.vacuity == pytest.approx(classes / total, rel=rtol)
    assert opinion.aleatoric == pytest.approx(expected / np.log(classes), rel=rtol)
    greatest = stats.dirichlet(np.ones(classes)).var().sum()
    assert opinion.epistemic == pytest.approx(dirichlet.var().sum() / greatest, rel=50 * rtol)
    assert opinion.probs.dtype == dtype
    assert opinion.alpha is not None
    assert opinion.alpha.dtype == dtype


@pytest.mark.parametrize("head", ["softmax", "none"])
def test_logits_without_evidence_become_a_softmax(head: Head) -> None:
    logits = np.array([0.5, -3.0, 2.25], np.float32)
    assessor = Assessor(output="logits", head=head, classes=3)

    opinion = assessor.assess(logits)

    np.testing.assert_allclose(opinion.probs, special.softmax(logits), rtol=1e-6)
    assert opinion.score == pytest.approx(1.0 - special.softmax(logits).max(), rel=1e-6)
    assert (opinion.score_name, opinion.alpha, opinion.vacuity) == ("max_prob", None, None)
    assert assessor.deepen(opinion, logits) is opinion


def test_probabilities_are_brought_to_a_sum_of_one() -> None:
    assessor = Assessor(output="probabilities", head="softmax", classes=3, precision="int8")

    opinion = assessor.assess(np.array([0.75, 0.25, 0.00390625], np.float32))

    assert float(opinion.probs.sum()) == pytest.approx(1.0, abs=1e-7)
    assert opinion.probs[0] == pytest.approx(0.75 / 1.00390625, rel=1e-6)


def test_quantised_zeros_count_as_half_a_step_in_the_logarithm() -> None:
    given = np.array([0.75, 0.25, 0.0], np.float32)
    assessor = Assessor(
        output="probabilities", head="softmax", classes=3, score="p_norm", precision="int8"
    )

    logs = np.log([0.75, 0.25, 1 / 512])
    centred = logs - logs.mean()
    expected = 1.0 - centred.max() / np.power(np.power(centred, 4).sum(), 0.25)
    assert assessor.assess(given).score == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "given", [[1.5, -0.5, 0.0], [0.2, 0.1, 0.1], [0.9, 0.8, 0.7], [0.0, 0.0, 0.0]]
)
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_outputs_that_should_be_a_distribution_and_are_none_are_refused(
    given: list[float], precision: Literal["float", "int8"]
) -> None:
    assessor = Assessor(
        output="probabilities", head="softmax", classes=3, precision=precision, where="a.tflite"
    )
    outputs = np.array([[0.5, 0.25, 0.25], given], np.float32)

    with pytest.raises(ModelError, match=r"^a\.tflite: the outputs are no distribution"):
        assessor.assess(outputs[1])
    with pytest.raises(ModelError, match=r"row 1: the outputs are no distribution.*logits"):
        assessor.assess_batch(outputs)


@pytest.mark.parametrize(("output", "head", "score"), KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, *DTYPES])
def test_an_output_that_is_no_number_is_refused_by_its_place(
    output: Output, head: Head, score: Score, bad: float, dtype: DTypeLike
) -> None:
    assessor = Assessor(
        output=output, head=head, classes=4, score=_scoring(score, 4), where="edge.onnx"
    )
    outputs = _outputs(output, classes=4, rows=5, dtype=dtype)
    outputs[3, 2] = bad

    with pytest.raises(ModelError, match=rf"^edge\.onnx: output 2 is {bad}$"):
        assessor.assess(outputs[3])
    with pytest.raises(ModelError, match=rf"^edge\.onnx: row 3, output 2 is {bad}$"):
        assessor.assess_batch(outputs)
    assessor.assess(outputs[2])


def test_great_outputs_are_numbers_all_the_same() -> None:
    assessor = Assessor(output="logits", head="evidential", classes=3)

    with np.errstate(over="ignore"):
        opinion = assessor.assess(np.array([1e30, -1e30, 5.0], np.float32))

    np.testing.assert_allclose(opinion.probs, [1.0, 0.0, 0.0], atol=1e-6)
    assert opinion.score == pytest.approx(3e-30, rel=1e-6)


@pytest.mark.parametrize("shape", [(4,), (1, 3), (), (0,)])
def test_outputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    assessor = Assessor(output="logits", head="softmax", classes=3)

    with pytest.raises(ModelError, match=r"outputs have shape .*, not \(3,\)"):
        assessor.assess(np.zeros(shape))


@pytest.mark.parametrize("shape", [(3,), (5, 4), (2, 3, 1)])
def test_a_batch_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    assessor = Assessor(output="logits", head="softmax", classes=3)

    with pytest.raises(ModelError, match=r"outputs have shape .*, not \(N, 3\)"):
        assessor.assess_batch(np.zeros(shape))


def test_an_empty_batch_gives_no_opinions() -> None:
    assessor = Assessor(output="logits", head="evidential", classes=3)

    none = np.zeros((0, 3), np.float32)
    opinions = assessor.deepen_batch(assessor.assess_batch(none), none)

    assert opinions.probs.shape == (0, 3)
    assert opinions.epistemic is not None
    assert opinions.epistemic.shape == (0,)


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_other_numbers_are_taken_as_float32(dtype: DTypeLike) -> None:
    assessor = Assessor(output="logits", head="evidential", classes=3)
    outputs = np.array([[3, -2, 1]], dtype)

    opinion = assessor.assess(outputs[0])

    assert opinion.probs.dtype == np.float32
    _assert_same(opinion, assessor.assess(outputs[0].astype(np.float32)))
    _assert_same(opinion, _row(assessor.assess_batch(outputs), 0))


@pytest.mark.parametrize(("output", "head", "score"), KINDS)
def test_an_opinion_shares_no_memory_with_the_outputs_or_with_another(
    output: Output, head: Head, score: Score
) -> None:
    assessor = Assessor(output=output, head=head, classes=5, score=_scoring(score, 5))
    outputs = _outputs(output, classes=5, rows=2, dtype=np.float32)
    before = outputs.copy()

    first = assessor.assess(outputs[0])
    kept = first.probs.copy()
    second = assessor.assess(outputs[1])

    np.testing.assert_array_equal(outputs, before)
    np.testing.assert_array_equal(first.probs, kept)
    assert not np.shares_memory(first.probs, second.probs)
    assert not np.shares_memory(first.probs, outputs)


@pytest.mark.parametrize(
    ("output", "head", "classes", "score", "message"),
    [
        ("logits", "softmax", 3, "vacuity", r'"vacuity" needs an evidential head.*max_prob'),
        ("logits", "none", 3, "vacuity", r'"vacuity" needs an evidential head.*max_prob'),
        ("probabilities", "evidential", 3, None, r"an evidential head needs logits.*softmax"),
        ("logits", "softmax", 2, "p_norm", r'"p_norm" is the same for every sample'),
        ("logits", "softmax", 1, None, r"1 classes; at least 2"),
    ],
)
def test_what_has_no_meaning_is_refused_before_the_first_sample(
    output: Output, head: Head, classes: int, score: Score | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        Assessor(output=output, head=head, classes=classes, score=score)


def test_a_manifest_s_variants_have_their_assessors() -> None:
    edge = Edge(name="a", file="a.tflite", output="probabilities", precision="int8")
    cloud = Cloud(file="b.onnx", head="evidential")
    zeros = np.array([0.99609375, 0.0, 0.0], np.float32)

    near = Assessor.of(edge, classes=3, score="entropy")
    far = Assessor.of(cloud, classes=3)

    assert near.assess(zeros).score_name == "entropy"
    assert far.assess(zeros).score_name == "vacuity"
    with pytest.raises(ModelError, match=r"^b\.onnx: "):
        far.assess(zeros[:2])


def test_chosen_rows_of_a_batch_keep_their_figures() -> None:
    assessor = Assessor(output="logits", head="evidential", classes=3)
    outputs = _outputs("logits", classes=3, rows=4, dtype=np.float64)
    opinions = assessor.deepen_batch(assessor.assess_batch(outputs), outputs)

    some = opinions.rows(np.array([False, True, False, True]))

    _assert_same(_row(some, 0), _row(opinions, 1))
    _assert_same(_row(some, 1), _row(opinions, 3))
    assert len(some.score) == 2


@given(npst.arrays(np.float32, 6, elements=st.floats(-1e4, 1e4, width=32)))
def test_every_opinion_is_a_distribution_with_uncertainties_in_range(logits: Array) -> None:
    for output, head, score in KINDS:
        if output == "probabilities":
            continue
        assessor = Assessor(output=output, head=head, classes=6, score=_scoring(score, 6))
        opinion = assessor.deepen(assessor.assess(logits), logits)
        assert abs(float(opinion.probs.sum()) - 1.0) < 1e-5
        assert (opinion.probs >= 0.0).all()
        figures = (opinion.score, opinion.vacuity, opinion.aleatoric, opinion.epistemic)
        assert all(figure is None or -1e-6 <= figure <= 1.0 + 1e-6 for figure in figures)
