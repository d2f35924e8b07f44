"""Quantisation: which rows, what becomes int8, what changed, and whether that matters."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hedge.models.dataset import Dataset
from hedge.models.errors import ConfigError, DataError, MissingExtraError, ModelError
from hedge.models.measures import accuracy, augrc, ece_prob, ece_vacuity
from hedge.models.model import ModelSpec
from hedge.models.onnx_graph import check_graph
from hedge.models.opinion import Assessor
from hedge.runtime.backends import open_model
from hedge.runtime.paired_latency import paired_latency
from hedge.runtime.quantize.comparison import Answers, Change, Comparison, answers, compare
from hedge.runtime.quantize.int8 import Recipe, to_int8
from hedge.runtime.quantize.rows import divide
from hedge.runtime.quantize.verdict import concerns

needs_tflite = pytest.mark.skipif(
    find_spec("ai_edge_quantizer") is None, reason="ai-edge-quantizer is not installed"
)
WIDTH, HIDDEN, CLASSES = 8, 16, 3


# ---- rows


def rows_of(count: int, *, groups: int | None = None) -> Dataset:
    x = np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32)
    group = None if groups is None else np.arange(count) * groups // count
    return Dataset(x=x, y=np.zeros(count, np.int64), group=group)


def none_of(data: Dataset) -> NDArray[np.bool_]:
    return np.zeros(len(data.x), bool)


@given(count=st.integers(150, 400), seed=st.integers(0, 9), rows=st.integers(16, 90))
def test_no_row_gives_ranges_and_is_measured_on(count: int, seed: int, rows: int) -> None:
    data = rows_of(count)
    seen = np.random.default_rng(seed).random(count) < 0.2
    division = divide(data, seen=seen, rows=rows, seed=seed)
    assert not np.intersect1d(division.ranges, division.measured).size
    assert len(division.ranges) == rows
    assert not seen[division.measured].any()


def test_a_third_of_the_rows_give_ranges_but_never_more_than_256() -> None:
    few, many = rows_of(300), rows_of(3000)
    assert len(divide(few, seen=none_of(few)).ranges) == 100
    assert len(divide(many, seen=none_of(many)).ranges) == 256


def test_the_same_seed_divides_alike_and_another_otherwise() -> None:
    data = rows_of(300)
    first, again, other = (divide(data, seen=none_of(data), seed=seed).ranges for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_equal_rows_stay_on_one_side() -> None:
    half = rows_of(150)
    data = half.rows(np.tile(np.arange(150), 2))
    division = divide(data, seen=none_of(data), rows=40)
    assert not np.intersect1d(division.ranges % 150, division.measured % 150).size


def test_groups_stay_on_one_side_and_a_quarter_of_them_give_ranges() -> None:
    data = rows_of(1200, groups=12)
    assert data.group is not None
    division = divide(data, seen=none_of(data), rows=50)
    ours, theirs = (np.unique(data.group[rows]) for rows in (division.ranges, division.measured))
    assert division.by == "group"
    assert len(ours) == 3
    assert len(theirs) == 9
    assert not np.intersect1d(ours, theirs).size


def test_a_single_group_divides_by_row() -> None:
    data = rows_of(300, groups=1)
    assert divide(data, seen=none_of(data)).by == "row"


def test_what_was_seen_gives_ranges_and_leaves_the_rest_to_measure_on() -> None:
    data = rows_of(300)
    seen = np.arange(300) < 120
    division = divide(data, seen=seen, rows=100)
    assert seen[division.ranges].all()
    assert np.array_equal(division.measured, np.flatnonzero(~seen))
    assert division.seen == 20


@pytest.mark.parametrize(
    ("count", "rows", "says"),
    [(30, None, "10 rows for the ranges"), (100, 60, "40 rows are left to measure on")],
)
def test_too_few_rows_are_refused(count: int, rows: int | None, says: str) -> None:
    data = rows_of(count)
    with pytest.raises(DataError, match=says):
        divide(data, seen=none_of(data), rows=rows)


# ---- comparison


def said(seed: int, *, count: int = 400, ties: bool = False) -> tuple[Answers, NDArray[Any]]:
    """Return the answers of an evidential head that is right more often where it is sure."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, count)
    logits = 3.0 * np.eye(CLASSES)[y] * random.random((count, 1)) + random.normal(
        size=(count, CLASSES)
    )
    outputs = np.round(logits) if ties else logits
    assessor = Assessor(output="logits", head="evidential", classes=CLASSES)
    return answers(outputs, y, assessor=assessor), outputs


