"""The contract of a `Model`, held by every backend in every precision."""

from __future__ import annotations

import importlib.util
import runpy
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hedge.models.errors import ConfigError, MissingExtraError, ModelError
from hedge.models.model import Model
from hedge.runtime.backends import is_installed, open_model
from hedge.runtime.backends.null import NullModel
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.backends.warm_up import warm_up

Make = Callable[..., bytes]
CLASSES = 5
BACKENDS = (
    *("null", "onnx", "onnx, one by one", "onnx, free width", "onnx, 2 threads"),
    *("tflite", "tflite, one by one", "tflite, 2 threads"),
    *("tflite int8", "tflite int8, one by one"),
    *("tensorrt fp32, fake", "tensorrt fp16, fake", "tensorrt int8, fake"),
    *("tensorrt fp32, real", "tensorrt fp16, real", "tensorrt int8, real"),
)
on_gpu = runpy.run_path(str(Path(__file__).with_name("gpu_machine.py")))["machine"]


@pytest.fixture(params=BACKENDS)
def model(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Model]:
    """Give each backend's model (B, 4) -> (B, 5)."""
    backend, _, how = request.param.partition(", ")
    if backend.startswith("tensorrt"):
        data = _file(request, "onnx", fixed=False, int8=False)
        with on_gpu(how, tmp_path, monkeypatch) as machine:
            yield machine.model(data, precision=backend.split()[1])
        return
    if backend == "null":
        made: Model = NullModel(np.ones((3, CLASSES), np.float32), shape=(4,), where="edge.onnx")
    else:
        format_, _, precision = backend.partition(" ")
        data = _file(request, format_, fixed=how == "one by one", int8=precision == "int8")
        if how == "free width":
            data = _free_width(data)
        options = BackendOptions(threads=2 if how == "2 threads" else None)
        made = open_model(data, format=format_, where="edge.onnx", options=options)
    with closing(made) as model:
        yield model


def _file(request: pytest.FixtureRequest, format_: str, *, fixed: bool, int8: bool) -> bytes:
    make: Make = request.getfixturevalue(f"linear_{format_}")
    if format_ == "onnx":
        return make(CLASSES, batch=1 if fixed else "B")
    return make(CLASSES, free_batch=not fixed, int8=int8)


def _free_width(data: bytes) -> bytes:
    graph = onnx.load_from_string(data)
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "K"
    freed: bytes = graph.SerializeToString()
    return freed


def samples(rows: int, *, seed: int = 5) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_batch_gives_one_row_of_floats_per_sample(model: Model, rows: int) -> None:
    outputs = model.infer(samples(rows))
    assert outputs.shape == (rows, CLASSES)
    assert np.issubdtype(outputs.dtype, np.floating)


def test_a_row_gives_the_same_alone_and_in_company(model: Model) -> None:
    rows = samples(6)
    together = model.infer(rows)
    for row, wanted in zip(rows, together, strict=True):
        np.testing.assert_allclose(model.infer(row[None])[0], wanted, rtol=1e-5, atol=1e-7)


def test_the_spec_states_the_input_and_the_output(model: Model) -> None:
    (source,), (target,) = model.spec
    assert source.dtype == (np.float32 if source.quantisation is None else np.int8)
    assert source.shape[1:] == (4,)
    assert target.shape[1:] in ((CLASSES,), (None,))


def test_a_model_says_what_it_runs_on(model: Model) -> None:
    assert model.runs_on
    assert "\n" not in model.runs_on


def test_a_quantised_input_takes_its_own_integers_too(model: Model) -> None:
    (source,), _ = model.spec
    if source.quantisation is None:
        pytest.skip("this input is not quantised")
    scale, zero = source.quantisation
    stored = np.array([[5, -80, 127, zero]], np.int8)
    real = ((stored.astype(np.float64) - zero) * scale).astype(np.float32)
    np.testing.assert_array_equal(model.infer(stored), model.infer(real))


def test_rows_may_lie_scattered_in_memory(model: Model) -> None:
    scattered = np.asfortranarray(samples(8))[::2]
    for rows in (slice(1), slice(3)):
        plain = np.ascontiguousarray(scattered[rows])
        if isinstance(model, NullModel):
            pytest.skip("the null model looks at no row")
        np.testing.assert_array_equal(model.infer(scattered[rows]), model.infer(plain))


def test_warming_up_changes_nothing_but_the_time(model: Model) -> None:
    if isinstance(model, NullModel):
        pytest.skip("the null model counts its rows")
    before = model.infer(samples(2))
    warm_up(model)
    warm_up(model, rows=3, runs=1)
    np.testing.assert_array_equal(model.infer(samples(2)), before)


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
        np.zeros((3, 4), np.int16),
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


def test_each_format_is_run_by_its_library_and_another_is_refused(linear_onnx: Make) -> None:
    with pytest.raises(ModelError, match=r"^m\.bin: this build has no backend for caffe models"):
        open_model(b"", format="caffe", where="m.bin")
    assert not is_installed("caffe")
    with pytest.raises(ConfigError, match=r"^backend\.use = 'tflite': .* this is a onnx file"):
        open_model(
            linear_onnx(CLASSES),
            format="onnx",
            where="edge.onnx",
            options=BackendOptions(use="tflite"),
        )


@pytest.mark.parametrize(
    ("format_", "options", "message"),
    [
        (
            "tflite",
            BackendOptions(providers=("CUDAExecutionProvider",)),
            r"^backend\.providers: is for onnx files, and this is a tflite file: edge\.onnx",
        ),
        ("onnx", BackendOptions(delegate="/x.so"), r"^backend\.delegate: is for tflite files"),
        (
            "onnx",
            BackendOptions(provider_options={"CUDAExecutionProvider": {}}),
            r"^provider_options\.CUDAExecutionProvider: is not among the providers",
        ),
        (
            "tflite",
            BackendOptions(delegate_options={"a": "b"}),
            r"^backend\.delegate_options: there is no delegate",
        ),
    ],
)
def test_what_would_do_nothing_is_refused_by_its_key(
    request: pytest.FixtureRequest, format_: str, options: BackendOptions, message: str
) -> None:
    data = request.getfixturevalue(f"linear_{format_}")(CLASSES)
    with pytest.raises(ConfigError, match=message):
        open_model(data, format=format_, where="edge.onnx", options=options)


def test_a_fallback_lets_the_cpu_run_what_a_provider_is_not_for(linear_tflite: Make) -> None:
    options = BackendOptions(providers=("CUDAExecutionProvider",), fallback=True)
    data = linear_tflite(CLASSES)
    with closing(open_model(data, format="tflite", where="edge", options=options)) as model:
        assert model.infer(samples(2)).shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("format_", "libraries", "extra"),
    [
        ("onnx", {"onnxruntime"}, "onnx"),
        ("tflite", {"ai_edge_litert", "tflite_runtime"}, "tflite"),
    ],
)
def test_a_missing_library_says_what_to_install(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    format_: str,
    libraries: set[str],
    extra: str,
) -> None:
    data = request.getfixturevalue(f"linear_{format_}")(CLASSES)
    found = importlib.util.find_spec

    def without(name: str) -> object:
        return None if name in libraries else found(name)

    monkeypatch.setattr("hedge.runtime.backends.find_spec", without)
    monkeypatch.setattr("hedge.runtime.backends.tflite.find_spec", without)
    assert not is_installed(format_)
    with pytest.raises(MissingExtraError, match=rf"pip install 'hedge-runtime\[{extra}\]'"):
        open_model(data, format=format_, where="edge.onnx")
