"""Small dense nets in plain numpy: what they compute, and which graphs are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hedge.models.errors import ModelError
from hedge.runtime.backends import open_model
from hedge.runtime.backends.dense import dense_model

pytest.importorskip("onnxruntime", reason="these nets are held against ONNX Runtime")

WIDTH = 6
CONSTANTS: dict[str, Any] = {
    "mean": np.linspace(-1, 2, WIDTH)[None],
    "factor": np.linspace(0.5, 3, WIDTH),
    "W1": (5, WIDTH),
    "b1": (5,),
    "W2": (5, 4),
    "W3": (2, 4),
    "b3": (2,),
    "gain": (4,),
}
CHAIN: tuple[Any, ...] = (
    ("Cast", ("x",), {"to": 1}),
    ("Flatten", ("0",), {"axis": 1}),
    ("Sub", ("1", "mean"), {}),
    ("Mul", ("2", "factor"), {}),
    ("Gemm", ("3", "W1", "b1"), {"transB": 1}),
    ("Relu", ("4",), {}),
    ("Gemm", ("5", "W2"), {}),
    ("Relu", ("6",), {}),
    ("Mul", ("7", "gain"), {}),
    ("Add", ("8", "gain"), {}),
    ("Gemm", ("9", "W3", "b3"), {"transB": 1}),
)


def graph(
    nodes: tuple[Any, ...] = CHAIN, *, shape: tuple[int, ...] = (WIDTH,), **changed: NDArray[Any]
) -> bytes:
    random = np.random.default_rng(7)
    values = {
        name: random.normal(size=one) if isinstance(one, tuple) else one
        for name, one in CONSTANTS.items()
    } | changed
    made = [
        helper.make_node(operator, list(inputs), [str(place)], **attributes)
        for place, (operator, inputs, attributes) in enumerate(nodes)
    ]
    made[-1].output[0] = "y"
    model = helper.make_model(
        helper.make_graph(
            made,
            "chain",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", *shape])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["B", 2])],
            [numpy_helper.from_array(np.float32(one), name) for name, one in values.items()],
        ),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("shape", [(WIDTH,), (2, 3)])
def test_it_gives_what_the_library_gives(shape: tuple[int, ...]) -> None:
    data = graph(shape=shape)
    found = dense_model(data, where="net")
    assert found is not None
    x = np.random.default_rng(1).normal(0, 3, (50, *shape)).astype(np.float32)
    expected = open_model(data, format="onnx", where="net").infer(x)
    assert np.ptp(expected, axis=0).min() > 1
    np.testing.assert_allclose(found.infer(x), expected, rtol=1e-4, atol=1e-4)
    for row, wanted in zip(x, expected, strict=True):
        np.testing.assert_allclose(found.infer(row[None])[0], wanted, rtol=1e-4, atol=1e-4)


def test_an_answer_is_not_changed_by_the_next() -> None:
    found = dense_model(graph(), where="net")
    assert found is not None
    first = found.infer(np.ones((1, WIDTH), np.float32))
    kept = first.copy()
    found.infer(np.zeros((1, WIDTH), np.float32))
    assert np.array_equal(first, kept)


def test_what_is_no_number_stays_none() -> None:
    found = dense_model(graph(), where="net")
    assert found is not None
    x = np.full((1, WIDTH), np.nan, np.float32)
    assert np.isnan(found.infer(x)).all()


def test_other_shapes_and_dtypes_are_refused_and_so_is_all_once_it_is_closed() -> None:
    found = dense_model(graph(), where="net")
    assert found is not None
    for x in (np.zeros((1, WIDTH + 1), np.float32), np.zeros((1, WIDTH)), np.zeros(WIDTH)):
        with pytest.raises(ModelError, match="takes"):
            found.infer(x)
    found.close()
    found.close()
    with pytest.raises(ModelError, match="closed"):
        found.infer(np.zeros((1, WIDTH), np.float32))


OTHERS: dict[str, tuple[Any, ...]] = {
    "another function": (*CHAIN[:5], ("Tanh", ("4",), {}), *CHAIN[6:]),
    "no ReLU": (*CHAIN[:5], ("Identity", ("4",), {}), *CHAIN[6:7], *CHAIN[10:]),
    "another factor": (*CHAIN[:4], ("Gemm", ("3", "W1", "b1"), {"transB": 1, "alpha": 2.0})),
    "a branch": (*CHAIN[:5], ("Add", ("4", "4"), {}), *CHAIN[6:]),
    "two ways": (*CHAIN[:5], ("Relu", ("4",), {}), ("Gemm", ("4", "W2"), {}), *CHAIN[7:]),
}


@pytest.mark.parametrize("nodes", OTHERS.values(), ids=OTHERS)
def test_a_graph_of_anything_else_is_left_to_the_library(nodes: tuple[Any, ...]) -> None:
    assert dense_model(graph(nodes), where="net") is None


def test_a_large_net_is_left_to_the_library() -> None:
    rows = 20_000
    wide = graph(W1=np.zeros((rows, WIDTH)), b1=np.zeros(rows), W2=np.zeros((rows, 4)))
    assert dense_model(wide, where="net") is None


def test_constants_before_the_axes_are_flat_are_left_to_the_library() -> None:
    nodes = (("Sub", ("x", "mean"), {}), ("Flatten", ("0",), {"axis": 1}), *CHAIN[2:])
    data = graph(nodes, shape=(2, 3), mean=np.ones((1, 3)))
    assert dense_model(data, where="net") is None
