"""Models that give float16: taught evidence, calibrated, quantised for and filtered as others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

pytest.importorskip("torch", reason="torch, which learns the evidence, is not installed")
pytest.importorskip("onnxruntime", reason="the model is an ONNX graph")

from hedge.models.bundle import load_bundle
from hedge.models.dataset import load_dataset
from hedge.runtime.both_models import part_outputs
from hedge.runtime.cli import main

LABELS = "rest,walk,run"


def _half(graph: bytes) -> bytes:
    """Return a graph whose output is cast to float16 at the end."""
    model = onnx.load_model_from_string(graph)
    (given,) = model.graph.output
    model.graph.node.append(
        helper.make_node("Cast", [given.name], ["half"], to=onnx.TensorProto.FLOAT16)
    )
    shape = [one.dim_param or one.dim_value for one in given.type.tensor_type.shape.dim]
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("half", onnx.TensorProto.FLOAT16, shape)
    )
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def model(tmp_path: Path, linear_onnx: Callable[..., bytes]) -> Path:
    path = tmp_path / "half.onnx"
    path.write_bytes(_half(linear_onnx(3, seed=3)))
    return path


def _rows(path: Path, *, seed: int = 20311) -> Path:
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 1.0, (900, 4)).astype(np.float32)
    weights: NDArray[np.float64] = np.random.default_rng(3).normal(size=(4, 3))
    y = (x @ weights + rng.gumbel(size=(900, 3))).argmax(axis=1)
    np.savez(path, X=x, y=y, labels=np.array(LABELS.split(",")))
    return path


@pytest.mark.parametrize("place", ["graph", "manifest"])
def test_a_model_of_half_precision_is_given_evidence_and_calibrated(
    place: str, model: Path, tmp_path: Path
) -> None:
    rows, later = _rows(tmp_path / "rows.npz"), _rows(tmp_path / "later.npz", seed=20312)
    fitted, rest, out = tmp_path / "fitted", tmp_path / "rest.npz", tmp_path / "out"
    fit = ["evidence", "fit", str(model), str(rows), "--labels", LABELS, "--place", place]
    assert main([*fit, "--out", str(fitted), "--rest", str(rest)]) == 0
    line = ["calibrate", str(fitted), str(rest), "--rate", "0.2", "--out", str(out)]
    assert main(line) == 0
    assert main(["evidence", "report", str(out), str(later)]) == 0
    bundle = load_bundle(out)
    found = part_outputs(bundle, bundle.manifest.edge[0], load_dataset(later))
    assert found.dtype == np.float32


def test_a_bundle_of_half_precision_is_calibrated(model: Path, tmp_path: Path) -> None:
    rows = _rows(tmp_path / "rows.npz")
    made, out = str(tmp_path / "made"), str(tmp_path / "out")
    assert main(["bundle", "init", str(model), "--labels", LABELS, "--out", made]) == 0
    assert main(["calibrate", made, str(rows), "--rate", "0.2", "--out", out]) == 0
