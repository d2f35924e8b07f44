"""Tests of LiteRT behind the Model protocol."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedge.models.errors import ConfigError, ModelError
from hedge.runtime.backends import open_model
from hedge.runtime.backends.options import BackendOptions

interpreter = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="ai-edge-litert is not installed"
)
Make = Callable[..., bytes]
CLASSES = 5


def samples(rows: int, *, seed: int = 5) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)


def softmax_of(rows: np.ndarray[Any, Any], *, seed: int) -> np.ndarray[Any, Any]:
    """Return what `linear_tflite` means, by another way."""
    weights = np.random.default_rng(seed).normal(size=(CLASSES, 4)).astype(np.float32)
    powers = np.exp(rows.astype(np.float64) @ weights.T.astype(np.float64))
    normalised: np.ndarray[Any, Any] = powers / powers.sum(axis=1, keepdims=True)
    return normalised


@pytest.mark.parametrize("free_batch", [True, False])
def test_floats_give_what_the_formula_gives(linear_tflite: Make, *, free_batch: bool) -> None:
    rows = samples(9)
    data = linear_tflite(CLASSES, seed=11, free_batch=free_batch)
    with closing(open_model(data, format="tflite", where="m")) as model:
        np.testing.assert_allclose(model.infer(rows), softmax_of(rows, seed=11), rtol=1e-5)


def test_int8_gives_what_the_bare_interpreter_gives_and_is_near_the_formula(
    linear_tflite: Make,
) -> None:
    rows = samples(9)
    data = linear_tflite(CLASSES, seed=11, int8=True)
    bare = interpreter.Interpreter(model_content=data, num_threads=1)
    bare.allocate_tensors()
    (source,), (target,) = bare.get_input_details(), bare.get_output_details()
    scale, zero = source["quantization"]
    expected = []
    for row in rows:
        stored = np.clip(np.round(row[None] / scale) + zero, -128, 127).astype(np.int8)
        bare.set_tensor(source["index"], stored)
        bare.invoke()
        raw = bare.get_tensor(target["index"]).astype(np.float64)
        expected.append((raw - target["quantization"][1]) * target["quantization"][0])
    with closing(open_model(data, format="tflite", where="m")) as model:
        found = model.infer(rows)
    np.testing.assert_array_equal(found, np.concatenate(expected))
    assert np.abs(found - softmax_of(rows, seed=11)).max() < 0.05


def test_a_free_batch_may_change_its_size_from_call_to_call(linear_tflite: Make) -> None:
    with closing(open_model(linear_tflite(CLASSES), format="tflite", where="m")) as model:
        for rows in (1, 4, 4, 2, 1, 30, 1):
            np.testing.assert_allclose(
                model.infer(samples(rows)), softmax_of(samples(rows), seed=1), rtol=1e-5
            )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("libedgetpu.so", r"^delegate 'libedgetpu\.so': is no absolute path"),
        ("/nowhere/libedgetpu.so", r"^delegate '/nowhere/libedgetpu\.so': cannot be loaded"),
    ],
)
def test_a_delegate_that_cannot_be_loaded_is_named(
    linear_tflite: Make, path: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_model(
            linear_tflite(CLASSES),
            format="tflite",
            where="m",
            options=BackendOptions(delegate=path),
        )


def test_a_delegate_that_others_can_write_is_not_loaded(
    linear_tflite: Make, tmp_path: Path
) -> None:
    library = tmp_path / "libdelegate.so"
    library.write_bytes(b"not even a library")
    library.chmod(0o666)
    with pytest.raises(ConfigError, match=r"libdelegate\.so': is not trusted: .* by others"):
        open_model(
            linear_tflite(CLASSES),
            format="tflite",
            where="m",
            options=BackendOptions(delegate=str(library)),
        )


def test_two_inputs_are_one_line(linear_tflite: Make) -> None:
    with pytest.raises(ModelError, match=r"^m: takes 2 inputs \('x', 'x1'\), not one"):
        open_model(linear_tflite(CLASSES, inputs=2), format="tflite", where="m")


def test_a_library_that_imports_and_then_fails_says_so_in_one_line(
    linear_tflite: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tflite-runtime 2.14 beside numpy 2 imports well and fails at every Interpreter()
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text(
        "class Interpreter:\n"
        "    def __init__(self, **_):\n"
        "        raise ImportError('numpy.core.multiarray failed to import')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("hedge.runtime.backends.tflite._LIBRARIES", ("tflite_runtime",))
    with pytest.raises(
        ModelError, match=r"^m: .* failed to import \(tflite-runtime needs numpy < 2\)"
    ):
        open_model(linear_tflite(CLASSES), format="tflite", where="m")
    sys.modules.pop("tflite_runtime.interpreter", None)
    sys.modules.pop("tflite_runtime", None)