@pytest.mark.parametrize("ties", [False, True])
def test_the_figures_are_those_of_the_measures(*, ties: bool) -> None:
    before, outputs = said(1, ties=ties)
    after, _ = said(2, ties=ties)
    found = compare(before, after, total=0.5)
    assert before.certainty is not None
    assert found.ece_vacuity is not None
    assert found.escalated is not None
    assert found.accepted_accuracy is not None
    alpha = np.logaddexp(outputs, 0.0) + 1.0
    probs = alpha / alpha.sum(axis=1, keepdims=True)
    y = np.random.default_rng(1).integers(0, CLASSES, 400)
    assert found.accuracy.before == pytest.approx(accuracy(before.correct))
    assert found.ece.before == pytest.approx(ece_prob(probs, y), abs=1e-12)
    vacuity = CLASSES / alpha.sum(axis=1)
    assert found.ece_vacuity.before == pytest.approx(ece_vacuity(vacuity, before.correct))
    assert found.augrc.before == pytest.approx(augrc(before.score, before.correct))
    assert found.augrc.after == pytest.approx(augrc(after.score, after.correct))
    asks = after.score >= 0.5
    assert found.escalated.after == pytest.approx(asks.mean())
    assert found.accepted_accuracy.after == pytest.approx(after.correct[~asks].mean())


def test_equal_answers_do_not_differ_however_often_they_are_drawn() -> None:
    before, _ = said(1)
    found = compare(before, before, total=0.5)
    for figure in (found.accuracy, found.ece, found.augrc, found.escalated):
        assert figure is not None
        assert (figure.change, figure.low, figure.high) == (0.0, 0.0, 0.0)
    assert found.same_label == 1.0


def test_the_interval_of_the_accuracy_is_that_of_the_normal_approximation() -> None:
    before, after = said(1, count=1000)[0], said(2, count=1000)[0]
    found = compare(before, after, total=None)
    differ = after.correct.astype(float) - before.correct
    spread = 1.96 * differ.std() / np.sqrt(1000)
    assert found.accuracy.low == pytest.approx(found.accuracy.change - spread, abs=0.15 * spread)
    assert found.accuracy.high == pytest.approx(found.accuracy.change + spread, abs=0.15 * spread)
    assert found.escalated is None


def test_one_row_is_never_a_sure_difference() -> None:
    before, _ = said(1)
    wrong = before.correct.copy()
    wrong[np.flatnonzero(wrong)[0]] = False
    found = compare(before, before._replace(correct=wrong), total=None)
    assert found.accuracy.change < 0
    assert found.accuracy.high == 0.0


def test_rows_of_one_group_are_no_independent_witnesses() -> None:
    before, _ = said(1)
    group = np.arange(400) // 40
    lost = before._replace(correct=before.correct & (group != 3))
    by_row = compare(before, lost, total=None)
    by_group = compare(before, lost, total=None, group=group)
    assert (by_row.resampled, by_row.units) == ("row", 400)
    assert (by_group.resampled, by_group.units) == ("group", 10)
    assert by_row.accuracy.high < 0 == by_group.accuracy.high


def test_with_a_handful_of_groups_rows_are_drawn() -> None:
    before, _ = said(1)
    assert compare(before, before, total=None, group=np.arange(400) % 4).resampled == "row"


@pytest.mark.parametrize("total", [-1.0, 0.0])
def test_where_nothing_is_accepted_its_accuracy_is_missing(total: float) -> None:
    before, _ = said(1)
    found = compare(before, before, total=total)
    assert found.accepted_accuracy is None
    assert found.escalated is not None
    assert found.escalated.before == 1.0


def test_a_gate_that_few_rows_pass_still_gives_an_interval() -> None:
    before, _ = said(1)
    found = compare(before, before, total=float(np.sort(before.score)[1]))
    assert found.accepted_accuracy is not None
    assert found.accepted_accuracy.low == 0.0


# ---- verdict

STILL = Change(before=0.2, after=0.2, change=0.0, low=-0.001, high=0.001)
SAME = Comparison(
    rows=100,
    resampled="row",
    units=100,
    same_label=1.0,
    accuracy=STILL,
    ece=STILL,
    ece_vacuity=None,
    augrc=STILL,
    escalated=STILL,
    accepted_accuracy=STILL,
)


def moved(change: float, low: float, high: float) -> Change:
    return Change(before=0.2, after=0.2 + change, change=change, low=low, high=high)


