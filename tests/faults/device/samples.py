"""What the device under fault works on: a made bundle, its rows, and the answers to them.

Everything about a sample follows from its row, and the row from its id, so that whoever
looks can tell whether an answer is the answer to that sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hedge.models.bundle import write_bundle
from hedge.models.manifest import Calibration, Edge, Input, Manifest
from hedge.uplink.asks import Contract

LABELS = ("north", "east", "south", "west")
SHAPE = (256,)
ROWS = 2048
_SURE_EVERY = 5  # of so many rows the edge model is sure of one, never of the first


def rows() -> NDArray[np.float32]:
    """Return all samples (ROWS, 256); the first value is the row's number, the second its doubt."""
    x = np.random.default_rng(3).normal(size=(ROWS, *SHAPE)).astype(np.float32)
    x[:, 0] = np.arange(ROWS)
    x[:, 1] = np.arange(ROWS) % _SURE_EVERY == _SURE_EVERY - 1
    return x


def row_of(ask_id: str) -> int:
    """Return the row that a sample's id belongs to: a life takes them in order."""
    return int(ask_id.partition("-")[2]) % ROWS


def body_of(ask_id: str) -> bytes:
    """Return the body that belongs to an id."""
    return _BODIES[row_of(ask_id)]


def is_asked(ask_id: str) -> bool:
    """Whether the edge model is unsure of the sample of an id."""
    return row_of(ask_id) % _SURE_EVERY != _SURE_EVERY - 1


def answer(batch: NDArray[Any]) -> NDArray[np.float64]:
    """Return the one right answer (B, 4) to each row of a batch (B, 256)."""
    number = batch[:, 0].astype(np.int64)
    sure = 0.4 + (number * 7919 % 1000) / 2000
    probs = np.repeat((1 - sure)[:, None] / (len(LABELS) - 1), len(LABELS), axis=1)
    probs[np.arange(len(number)), number % len(LABELS)] = sure
    return probs


def is_answer(ask_id: str, probs: list[float] | None) -> bool:
    """Whether these are the probabilities that answer the sample of an id."""
    return probs is not None and bool(np.allclose(probs, _ANSWERS[row_of(ask_id)], atol=1e-6))


_X = rows()
_BODIES: list[bytes] = [bytes(row.tobytes()) for row in _X]
_ANSWERS = answer(_X)


def make(folder: Path) -> tuple[Path, Path, Contract]:
    """Write the bundle and the data; return where they are, and what an answer must fit."""
    data = folder / "rows.npz"
    np.savez(data, X=_X)
    manifest = Manifest(
        format=1,
        name="faults",
        version="1.0",
        task="classification",
        labels=LABELS,
        licence="Apache-2.0",
        input=Input(kind="tensor", shape=SHAPE, dtype="float32"),
        edge=(Edge(name="tiny", file="edge.onnx", head="evidential"),),
        calibration=Calibration(
            score="vacuity", total=0.3, method="by hand", rows=1, data_sha256="0" * 64
        ),
        files={},
    )
    bundle = write_bundle(folder / "bundle", manifest, {"edge.onnx": _edge()})
    contract = Contract(
        name=manifest.name,
        digest=bundle.contract,
        classes=len(LABELS),
        dtype="float32",
        shape=SHAPE,
    )
    return bundle.path, data, contract


def _edge() -> bytes:
    """Return a model with much evidence where a row's second value is 1, else hardly any."""
    weights = np.zeros((*SHAPE, len(LABELS)), np.float32)
    weights[1, 0] = 50.0
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "W"], ["evidence"]),
            helper.make_node("Add", ["evidence", "b"], ["y"]),
        ],
        "edge",
        [helper.make_tensor_value_info("x", 1, ["B", *SHAPE])],
        [helper.make_tensor_value_info("y", 1, ["B", len(LABELS)])],
        [
            numpy_helper.from_array(weights, "W"),
            numpy_helper.from_array(np.full(len(LABELS), -3.0, np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())
