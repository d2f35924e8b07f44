"""What the device under soak works on: a model that is unsure of every fiftieth row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hedge.models.bundle import write_bundle
from hedge.models.manifest import Calibration, Cloud, Edge, Input, Manifest

LABELS = ("rest", "walk", "run")
SHAPE = (4,)
UNSURE_EVERY = 50


def make(folder: Path, *, samples: int, seed: int) -> tuple[Path, Path]:
    """Write the bundle and the data set, and return where they are."""
    x = np.random.default_rng(seed).normal(size=(samples, *SHAPE)).astype(np.float32)
    x[:, 0] = 1.0
    x[::UNSURE_EVERY, 0] = 0.0
    data = folder / "rows.npz"
    np.savez(data, X=x)
    manifest = Manifest(
        format=1,
        name="soak",
        version="1.0",
        task="classification",
        labels=LABELS,
        licence="Apache-2.0",
        input=Input(kind="tensor", shape=SHAPE, dtype="float32"),
        edge=(Edge(name="tiny", file="edge.onnx", head="evidential"),),
        cloud=Cloud(file="cloud.onnx"),
        calibration=Calibration(
            score="vacuity", total=0.4, method="by hand", rows=1, data_sha256="0" * 64
        ),
        files={},
    )
    sure = np.zeros((*SHAPE, len(LABELS)), np.float32)
    sure[0, 0] = 50.0
    mixing = np.random.default_rng(seed).normal(size=sure.shape).astype(np.float32)
    models = {"edge.onnx": _linear(sure, bias=-3.0), "cloud.onnx": _linear(mixing, bias=0.0)}
    return write_bundle(folder / "bundle", manifest, models).path, data


def _linear(weights: NDArray[np.float32], *, bias: float) -> bytes:
    """Return y = x W + bias as an ONNX model."""
    classes = weights.shape[1]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "W"], ["mixed"]),
            helper.make_node("Add", ["mixed", "b"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", 1, ["B", *SHAPE])],
        [helper.make_tensor_value_info("y", 1, ["B", classes])],
        [
            numpy_helper.from_array(weights, "W"),
            numpy_helper.from_array(np.full(classes, bias, np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())