@pytest.mark.parametrize(
    ("name", "figure", "says"),
    [
        ("accuracy", moved(-0.02, -0.03, -0.01), "accuracy falls"),
        ("accepted_accuracy", moved(-0.02, -0.03, -0.01), "accuracy of the accepted falls"),
        ("augrc", moved(0.03, 0.01, 0.05), "AUGRC"),
        ("escalated", moved(0.06, 0.01, 0.09), "share escalated"),
        ("escalated", moved(-0.06, -0.09, -0.01), "share escalated"),
    ],
)
def test_what_is_clearly_worse_is_said(name: str, figure: Change, says: str) -> None:
    (concern,) = concerns(replace(SAME, **{name: figure}))
    assert concern.startswith(says) or says in concern


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("accuracy", moved(-0.02, -0.05, 0.01)),
        ("accuracy", moved(-0.009, -0.01, -0.008)),
        ("accuracy", moved(0.05, 0.04, 0.06)),
        ("augrc", moved(0.03, -0.01, 0.05)),
        ("augrc", moved(0.019, 0.01, 0.03)),
        ("augrc", moved(-0.1, -0.2, -0.05)),
        ("escalated", moved(0.06, -0.01, 0.09)),
        ("escalated", moved(0.04, 0.01, 0.09)),
        ("escalated", None),
        ("accepted_accuracy", None),
    ],
)
def test_what_is_small_or_unsure_or_better_is_not(name: str, figure: Change | None) -> None:
    assert not list(concerns(replace(SAME, **{name: figure})))


# ---- ONNX


def weights_of(seed: int = 3) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    first = random.normal(size=(WIDTH, HIDDEN)).astype(np.float32)
    return first, random.normal(size=(HIDDEN, CLASSES)).astype(np.float32)


def net_onnx(
    *, before: tuple[str, ...] = (), after: tuple[str, ...] = (), opset: int = 17
) -> bytes:
    """Return relu(x W) V, operators of one argument before and after it."""
    chain = [*before, "MatMul", "Relu", "MatMul", *after]
    weights = iter(("W", "V"))
    nodes = []
    for place, kind in enumerate(chain):
        inputs = ["x" if not place else f"t{place}"]
        if kind == "MatMul":
            inputs.append(next(weights))
        nodes.append(helper.make_node(kind, inputs, [f"t{place + 1}"]))
    nodes[-1].output[0] = "y"
    first, second = weights_of()
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", WIDTH])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["B", CLASSES])],
        [numpy_helper.from_array(first, "W"), numpy_helper.from_array(second, "V")],
    )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, ir_version=8, opset_imports=imports)
    data: bytes = model.SerializeToString()
    return data


def fed_rows(count: int = 64) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(count, WIDTH)).astype(np.float32)


def onnx_int8(data: bytes, *, recipe: Recipe | None = None) -> bytes:
    made = to_int8(data, fed_rows(), format="onnx", recipe=recipe or Recipe(), where="net.onnx")
    return made.data


def outputs_of(data: bytes, *, format: str = "onnx") -> NDArray[Any]:  # noqa: A002
    model = open_model(data, format=format, where="net")
    try:
        return model.infer(fed_rows())
    finally:
        model.close()


def int8_weights(data: bytes) -> dict[tuple[int, ...], NDArray[Any]]:
    arrays = [numpy_helper.to_array(one) for one in onnx.load_from_string(data).graph.initializer]
    return {array.shape: array for array in arrays if array.dtype == np.int8 and array.ndim == 2}


@pytest.mark.parametrize("calibrator", ["minmax", "percentile"])
@pytest.mark.parametrize("float_output", [False, True])
def test_an_int8_graph_gives_nearly_what_the_float_one_does(
    calibrator: Any,  # noqa: ANN401
    *,
    float_output: bool,
) -> None:
    made = onnx_int8(net_onnx(), recipe=Recipe(calibrator, float_output=float_output))
    expected = outputs_of(net_onnx())
    error = np.abs(outputs_of(made) - expected).mean()
    assert 0 < error < 0.02 * np.abs(expected).max()


def test_an_int8_graph_has_standard_operators_and_no_domain_that_it_does_not_use() -> None:
    info = check_graph(onnx_int8(net_onnx()), where="net")
    assert {domain for domain, _ in info.operators} == {""}
    assert {domain for domain, _ in info.opsets} == {""}
    assert info.inputs == check_graph(net_onnx(), where="net").inputs
    assert info.outputs == check_graph(net_onnx(), where="net").outputs


