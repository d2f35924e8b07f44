"""Where an ONNX graph can be cut, what is refused, and halves that give what the whole gives."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hedge.models.errors import ModelError
from hedge.models.onnx_graph import check_graph
from hedge.models.splitting.onnx_cut import CutGraph, Halves, Seam
from hedge.models.splitting.work import macs
from hedge.runtime.splitting.halves import tried
from hedge.runtime.splitting.places import Shapes, lines, places, shapes_of, work_before

_RNG = np.random.default_rng(5)


def _model(
    nodes: Sequence[Any],
    weights: dict[str, NDArray[Any]],
    *,
    shape: tuple[int, ...],
    batch: int | str = "B",
    classes: int = 3,
    element: int = TensorProto.FLOAT,
    opset: int = 17,
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", element, [batch, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, ir_version=8, opset_imports=imports)
    data: bytes = model.SerializeToString()
    return data


def _floats(*shape: int) -> NDArray[np.float32]:
    return _RNG.normal(size=shape).astype(np.float32)


def _conv(name: str, given: str, made: str) -> Any:  # noqa: ANN401  onnx's
    return helper.make_node("Conv", [given, name], [made], name=f"op_{made}", pads=[1, 1, 1, 1])


def _net(*, skip: bool, batch: int | str = "B") -> bytes:
    """Return a small net of pictures (2, 6, 5); with ``skip`` its middle is a residual block."""
    weights = {
        "w1": _floats(4, 2, 3, 3),
        "w2": _floats(4, 4, 3, 3),
        "w3": _floats(4, 4, 3, 3),
        "w4": _floats(4, 3),
        "unused": _floats(9),
    }
    joined = helper.make_node("Add" if skip else "Relu", ["c3", "r1"] if skip else ["c3"], ["j"])
    nodes = [
        _conv("w1", "x", "c1"),
        helper.make_node("Relu", ["c1"], ["r1"]),
        _conv("w2", "r1", "c2"),
        helper.make_node("Relu", ["c2"], ["r2"]),
        _conv("w3", "r2", "c3"),
        joined,
        helper.make_node("GlobalAveragePool", ["j"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w4"], ["y"]),
    ]
    return _model(nodes, weights, shape=(2, 6, 5), batch=batch)


def _cut(data: bytes) -> CutGraph:
    return CutGraph(data, output=None, where="net")


def _run(data: bytes, fed: NDArray[Any]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: fed})[0]
    return found


def _halves(data: bytes, tensor: str, fed: NDArray[Any]) -> Halves:
    graph = _cut(data)
    shapes = shapes_of(graph, fed[:2], where="net")
    return graph.halves(shapes.seam(tensor, where="net"), shape=fed.shape[1:])


def test_a_chain_can_be_cut_anywhere_and_a_residual_net_only_between_its_blocks() -> None:
    assert _cut(_net(skip=False)).separators() == ["c1", "r1", "c2", "r2", "c3", "j", "p", "f"]
    assert _cut(_net(skip=True)).separators() == ["c1", "r1", "j", "p", "f"]


def test_a_cut_within_a_block_is_refused_and_the_way_around_it_is_named() -> None:
    graph = _cut(_net(skip=True))
    with pytest.raises(ModelError, match="around it leads x > c1 > r1 > j > p > f > y") as caught:
        graph.check("c2")
    assert "'c2' does not separate the graph" in str(caught.value)
    for tensor in ("c1", "r1", "j", "p", "f"):
        graph.check(tensor)


def _random_graph(seed: int) -> tuple[bytes, dict[str, list[str]]]:
    """Return a random graph of sums, and what each of its tensors is made of."""
    rng = random.Random(seed)  # noqa: S311 -- no secret
    made: dict[str, list[str]] = {}
    names = ["x"]
    for number in range(rng.randint(1, 12)):
        takes = rng.sample(names[-3:], k=min(len(names), rng.choice((1, 1, 2))))
        made[f"t{number}"] = takes
        names.append(f"t{number}")
    made["y"] = [names[-1]]
    nodes = [
        helper.make_node("Sum" if len(takes) > 1 else "Relu", takes, [name])
        for name, takes in made.items()
    ]
    return _model(nodes, {}, shape=(3,)), made


@pytest.mark.parametrize("seed", range(60))
def test_what_separates_is_just_what_cuts_every_path(seed: int) -> None:
    data, made = _random_graph(seed)

    def reaches(name: str, without: str) -> bool:
        return name != without and (
            name == "x" or any(reaches(one, without) for one in made.get(name, ()))
        )

    def leads(name: str) -> bool:
        return name == "y" or any(name in takes and leads(one) for one, takes in made.items())

    graph = _cut(data)
    inner = [name for name in made if name != "y" and leads(name)]
    expected = [name for name in inner if not reaches("y", name)]
    assert graph.separators() == expected
    for name in inner:
        path = graph.around(name)
        assert (path == []) == (name in expected)
        assert name not in path
        for before, after in itertools.pairwise(path):
            assert before in made[after]


@pytest.mark.parametrize("batch", ["B", 1])
@pytest.mark.parametrize("tensor", ["c1", "r1", "j", "p", "f"])
def test_both_halves_give_together_what_the_whole_gives(tensor: str, batch: int | str) -> None:
    data, fed = _net(skip=True, batch=batch), _floats(7, 2, 6, 5)
    halves = _halves(data, tensor, fed)
    rows = fed if batch == "B" else fed[:1]
    features = _run(halves.head, rows)
    assert features.ndim == 2
    assert _run(halves.tail, features) == pytest.approx(_run(data, rows), rel=1e-5, abs=1e-5)
    found = tried(data, halves, fed, dtype="float32", where="net")
    assert found.agreement.rows == 7
    assert found.agreement.difference == found.agreement.sent_difference < 1e-4
    assert found.agreement.same_label == 1.0
    assert found.agreement.largest == pytest.approx(np.abs(_all(halves.head, fed, batch)).max())


def _all(head: bytes, fed: NDArray[Any], batch: int | str) -> NDArray[Any]:
    rows = [fed] if batch == "B" else [row[None] for row in fed]
    return np.concatenate([_run(head, row) for row in rows])


def test_each_half_holds_the_weights_that_it_uses_and_no_others() -> None:
    halves = _halves(_net(skip=True), "r1", _floats(2, 2, 6, 5))
    assert _weights(halves.head) == {"w1"}
    assert _weights(halves.tail) - {"hedge_shape"} == {"w2", "w3", "w4"}
    for half in halves[:2]:
        check_graph(half, where="half")


def _weights(data: bytes) -> set[str]:
    import onnx  # noqa: PLC0415  for this alone

    return {one.name for one in onnx.load_model_from_string(data).graph.initializer}


def test_what_both_halves_use_goes_with_both_even_if_it_is_computed() -> None:
    nodes = [
        helper.make_node("Neg", ["w"], ["minus"]),
        helper.make_node("Mul", ["x", "minus"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "minus"], ["y"]),
    ]
    data, fed = _model(nodes, {"w": _floats(3)}, shape=(3,)), _floats(4, 3)
    assert _cut(data).separators() == ["a", "b"]
    halves = _halves(data, "b", fed)
    assert _weights(halves.head) == _weights(halves.tail) == {"w"}
    assert _run(halves.tail, _run(halves.head, fed)) == pytest.approx(_run(data, fed))


def test_a_branch_that_looks_outside_itself_is_a_way_around() -> None:
    inner = [helper.make_node("Add", ["b", "a"], ["then"])]
    other = [helper.make_node("Identity", ["b"], ["else"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("then", "else")
    ]
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node(
            "If",
            ["flag"],
            ["y"],
            then_branch=helper.make_graph(inner, "then", [], ends[:1]),
            else_branch=helper.make_graph(other, "else", [], ends[1:]),
        ),
    ]
    data = _model(nodes, {"flag": np.array(True)}, shape=(3,))
    assert _cut(data).separators() == ["a"]
    with pytest.raises(ModelError, match="around it leads x > a > y"):
        _cut(data).check("b")
    fed = _floats(2, 3)
    halves = _halves(data, "a", fed)
    assert _run(halves.tail, _run(halves.head, fed)) == pytest.approx(_run(data, fed))


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ("x", "is the graph's input: nothing would be left for the head"),
        ("y", "is the graph's output: nothing would be left for the tail"),
        ("w1", "is no part of what leads from the input"),
        ("op_c2", "is an operator; the tensor that it makes is 'c2'"),
        ("c9", r"has no tensor 'c9' \(near it are 'c3', 'c2', 'c1'\)"),
        ("nothing_like_it", "without --at all that separate it are listed"),
    ],
)
def test_what_is_no_place_for_a_cut_is_refused_with_what_is(tensor: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        _cut(_net(skip=True)).check(tensor)


def test_features_whose_shape_is_not_fixed_are_refused() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Transpose", ["t"], ["b"], perm=[1, 0]),
        helper.make_node("ReduceMax", ["b"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "w"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "axis"], ["y"]),
    ]
    weights: dict[str, NDArray[Any]] = {"w": _floats(3), "axis": np.array([0], np.int64)}
    graph = _cut(_model(nodes, weights, shape=(3,)))
    shapes = shapes_of(graph, _floats(2, 3), where="net")
    with pytest.raises(ModelError, match=r"'t' has the shape \(3, 1\) for one sample and \(3, 2\)"):
        shapes.seam("t", where="net")
    with pytest.raises(ModelError, match=r"'top' has the shape \(\) for one sample"):
        shapes.seam("top", where="net")
    assert graph.separators() == ["t", "b", "top", "row"]
    assert [one.tensor for one in places(graph, shapes)] == ["b"]


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.UINT8])
def test_features_that_are_no_float32_travel_as_floats_all_the_same(element: int) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Cast", ["r"], ["small"], to=element),
        helper.make_node("Cast", ["small"], ["large"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["large"], ["y"]),
    ]
    data = _model(nodes, {}, shape=(1, 3))
    fed = np.abs(_floats(5, 1, 3)) * 20
    halves = _halves(data, "small", fed)
    features = _run(halves.head, fed)
    assert (features.dtype, features.shape) == (np.dtype(np.float32), (5, 3))
    assert np.array_equal(_run(halves.tail, features), _run(data, fed))


def test_features_that_cannot_travel_are_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Cast", ["whole"], ["y"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(ModelError, match="'whole' is int64, and features are float32, float16"):
        _halves(_model(nodes, {}, shape=(3,)), "whole", _floats(2, 3))


def test_features_beyond_float16_are_refused_and_float32_holds_them() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "large"], ["a"]),
        helper.make_node("Mul", ["a", "small"], ["y"]),
    ]
    weights = {"large": np.full(3, 1e6, np.float32), "small": np.full(3, 1e-6, np.float32)}
    data, fed = _model(nodes, weights, shape=(3,)), _floats(6, 3)
    halves = _halves(data, "a", fed)
    with pytest.raises(ModelError, match="which float16 does not hold") as caught:
        tried(data, halves, fed, dtype="float16", where="net")
    assert "--dtype float32" in str(caught.value)
    assert tried(data, halves, fed, dtype="float32", where="net").agreement.same_label == 1.0


def test_halves_that_do_not_agree_with_the_whole_are_refused() -> None:
    fed = _floats(4, 2, 6, 5)
    halves = _halves(_net(skip=True), "r1", fed)
    other = _net(skip=True)  # drawn anew
    with pytest.raises(ModelError, match="its halves give other outputs than the whole"):
        tried(other, halves, fed, dtype="float32", where="net")


def test_what_travels_as_float16_differs_by_what_float16_rounds() -> None:
    data, fed = _net(skip=True), _floats(8, 2, 6, 5)
    halves = _halves(data, "r1", fed)
    found = tried(data, halves, fed, dtype="float16", where="net").agreement
    sent = _run(halves.head, fed).astype(np.float16).astype(np.float32)
    expected = np.abs(_run(halves.tail, sent) - _run(data, fed)).max()
    assert found.sent_difference == pytest.approx(expected, rel=1e-2)
    assert found.difference < found.sent_difference


def test_work_is_counted_by_hand_and_told_with_each_place() -> None:
    graph = _cut(_net(skip=True))
    shapes = shapes_of(graph, _floats(2, 2, 6, 5), where="net")
    first, block, last = 4 * 30 * 2 * 9, 4 * 30 * 4 * 9, 4 * 3
    total = first + 2 * block + last
    found = {one.tensor: one for one in places(graph, shapes)}
    assert list(found) == ["c1", "r1", "j", "p", "f"]
    assert work_before(graph, shapes, "r1") == (first, total)
    assert found["j"].work == pytest.approx((first + 2 * block) / total)
    assert (found["j"].shape, found["j"].width, found["j"].bytes_float16) == ((4, 6, 5), 120, 240)
    table = list(lines(list(found.values())))
    assert len(table) == 6
    assert table[3].split() == ["j", "4x6x5", "120", "240", "B", "99.9%"]


@pytest.mark.parametrize(
    ("operator", "shapes", "attributes", "expected"),
    [
        ("Conv", [(1, 6, 9, 9), (4, 3, 2, 5), (1, 4, 8, 5)], {"group": 2}, 4 * 8 * 5 * 3 * 2 * 5),
        ("ConvTranspose", [(1, 6, 9, 9), (6, 2, 3, 3), (1, 2, 11, 11)], {}, 6 * 81 * 2 * 9),
        ("Gemm", [(7, 3), (7, 5), (3, 5)], {"transA": 1}, 3 * 5 * 7),
        ("MatMul", [(2, 4, 7), (7, 5), (2, 4, 5)], {}, 2 * 4 * 5 * 7),
        ("LSTM", [(9, 1, 3), (1, 20, 3), (1, 20, 5), (9, 1, 1, 5)], {}, 9 * 20 * 8),
        ("Add", [(9, 9), (9, 9), (9, 9)], {}, 0),
        ("MatMul", [(2, 3)], {}, 0),
    ],
)
def test_multiplications_are_those_of_the_operators_definition(
    operator: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any], expected: int
) -> None:
    names = [f"t{place}" for place in range(len(shapes))]
    takes = names[:-1] or ["missing", "too"]
    node = helper.make_node(operator, takes, names[-1:], **attributes)
    assert macs(node, dict(zip(names, shapes, strict=True))) == expected


def test_a_graph_whose_operators_are_out_of_order_is_refused() -> None:
    nodes = [
        helper.make_node("Relu", ["a"], ["y"]),
        helper.make_node("Tanh", ["x"], ["a"]),
    ]
    with pytest.raises(ModelError, match="Relu takes 'a' before it is made"):
        _cut(_model(nodes, {}, shape=(3,)))


def test_a_seam_knows_its_width() -> None:
    assert Seam("t", (2, 3, 4), "float32").width == 24
    assert Shapes({"t": np.zeros((1, 2, 3))}, None).seam("t", where="net").shape == (2, 3)


@pytest.fixture(scope="module")
def exported() -> Callable[[], bytes]:
    """Give a residual net as torch exports it."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Block(torch.nn.Module):  # type: ignore[name-defined,misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Conv2d(4, 4, 3, padding=1)
            self.two = torch.nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Any) -> Any:  # noqa: ANN401
            return torch.relu(x + self.two(torch.relu(self.one(x))))

    def make() -> bytes:
        import io  # noqa: PLC0415  for this alone

        torch.manual_seed(3)
        net = torch.nn.Sequential(
            *(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), Block(), Block()),
            *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)),
        ).eval()
        file = io.BytesIO()
        torch.onnx.export(
            net,
            (torch.zeros(1, 3, 8, 8),),
            file,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "B"}, "y": {0: "B"}},
            dynamo=False,
        )
        return file.getvalue()

    return make


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_net_that_torch_has_exported_is_cut_between_its_blocks(
    exported: Callable[[], bytes],
) -> None:
    data, fed = exported(), _floats(6, 3, 8, 8)
    graph = _cut(data)
    between = [name for name in graph.separators() if "Add" in name]
    assert len(between) == 2
    within = [name for name in graph.tensors if "one" in name]
    assert len(within) == 2
    for name in within:
        with pytest.raises(ModelError, match="does not separate the graph"):
            graph.check(name)
    found = tried(data, _halves(data, between[0], fed), fed, dtype="float32", where="net")
    assert found.agreement.difference < 1e-5
