"""Tests of ONNX Runtime behind the Model protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from hedge.models.errors import ConfigError, ModelError
from hedge.models.model import Model
from hedge.runtime.backends import open_model
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.shipped import bundle_path

Linear = Callable[..., bytes]
CLASSES = 5


def opened(data: bytes, **options: Any) -> Model:  # noqa: ANN401  options of open_model
    return open_model(data, format="onnx", where="edge.onnx", **options)


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
        ([[]], [["B", 4]], r"takes 1 inputs \('x0'\), not one"),
        ([["B", 4]], [["B", 4, 1]], r"output 'y0' is \(B, 4, 1\), not \(B, K\)"),
        ([["B", 4]], [], "gives no output"),
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
    with pytest.raises(ModelError, match=r"^edge\.onnx: output 'y' is int32, not floating"):
        opened(linear_onnx(CLASSES, dtype="int32"))


def test_a_provider_that_is_not_there_is_named_and_needs_leave_to_be_gone_without(
    linear_onnx: Linear, caplog: pytest.LogCaptureFixture
) -> None:
    options = BackendOptions(providers=("CUDAExecutionProvider",))
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    with pytest.raises(ConfigError, match=r"^backend provider CUDAE.*\(it has .*CPUExecution"):
        opened(linear_onnx(CLASSES), options=options)
    lenient = msgspec.structs.replace(options, fallback=True)
    with closing(opened(linear_onnx(CLASSES), options=lenient)) as model:
        assert model.infer(samples(1)).shape == (1, CLASSES)
        assert "CPUExecutionProvider" in model.runs_on
    assert "edge.onnx: runs without CUDAExecutionProvider" in caplog.text


def test_session_options_reach_the_library(linear_onnx: Linear) -> None:
    options = BackendOptions(session_options={"session.load_model_format": "ORT"})
    with pytest.raises(ModelError, match=r"^edge\.onnx: ONNX Runtime refuses it: "):
        opened(linear_onnx(CLASSES), options=options)


def test_the_output_that_is_named_is_the_one_that_is_given() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Exp", ["x"], ["b"])]
    made = [helper.make_tensor_value_info(name, 1, ["B", 4]) for name in "xab"]
    graph = helper.make_graph(nodes, "g", made[:1], made[1:])
    data = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]
    ).SerializeToString()
    rows = samples(3)
    for name, wanted in ((None, -rows), ("a", -rows), ("b", np.exp(rows))):
        with closing(opened(data, output=name)) as model:
            np.testing.assert_allclose(model.infer(rows), wanted, rtol=1e-6)
            np.testing.assert_allclose(model.infer(rows[:1]), wanted[:1], rtol=1e-6)
    with pytest.raises(ModelError, match=r"gives no output 'c' \(its outputs: 'a', 'b'\)"):
        opened(data, output="c")


def test_the_library_keeps_quiet_about_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        closing(opened(_reshaping("B"))) as model,
        pytest.raises(ModelError, match=r"gave \(4, 1\)"),
    ):
        model.infer(np.array([[4, 1], [0, 0]], np.float32))  # not the declared (2, 2)
    assert capfd.readouterr().err == ""


def test_the_library_leaves_no_record_of_its_use(tmp_path: Path) -> None:
    code = (
        "from hedge.runtime.backends import open_model; import pathlib, sys\n"
        "open_model(pathlib.Path(sys.argv[1]).read_bytes(), format='onnx', where='m').close()"
    )
    model = tmp_path / "m.onnx"
    model.write_bytes(bundle_path("digits").joinpath("edge.onnx").read_bytes())
    environ = {name: text for name, text in os.environ.items() if not name.startswith("ORT_")}
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        env={**environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not [path for path in home.rglob("*") if "onnx" in path.name.lower()]