def test_the_output_layer_stays_float_only_where_that_is_asked_for() -> None:
    kept = int8_weights(onnx_int8(net_onnx(), recipe=Recipe(float_output=True)))
    whole = int8_weights(onnx_int8(net_onnx(), recipe=Recipe(float_output=False)))
    assert set(kept) == {(WIDTH, HIDDEN)}
    assert set(whole) == {(WIDTH, HIDDEN), (HIDDEN, CLASSES)}


def test_what_follows_the_last_weights_stays_float_with_them() -> None:
    made = onnx.load_from_string(onnx_int8(net_onnx(after=("Relu", "Softmax"))))
    last = made.graph.node[-3:]
    assert [node.op_type for node in last] == ["MatMul", "Relu", "Softmax"]


def test_weights_have_seven_bits_per_channel() -> None:
    for array in int8_weights(onnx_int8(net_onnx(), recipe=Recipe(float_output=False))).values():
        assert np.abs(array).max(axis=0).tolist() == [64] * array.shape[1]


def test_the_file_means_the_same_whether_or_not_the_processor_adds_products_in_sixteen_bits() -> (
    None
):
    made = onnx_int8(net_onnx(), recipe=Recipe(float_output=False))
    given = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):  # in floating numbers; in integers
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
        given.append(session.run(None, {"x": fed_rows()})[0])
    step = 1.01 * np.abs(given[0]).max() / 127
    assert np.abs(given[0] - given[1]).max() <= step


def test_an_inputs_own_arithmetic_stays_float() -> None:
    data = net_onnx(before=("Abs", "Sqrt"))
    made = onnx.load_from_string(onnx_int8(data))
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.index("QuantizeLinear") > kinds.index("Sqrt")


