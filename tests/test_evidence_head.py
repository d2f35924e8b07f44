"""The learnt evidence head: its formula, both its forms, and the same head inside a graph."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from onnx import TensorProto, helper, load_model_from_string, numpy_helper
from scipy import special, stats

from hedge.models.errors import ModelError
from hedge.models.evidence import alpha_from_logits
from hedge.models.evidence_head import FEATURES, MARK, HeadForm, features
from hedge.models.manifest import Edge, EvidenceHead, Output
from hedge.models.onnx_graph import check_graph
from hedge.models.opinion import Assessor
from hedge.models.training.onnx_head import append_head, takes_head
from hedge.runtime.backends.onnx import OnnxModel

Array = NDArray[np.floating[Any]]
SIZES = (2, 3, 10, 100, 1000)
WEIGHTS = ((0.7, 0.0, 0.0), (0.4, 0.6, 0.0), (0.3, 0.5, 1.7), (-0.2, 0.9, -1.1), (0.0, 0.0, 4.0))


def head(
    weights: tuple[float, ...] = (0.4, 0.6, 0.0), *, bias: float = -0.3, temperature: float = 1.3
) -> EvidenceHead:
    return EvidenceHead(weights=weights, bias=bias, temperature=temperature, data_sha256="0" * 64)


def logits(classes: int, *, rows: int = 40, seed: int = 4) -> NDArray[np.float32]:
    random = np.random.default_rng((classes, seed))
    spread = random.choice([0.3, 3.0, 12.0], (rows, 1))
    made: NDArray[np.float32] = (random.normal(0.7, 1.0, (rows, classes)) * spread).astype("f4")
    return made


def quantised(classes: int, *, rows: int = 60, seed: int = 5) -> NDArray[np.float32]:
    """Return what an int8 softmax gives: steps of 1/256, ties, exact zeros, saturated tops."""
    sharp = logits(classes, rows=rows, seed=seed)
    steps = np.round(special.softmax(sharp, axis=1) * 256)
    steps[0], steps[1], steps[2] = 0, 0, 0
    steps[0, classes - 2 :] = 128  # two that are equal, and nothing else
    steps[1, -1] = 255
    steps[2, : min(classes, 4)] = 256 / min(classes, 4)
    made: NDArray[np.float32] = (np.minimum(steps, 255) / 256).astype("f4")
    short = np.abs(made.sum(axis=1) - 1) > 1e-3 + classes / 512
    made[short, 0] += 1 - made[short].sum(axis=1)
    return made


def identity(
    classes: int,
    *,
    opset: int = 17,
    batch: int | str = "B",
    double: bool = False,
    extra: bool = False,
) -> bytes:
    """Return an ONNX graph that gives its input (B, K); with ``extra`` behind another output."""
    kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", kind, [batch, classes])]
    if extra:
        nodes.append(helper.make_node("Neg", ["x"], ["other"]))
        outputs.insert(0, helper.make_tensor_value_info("other", kind, [batch, classes]))
    unused = numpy_helper.from_array(np.zeros(1, np.float32), "unused")
    graph = helper.make_graph(
        nodes, "id", [helper.make_tensor_value_info("x", kind, [batch, classes])], outputs, [unused]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


# The formula


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_alpha_is_what_the_formula_says(classes: int, weights: tuple[float, ...]) -> None:
    z = logits(classes).astype(np.float64)
    alpha, total = HeadForm(head(weights), classes=classes).rows(z)

    q = special.softmax(z / 1.3, axis=1)
    top = q.max(axis=1)
    rest = np.array([np.delete(row, row.argmax()).sum() for row in q])
    apart = z - z.mean(axis=1, keepdims=True)
    form = np.stack(
        [
            np.log(top / rest),
            -np.log(stats.entropy(q, axis=1) / math.log(classes)),
            apart.max(axis=1) / np.linalg.norm(apart, ord=4, axis=1),
        ],
        axis=1,
    )
    strength = classes * np.exp(np.clip(form @ weights - 0.3, -4, 12))
    marked = q * np.where(q == top[:, None], MARK, 1.0)
    np.testing.assert_allclose(alpha, 1 + strength[:, None] * marked, rtol=1e-9)
    np.testing.assert_allclose(total, alpha.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(features(z, temperature=1.3), form, rtol=1e-9)
    assert len(weights) == len(FEATURES)


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_alone_gives_exactly_what_it_gives_among_others(
    classes: int, weights: tuple[float, ...], dtype: type[np.floating[Any]]
) -> None:
    z = logits(classes).astype(dtype)
    form = HeadForm(head(weights), classes=classes)

    alphas, totals = form.rows(z)

    assert alphas.dtype == dtype
    for row, alpha, total in zip(z, alphas, totals, strict=True):
        alone, its_total = form.row(row)
        np.testing.assert_array_equal(alone, alpha)
        assert its_total == total


def test_what_it_is_given_stays_as_it_was() -> None:
    z = logits(10)
    before = z.copy()
    form = HeadForm(head((0.3, 0.5, 1.7)), classes=10)
    form.rows(z)
    form.row(z[0])

    np.testing.assert_array_equal(z, before)


@given(
    npst.arrays(np.float32, (7,), elements=st.floats(-1e4, 1e4, width=32)),
    st.sampled_from(WEIGHTS),
)
def test_the_answer_never_changes(z: Array, weights: tuple[float, ...]) -> None:
    alpha, _ = HeadForm(head(weights), classes=7).row(z)
    probs = alpha / alpha.sum()

    assert alpha.argmax() == z.argmax() == probs.argmax()
    assert np.isfinite(alpha).all()
    assert alpha.min() >= 1


@pytest.mark.parametrize("classes", SIZES)
def test_classes_that_differ_by_one_rounding_stay_in_their_order(classes: int) -> None:
    z = np.zeros(classes, np.float32)
    z[-1] = np.nextafter(np.float32(0), np.float32(1))  # its softmax is that of the others
    alpha, _ = HeadForm(head(), classes=classes).row(z)

    assert alpha.argmax() == classes - 1


# In the assessor


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_table_makes_an_evidential_model_of_a_softmax(classes: int, output: Output) -> None:
    given_ = quantised(classes) if output == "probabilities" else logits(classes)
    edge = Edge(
        name="a",
        file="a.tflite",
        output=output,
        head="evidential",
        precision="int8",
        evidence=head(),
    )
    assessor = Assessor.of(edge, classes=classes)
    opinions = assessor.deepen_batch(assessor.assess_batch(given_), given_)

    np.testing.assert_array_equal(opinions.probs.argmax(axis=1), given_.argmax(axis=1))
    assert opinions.vacuity is not None
    assert opinions.alpha is not None
    assert opinions.epistemic is not None
    assert opinions.score_name == "vacuity"
    total = opinions.alpha.astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(opinions.vacuity, classes / total, rtol=1e-5)
    for row in range(len(given_)):
        one = assessor.deepen(assessor.assess(given_[row]), given_[row])
        assert (one.score, one.aleatoric) == (opinions.score[row], opinions.aleatoric[row])  # type: ignore[index]


def test_a_table_leaves_no_distribution_unchecked() -> None:
    edge = Edge(name="a", file="a.onnx", output="probabilities", head="evidential", evidence=head())
    assessor = Assessor.of(edge, classes=3)

    for bad in ([0.5, 0.6, 0.2], [1.2, -0.1, -0.1], [0.0, 0.0, 0.0]):
        with pytest.raises(ModelError, match="no distribution"):
            assessor.assess(np.array(bad, np.float32))
        with pytest.raises(ModelError, match="row 1: the outputs are no distribution"):
            assessor.assess_batch(np.array([[0.5, 0.25, 0.25], bad], np.float32))


def test_without_a_table_probabilities_have_no_evidence() -> None:
    with pytest.raises(ModelError, match="needs logits"):
        Assessor(output="probabilities", head="evidential", classes=3)


# In a graph


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_the_graph_gives_what_numpy_gives(
    classes: int, weights: tuple[float, ...], output: Output
) -> None:
    x = quantised(classes) if output == "probabilities" else logits(classes)
    plain = identity(classes)
    floor = 1 / 512
    made = append_head(
        plain, head(weights), classes=classes, output=output, floor=floor, where="plain"
    )
    model = OnnxModel(made.data, where="with head")

    graph = model.infer(x)
    alpha = alpha_from_logits(graph)
    z = np.log(np.maximum(x, np.float32(floor))) if output == "probabilities" else x
    expected, _ = HeadForm(head(weights), classes=classes).rows(z)

    np.testing.assert_allclose(alpha, expected, rtol=2e-3)
    np.testing.assert_allclose(classes / alpha.sum(1), classes / expected.sum(1), rtol=2e-3)
    np.testing.assert_array_equal(graph.argmax(axis=1), x.argmax(axis=1))
    np.testing.assert_array_equal(alpha.argmax(axis=1), x.argmax(axis=1))
    assert np.isfinite(graph).all()


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("weights", WEIGHTS[:3])
@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
def test_the_graph_gives_the_probabilities_of_the_formula(
    classes: int, weights: tuple[float, ...], temperature: float
) -> None:
    z = logits(classes, rows=300)
    one = head(weights, temperature=temperature)
    made = append_head(identity(classes), one, classes=classes, output="logits", where="plain")

    alpha = alpha_from_logits(OnnxModel(made.data, where="with head").infer(z)).astype("f8")
    expected, total = HeadForm(one, classes=classes).rows(z.astype(np.float64))

    sums = alpha.sum(axis=1)
    np.testing.assert_allclose(alpha / sums[:, None], expected / total[:, None], atol=1e-6)
    np.testing.assert_allclose(classes / sums, classes / total, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "temperature", "most"),
    [((0.4, 0.6, 0.0), 1.0, 28), ((0.4, 0.6, 0.0), 1.3, 29), ((0.3, 0.5, 1.7), 1.3, 36)],
)
def test_the_head_has_few_operators(
    weights: tuple[float, ...], temperature: float, most: int
) -> None:
    one = head(weights, temperature=temperature)
    made = append_head(identity(10), one, classes=10, output="logits", where="plain")

    nodes = load_model_from_string(made.data).graph.node
    assert len(nodes) - 1 <= most  # each costs a device half a microsecond a row
    assert not {"Cast", "Gemm", "Where"} & {node.op_type for node in nodes}


@pytest.mark.parametrize("weights", WEIGHTS[1:3])
def test_logits_without_bounds_give_bounded_evidence(weights: tuple[float, ...]) -> None:
    z = np.array([[200.0, 0, -300], [1e4, 1e4, 0], [0, 0, 0], [-1e4, 5e3, 4990]], np.float32)
    made = append_head(identity(3), head(weights), classes=3, output="logits", where="plain")

    graph = OnnxModel(made.data, where="with head").infer(z)
    expected, _ = HeadForm(head(weights), classes=3).rows(z.astype(np.float64))

    assert np.isfinite(graph).all()
    np.testing.assert_allclose(alpha_from_logits(graph), expected, rtol=1e-4)
    np.testing.assert_array_equal(graph.argmax(axis=1), z.argmax(axis=1))


@pytest.mark.parametrize("opset", [9, 12, 13, 17, 18, 21])
def test_the_head_fits_graphs_of_old_and_new_operators(opset: int) -> None:
    x, plain = logits(5), identity(5, opset=opset)
    assert takes_head(plain, where="plain")
    made = append_head(plain, head((0.3, 0.5, 1.7)), classes=5, output="logits", where="plain")

    alpha = alpha_from_logits(OnnxModel(made.data, where="with head").infer(x))
    expected, _ = HeadForm(head((0.3, 0.5, 1.7)), classes=5).rows(x)
    np.testing.assert_allclose(alpha, expected, rtol=1e-3)
    assert (np.argmax(alpha, axis=1) > 0).any()


def test_a_graph_of_too_old_operators_is_known_for_what_it_is() -> None:
    assert not takes_head(identity(3, opset=8), where="old")


@pytest.mark.parametrize("batch", ["B", 1])
def test_the_batch_axis_and_the_other_outputs_stay(batch: int | str) -> None:
    plain = identity(4, batch=batch, extra=True)
    made = append_head(plain, head(), classes=4, output="logits", output_name="y", where="plain")
    info = check_graph(made.data, where="with head")

    assert [one.name for one in info.outputs] == ["other", made.output]
    assert info.outputs[1].shape == (None if batch == "B" else 1, 4)
    model = OnnxModel(made.data, where="with head", output=made.output)
    x = logits(4, rows=1)
    expected, _ = HeadForm(head(), classes=4).rows(x)
    np.testing.assert_allclose(alpha_from_logits(model.infer(x)), expected, rtol=1e-4)


def test_a_graph_of_doubles_gets_the_head_too() -> None:
    made = append_head(identity(4, double=True), head(), classes=4, output="logits", where="plain")
    x = logits(4).astype(np.float64)
    graph = OnnxModel(made.data, where="with head").infer(x)
    expected, _ = HeadForm(head(), classes=4).rows(x)
    np.testing.assert_allclose(alpha_from_logits(graph), expected, rtol=1e-4)


def test_a_second_head_is_refused() -> None:
    made = append_head(identity(3), head(), classes=3, output="logits", where="plain")

    with pytest.raises(ModelError, match="has learnt evidence already"):
        takes_head(made.data, where="with head")


def test_the_module_that_appends_is_of_the_extra() -> None:
    assert importlib.import_module("hedge.models.training.onnx_head").LEAST_OPSET == 9
