"""Tests that every backend keeps to the Model protocol, and of what each adds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from hedge.models.errors import MissingExtraError, ModelError
from hedge.models.model import Model
from hedge.runtime.backends import is_installed, open_model
from hedge.runtime.backends.null import NullModel
from hedge.runtime.backends.onnx import OnnxModel

Linear = Callable[..., bytes]
CLASSES = 5


def opened(data: bytes, **options: Any) -> Model:  # noqa: ANN401  options of open_model
    return open_model(data, format="onnx", where="edge.onnx", **options)


@pytest.fixture(params=["onnx", "onnx, one by one", "onnx, free width", "onnx, 2 threads", "null"])
def model(request: pytest.FixtureRequest, linear_onnx: Linear) -> Iterator[Model]:
    """Give each backend's model (B, 4) float32 -> (B, 5)."""
    made: dict[str, Callable[[], Model]] = {
        "onnx": lambda: opened(linear_onnx(CLASSES)),
        "onnx, one by one": lambda: opened(linear_onnx(CLASSES, batch=1)),
        "onnx, free width": lambda: opened(_free_width(linear_onnx(CLASSES))),
        "onnx, 2 threads": lambda: opened(linear_onnx(CLASSES), threads=2),
        "null": lambda: NullModel(np.ones((3, CLASSES), np.float32), shape=(4,), where="edge.onnx"),
    }
    with closing(made[request.param]()) as model:
        yield model


def _free_width(data: bytes) -> bytes:
    graph = onnx.load_from_string(data)
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "K"
    freed: bytes = graph.SerializeToString()
    return freed


def _reshaping(batch: str | int) -> bytes:
    """Return y = x reshaped to the shape that the first row of x (B, 2) names."""
    nodes = [
        helper.make_node("Gather", ["x", "zero"], ["row"]),
        helper.make_node("Cast", ["row"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
        [helper.make_tensor("zero", TensorProto.INT64, [], [0])],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


def samples(rows: int, *, seed: int = 5) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_batch_gives_one_row_of_floats_per_sample(model: Model, rows: int) -> None:
    outputs = model.infer(samples(rows))
    assert outputs.shape == (rows, CLASSES)
    assert np.issubdtype(outputs.dtype, np.floating)


def test_the_spec_states_input_and_output(model: Model) -> None:
    (source,), (target, *_) = model.spec
    assert source.dtype == np.float32
    assert source.shape[1:] == (4,)
    assert target.shape[1:] in ((CLASSES,), (None,))


def test_an_output_belongs_to_the_caller(model: Model) -> None:
    first = model.infer(samples(1))
    kept = first.copy()
    first_again = first
    model.infer(samples(1, seed=9))[...] = 7
    np.testing.assert_array_equal(first_again, kept)
    first[...] = 3  # writable
    assert not (model.infer(samples(1)) == 3).any()


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 4), np.float64),
        np.zeros((3, 4), np.int8),
        np.zeros((1, 4), ">f4"),
        np.zeros((1, 5), np.float32),
        np.zeros((4,), np.float32),
        np.zeros((1, 4, 1), np.float32),
        np.zeros((0, 4), np.float32),
        np.zeros((), np.float32),
    ],
    ids=lambda batch: f"{batch.dtype.str} {batch.shape}",
)
def test_a_batch_that_does_not_fit_is_refused_with_both_shapes(
    model: Model, batch: np.ndarray[Any, Any]
) -> None:
    with pytest.raises(ModelError) as caught:
        model.infer(batch)
    assert str(caught.value).startswith(f"edge.onnx: given {batch.dtype} {batch.shape}, but 'x'")
    assert model.infer(samples(1)).shape == (1, CLASSES)  # and it goes on


def test_closing_twice_is_harmless_and_then_nothing_is_run(model: Model) -> None:
    model.close()
    model.close()
    for rows in (1, 2):
        with pytest.raises(ModelError, match=r"^edge\.onnx: is closed"):
            model.infer(samples(rows))


@pytest.mark.parametrize("batch", ["B", 1])
def test_onnx_gives_what_the_bare_session_gives(linear_onnx: Linear, batch: str | int) -> None:
    data = linear_onnx(CLASSES, seed=11, batch=batch)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    rows = samples(6)
    expected = np.concatenate([session.run(None, {"x": row[None]})[0] for row in rows])
    assert np.abs(expected).min() > 0
    with closing(opened(data)) as model:
        np.testing.assert_allclose(model.infer(rows), expected, rtol=1e-6)
        for row, wanted in zip(rows, expected, strict=True):
            np.testing.assert_array_equal(model.infer(row[None])[0], wanted)