def test_the_same_rows_make_the_same_bytes() -> None:
    assert onnx_int8(net_onnx()) == onnx_int8(net_onnx())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: onnx_int8(net_onnx()), "is quantised already: it holds DequantizeLinear"),
        (lambda: net_onnx(opset=12), "operator set 12, and int8 per channel needs 13"),
        (lambda: b"nothing", "not a readable ONNX graph"),
    ],
)
def test_a_graph_that_cannot_be_quantised_is_refused(data: Callable[[], bytes], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        onnx_int8(data())


def test_a_single_layer_that_is_the_outputs_is_nothing_to_quantise(
    linear_onnx: Callable[..., bytes],
) -> None:
    data = linear_onnx(CLASSES, shape=(WIDTH,))
    with pytest.raises(ModelError, match=r"nothing in it was quantised .*--no-keep-output-float"):
        onnx_int8(data)
    assert int8_weights(onnx_int8(data, recipe=Recipe(float_output=False)))


@pytest.mark.parametrize(("format", "library"), [("onnx", "onnx"), ("tflite", "ai-edge-quantizer")])
def test_a_library_that_is_missing_is_named_with_its_extra(
    format: Any,  # noqa: A002, ANN401
    library: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hedge.runtime.quantize.int8.find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(MissingExtraError, match=rf"{library} is not installed.*\[quantize\]"):
        to_int8(b"", fed_rows(), format=format, recipe=Recipe(), where="net")


# ---- TFLite


def net_tflite() -> bytes:
    """Return softmax(relu(x W) V) as a TFLite file, written with the schema."""
    import flatbuffers  # noqa: PLC0415  comes with the extra
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []

    def tensor(name: str, shape: tuple[int, ...], data: NDArray[Any] | None = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), schema.TensorType.FLOAT32
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            made.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(code: int, fed: list[int], given: int, *, relu: bool = False) -> None:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, fed, [given]
        if code:
            made.builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
            made.builtinOptions = schema.SoftmaxOptionsT()
            made.builtinOptions.beta = 1.0
        else:
            made.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            made.builtinOptions = schema.FullyConnectedOptionsT()
            made.builtinOptions.fusedActivationFunction = int(relu)
        graph.operators.append(made)

    first, second = (np.ascontiguousarray(one.T) for one in weights_of())
    x, hidden = tensor("x", (1, WIDTH)), tensor("hidden", (1, HIDDEN))
    logits, y = tensor("logits", (1, CLASSES)), tensor("y", (1, CLASSES))
    operator(0, [x, tensor("W", first.shape, first), -1], hidden, relu=True)
    operator(0, [hidden, tensor("V", second.shape, second), -1], logits)
    operator(1, [logits], y)
    graph.inputs, graph.outputs = [x], [y]
    model.subgraphs, model.operatorCodes = [graph], []
    for code in (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.SOFTMAX):
        entry = schema.OperatorCodeT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        model.operatorCodes.append(entry)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def tflite_int8(data: bytes, *, recipe: Recipe) -> bytes:
    return to_int8(data, fed_rows(), format="tflite", recipe=recipe, where="net.tflite").data


@needs_tflite
def test_a_float_softmax_after_int8_layers_keeps_small_probabilities() -> None:
    expected = outputs_of(net_tflite(), format="tflite")
    kept = outputs_of(tflite_int8(net_tflite(), recipe=Recipe()), format="tflite")
    whole = tflite_int8(net_tflite(), recipe=Recipe(float_output=False))
    crushed = outputs_of(whole, format="tflite")
    assert (expected > 0).all()
    assert (kept > 0).all()
    assert np.abs(kept - expected).max() < 0.1
    assert (crushed == 0).mean() > 0.2
    assert kept.dtype == crushed.dtype == np.float32


@needs_tflite
def test_what_goes_into_an_int8_file_and_out_of_it_stays_float() -> None:
    made = tflite_int8(net_tflite(), recipe=Recipe())
    model = open_model(made, format="tflite", where="net")
    assert [tensor.dtype for tensor in model.spec.inputs] == [np.float32]
    assert [tensor.dtype for tensor in model.spec.outputs] == [np.float32]
    model.close()


@needs_tflite
def test_a_tflite_file_that_is_int8_already_is_refused(
    linear_tflite: Callable[..., bytes],
) -> None:
    with pytest.raises(ModelError, match=r"net\.tflite: is quantised already"):
        tflite_int8(linear_tflite(CLASSES, width=WIDTH, int8=True), recipe=Recipe())


@needs_tflite
def test_a_tflite_file_of_one_layer_is_nothing_to_quantise(
    linear_tflite: Callable[..., bytes],
) -> None:
    data = linear_tflite(CLASSES, width=WIDTH)
    with pytest.raises(ModelError, match="nothing in it was quantised"):
        tflite_int8(data, recipe=Recipe())
    assert tflite_int8(data, recipe=Recipe(float_output=False))


@needs_tflite
def test_a_calibrator_that_the_format_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'percentile' is not for tflite .*they know minmax"):
        tflite_int8(net_tflite(), recipe=Recipe("percentile"))
    with pytest.raises(ConfigError, match="'average' is not for onnx"):
        onnx_int8(net_onnx(), recipe=Recipe("average"))


@needs_tflite
def test_ranges_hold_what_is_rare_unless_a_moving_average_is_asked_for() -> None:
    expected = outputs_of(net_tflite(), format="tflite")
    apart = {}
    for calibrator in ("minmax", "average"):
        made = tflite_int8(net_tflite(), recipe=Recipe(calibrator))
        apart[calibrator] = np.abs(outputs_of(made, format="tflite") - expected).max()
    assert apart["minmax"] < 0.1 < apart["average"]


@needs_tflite
def test_bytes_that_are_no_tflite_file_are_refused() -> None:
    with pytest.raises(ModelError, match=r"net\.tflite: ai-edge-quantizer cannot quantise it"):
        tflite_int8(b"\x20\x00\x00\x00TFL3" + b"\xff" * 64, recipe=Recipe())


# ---- latency


class Clock:
    """Nanoseconds that pass only while a model runs."""

    now = 0

    def __call__(self) -> int:
        return self.now


class Slow:
    """A model that takes as many nanoseconds as it was told to."""

    spec = ModelSpec((), ())
    runs_on = "nothing"

    def __init__(self, took: int, clock: Clock) -> None:
        self._took = took
        self._clock = clock

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        self._clock.now += self._took
        return batch

    def reset(self) -> None: ...

    def close(self) -> None: ...


def test_latency_is_that_of_the_bare_calls_on_the_clock_that_is_passed() -> None:
    clock = Clock()
    found = paired_latency(Slow(4000, clock), Slow(3000, clock), fed_rows(1), clock=clock)
    assert (found.before_us, found.after_us, found.ratio) == (4.0, 3.0, 0.75)
    assert found.pairs == 500


def test_models_that_take_seconds_are_timed_once() -> None:
    clock = Clock()
    slow = Slow(2_000_000_000, clock)
    assert paired_latency(slow, slow, fed_rows(1), clock=clock).pairs == 1