def test_onnx_takes_rows_that_lie_scattered_in_memory(linear_onnx: Linear) -> None:
    scattered = np.asfortranarray(samples(8))[::2]
    with closing(opened(linear_onnx(CLASSES))) as model:
        for rows in (slice(1), slice(4)):
            plain = np.ascontiguousarray(scattered[rows])
            np.testing.assert_array_equal(model.infer(scattered[rows]), model.infer(plain))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_onnx_passes_on_what_is_not_finite(linear_onnx: Linear, value: float) -> None:
    rows = samples(2)
    rows[1, 2] = value
    with closing(opened(linear_onnx(CLASSES))) as model:
        assert not np.isfinite(model.infer(rows[1:])).any()
        outputs = model.infer(rows)
    assert np.isfinite(outputs[0]).all()
    assert not np.isfinite(outputs[1]).any()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_onnx_keeps_other_float_types(linear_onnx: Linear, dtype: str) -> None:
    with closing(opened(linear_onnx(CLASSES, dtype=dtype))) as model:
        for rows in (1, 3):
            assert model.infer(samples(rows).astype(dtype)).dtype == dtype


def test_onnx_refuses_what_may_not_run_before_the_library_sees_it(linear_onnx: Linear) -> None:
    data = linear_onnx(CLASSES, operator=("com.microsoft", "MatMulNBits"))
    with pytest.raises(ModelError, match=r"^edge\.onnx: custom operator 'MatMulNBits'"):
        opened(data)


def test_what_the_library_refuses_is_our_error(linear_onnx: Linear) -> None:
    data = linear_onnx(CLASSES, operator=("", "NoSuchOperator"))
    with pytest.raises(ModelError, match=r"^edge\.onnx: ONNX Runtime refuses it: .*NoSuchOperator"):
        opened(data)


def test_what_fails_while_running_is_our_error_and_the_model_goes_on() -> None:
    with closing(opened(_reshaping(1))) as model:
        for wrong in ([5.0, 7.0], [2.0, 1.0]):
            with pytest.raises(ModelError, match=r"^edge\.onnx: ONNX Runtime failed: "):
                model.infer(np.array([wrong], np.float32))
        sound = np.array([[1.0, 2.0]], np.float32)
        np.testing.assert_array_equal(model.infer(sound), sound)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([["B", 4], ["B", 4]], [["B", 4]], "takes 2 inputs"),
        ([[]], [["B", 4]], "takes 1 inputs, not one"),
        ([["B", 4]], [["B", 4, 1]], r"first output is not \(B, K\)"),
        ([["B", 4]], [], r"first output is not \(B, K\)"),
    ],
)
def test_onnx_refuses_graphs_of_another_form(
    inputs: list[list[int | str]], outputs: list[list[int | str]], message: str
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x0"], ["y0"])],
        "g",
        [helper.make_tensor_value_info(f"x{i}", 1, dims) for i, dims in enumerate(inputs)],
        [helper.make_tensor_value_info(f"y{i}", 1, dims) for i, dims in enumerate(outputs)],
    )
    data = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ModelError, match=rf"^edge\.onnx: .*{message}"):
        opened(data.SerializeToString())


def test_onnx_refuses_whole_numbers_as_output(linear_onnx: Linear) -> None:
    with pytest.raises(ModelError, match=r"^edge\.onnx: its output is int32, not floating"):
        opened(linear_onnx(CLASSES, dtype="int32"))


def test_onnx_names_the_providers_that_there_are(linear_onnx: Linear) -> None:
    with pytest.raises(ModelError, match=r"no AcmeProvider .*has .*CPUExecutionProvider"):
        OnnxModel(linear_onnx(CLASSES), where="edge.onnx", provider="AcmeProvider")


def test_the_library_keeps_quiet_about_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        closing(opened(_reshaping("B"))) as model,
        pytest.raises(ModelError, match=r"gave \(4, 1\)"),
    ):
        model.infer(np.array([[4, 1], [0, 0]], np.float32))  # not the declared (2, 2)
    assert capfd.readouterr().err == ""


def test_a_format_without_backend_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"^m\.tflite: this build has no backend for tflite"):
        open_model(b"", format="tflite", where="m.tflite")
    assert not is_installed("tflite")


def test_a_missing_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, linear_onnx: Linear
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "hedge.runtime.backends.find_spec",
        lambda name: None if name == "onnxruntime" else found(name),
    )
    assert not is_installed("onnx")
    with pytest.raises(MissingExtraError, match=r"pip install 'hedge-runtime\[onnx\]'"):
        opened(linear_onnx(CLASSES))


def test_the_null_model_gives_its_rows_in_turn() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    model = NullModel(rows, shape=(4,))
    given = [model.infer(samples(count)) for count in (1, 1, 2, 7)]
    np.testing.assert_array_equal(np.concatenate(given)[:, 0], [0, 2, 4, 0, 2, 4, 0, 2, 4, 0, 2])


def test_the_null_model_takes_the_dtype_it_is_told() -> None:
    model = NullModel(np.ones((1, 2)), shape=(2, 2), dtype=np.int8)
    assert model.infer(np.zeros((1, 2, 2), np.int8)).tolist() == [[1, 1]]
    with pytest.raises(ModelError, match=r"^null: given float32 .*'x' takes int8 \(B, 2, 2\)"):
        model.infer(np.zeros((1, 2, 2), np.float32))


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 0)])
def test_the_null_model_needs_rows(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"should be \(N, K\)"):
        NullModel(np.zeros(shape), shape=(4,))
