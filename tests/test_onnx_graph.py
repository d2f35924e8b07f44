"""Tests of the ONNX reader, against the `onnx` library's own reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from hedge.models.errors import ModelError
from hedge.models.model import TensorSpec
from hedge.models.onnx_graph import GraphInfo, check_graph, read_graph

FLOAT = TensorProto.FLOAT
WHERE = "edge.onnx"
STANDARD = (helper.make_opsetid("", 17),)


def tensor_of(name: str, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def model_of(
    nodes: Sequence[NodeProto],
    *,
    initializers: Sequence[TensorProto] = (),
    ir_version: int = 8,
    opset_imports: Sequence[OperatorSetIdProto] = STANDARD,
    functions: Sequence[FunctionProto] = (),
) -> ModelProto:
    """Return a model x (B, 4) -> y (B, 4)."""
    graph = helper.make_graph(
        nodes, "g", [tensor_of("x", "B", 4)], [tensor_of("y", "B", 4)], initializers
    )
    return helper.make_model(
        graph, ir_version=ir_version, opset_imports=opset_imports, functions=functions
    )


def branch(
    operator: str, name: str, *, domain: str = "", extra: Sequence[NodeProto] = ()
) -> GraphProto:
    return helper.make_graph(
        [*extra, helper.make_node(operator, ["x"], [name], domain=domain)],
        name,
        [],
        [tensor_of(name, "B", 4)],
    )


def with_if(*, operator: str = "Neg", domain: str = "") -> ModelProto:
    """Return a model with two subgraphs, the second with an If of its own inside."""
    inner = helper.make_node(
        "If",
        ["c"],
        ["unused"],
        then_branch=branch("Abs", "i1"),
        else_branch=branch(operator, "i2", domain=domain),
    )
    return model_of(
        [
            helper.make_node(
                "If",
                ["c"],
                ["y"],
                then_branch=branch("Relu", "t"),
                else_branch=branch("Exp", "e", extra=[inner]),
            )
        ],
        initializers=[numpy_helper.from_array(np.array(True), "c")],
    )


def with_loop() -> ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Tanh", ["v"], ["v_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            tensor_of("v", "B", 4),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), tensor_of("v_out", "B", 4)],
    )
    return model_of(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        initializers=[numpy_helper.from_array(np.array(3), "n")],
    )


def with_function(
    *, domain: str = "local.functions", operator: str = "Softplus", body_domain: str = ""
) -> ModelProto:
    function = helper.make_function(
        domain,
        "Twice",
        ["a"],
        ["b"],
        [
            helper.make_node(operator, ["a"], ["h"], domain=body_domain),
            helper.make_node("Add", ["h", "h"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    return model_of(
        [helper.make_node("Twice", ["x"], ["y"], domain=domain)],
        functions=[function],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)],
    )


def plain(
    *, ir_version: int = 8, opset_imports: Sequence[OperatorSetIdProto] = STANDARD
) -> ModelProto:
    weights = numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(4, 4), "W")
    return model_of(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        initializers=[weights],
        ir_version=ir_version,
        opset_imports=opset_imports,
    )


def nodes_of(message: Any) -> Iterator[NodeProto]:  # noqa: ANN401  any protobuf message
    """Yield every NodeProto below ``message``, by protobuf's own reflection."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for item in value if descriptor.is_repeated else [value]:
            if isinstance(item, NodeProto):
                yield item
            yield from nodes_of(item)


def check(model: ModelProto) -> GraphInfo:
    return check_graph(model.SerializeToString(), where=WHERE)


@pytest.mark.parametrize("make", [plain, with_if, with_loop, with_function])
def test_operators_opsets_and_functions_are_those_that_onnx_reads(
    make: Callable[[], ModelProto],
) -> None:
    model = make()
    onnx.checker.check_model(model)
    info = check(model)
    assert info.operators == {(node.domain, node.op_type) for node in nodes_of(model)}
    assert info.functions == {(one.domain, one.name) for one in model.functions}
    assert info.opsets >= {(one.domain, one.version) for one in model.opset_import}
    assert info.ir_version == model.ir_version


def test_operators_of_nested_subgraphs_are_found() -> None:
    assert {name for _, name in check(with_if()).operators} == {"If", "Relu", "Exp", "Abs", "Neg"}


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8", "int16", "int64", "bool"])
def test_inputs_and_outputs_have_name_dtype_and_shape(dtype: str) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", element, ["B", 9, 128])],
        [helper.make_tensor_value_info("y", element, [1, 0, -1])],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=STANDARD)
    info = check(model)
    assert info.inputs == (TensorSpec("x", np.dtype(dtype), (None, 9, 128)),)
    assert info.outputs == (TensorSpec("y", np.dtype(dtype), (1, 0, None)),)


def test_an_initialiser_that_is_also_listed_as_input_is_none() -> None:
    model = plain()
    model.graph.input.append(tensor_of("W", 4, 4))
    assert [tensor.name for tensor in check(model).inputs] == ["x"]


def test_the_long_name_of_the_standard_domain_is_standard() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")])
    assert check(model).operators == {("", "Relu")}


@pytest.mark.parametrize("domain", ["com.microsoft", "acme", "ai.onnx.preview.training", "AI.ONNX"])
@pytest.mark.parametrize(
    "make",
    [
        lambda domain: model_of([helper.make_node("Relu", ["x"], ["y"], domain=domain)]),
        lambda domain: with_if(domain=domain, operator="Relu"),
        lambda domain: with_function(body_domain=domain, operator="Relu"),
    ],
    ids=["in the graph", "in a subgraph", "in a function"],
)
def test_custom_operators_are_refused_by_name(
    make: Callable[[str], ModelProto], domain: str
) -> None:
    with pytest.raises(
        ModelError, match=rf"^edge\.onnx: custom operator 'Relu' of domain '{domain}'"
    ):
        check(make(domain))


def test_an_import_that_nothing_uses_is_harmless() -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    assert ("com.microsoft", 1) in check(plain(opset_imports=imports)).opsets


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.new"])
def test_a_function_may_not_pass_for_an_operator(domain: str) -> None:
    with pytest.raises(ModelError, match=r"^edge\.onnx: local function 'Twice' in domain"):
        check(with_function(domain=domain))


def test_data_saved_outside_by_onnx_is_refused_with_the_tensors_name(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    onnx.save(plain(), file, save_as_external_data=True, size_threshold=0, location="w.bin")
    with pytest.raises(ModelError, match=r"^edge\.onnx: tensor 'W' has its data outside the file"):
        check_graph(file.read_bytes(), where=WHERE)


@pytest.mark.parametrize("location", [1, 2, 2**32 + 1, 2**63])
def test_any_data_location_but_inside_is_refused(location: int) -> None:
    # protobuf cuts an enum to 32 bits: 2**32 + 1 is EXTERNAL to the runtime
    graph = field(5, field(8, b"W") + number(14, location))
    data = number(1, 8) + field(7, graph) + field(8, number(2, 17))
    with pytest.raises(ModelError, match=r"'W' has its data outside"):
        check_graph(data, where=WHERE)


def outside(name: str) -> TensorProto:
    value = TensorProto(name=name, data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="/etc/passwd")
    return value


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        (AttributeProto(t=outside("deep")), "tensor 'deep' has its data outside the file"),
        (AttributeProto(tensors=[outside("deep")]), "tensor 'deep' has its data outside the file"),
        (AttributeProto(g=branch("Evil", "b", domain="acme")), "custom operator 'Evil' of domain"),
        (AttributeProto(graphs=[branch("Evil", "b", domain="acme")]), "custom operator 'Evil'"),
        (AttributeProto(sparse_tensor=SparseTensorProto(dims=[4])), "sparse tensors are not"),
        (AttributeProto(sparse_tensors=[SparseTensorProto(dims=[4])]), "sparse tensors are not"),
    ],
)
@pytest.mark.parametrize("place", ["node", "function's node", "function's default"])
def test_nothing_hides_in_an_attribute(attribute: AttributeProto, message: str, place: str) -> None:
    model = with_function()
    match place:
        case "node":
            model.graph.node[0].attribute.append(attribute)
        case "function's node":
            model.functions[0].node[1].attribute.append(attribute)
        case _:
            model.functions[0].attribute_proto.append(attribute)
    with pytest.raises(ModelError, match=rf"^edge\.onnx: {message}"):
        check(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ir_version": 11}, "IR version 11, supported are 3 to 10"),
        ({"ir_version": 2}, "IR version 2, supported are 3 to 10"),
        ({"opset_imports": [helper.make_opsetid("", 22)]}, "opset 22, supported are 1 to 21"),
        ({"opset_imports": [helper.make_opsetid("ai.onnx", 99)]}, "opset 99"),
        ({"opset_imports": [helper.make_opsetid("ai.onnx.ml", 3)]}, "opset missing"),
    ],
)
def test_versions_that_an_old_runtime_does_not_know_are_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=rf"^edge\.onnx: {message}"):
        check(plain(**change))


def test_sparse_initialisers_are_refused() -> None:
    model = plain()
    model.graph.sparse_initializer.add().dims.append(4)
    with pytest.raises(ModelError, match=r"^edge\.onnx: sparse tensors are not supported"):
        check(model)


def test_a_training_graph_is_refused() -> None:
    model = plain()
    model.training_info.add().algorithm.name = "sgd"
    with pytest.raises(ModelError, match=r"^edge\.onnx: carries a training graph"):
        check(model)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (helper.make_tensor_sequence_value_info("y", FLOAT, [1]), "'y' is no dense tensor"),
        (helper.make_tensor_value_info("y", TensorProto.STRING, [1]), "unsupported element type 8"),
        (helper.make_tensor_value_info("y", FLOAT, None), "'y' declares no shape"),
        (ValueInfoProto(name="y"), "'y' is no dense tensor"),
    ],
)
def test_outputs_that_are_no_plain_arrays_are_refused(value: ValueInfoProto, message: str) -> None:
    model = plain()
    del model.graph.output[:]
    model.graph.output.append(value)
    with pytest.raises(ModelError, match=rf"^edge\.onnx: .*{message}"):
        check(model)


def number(at: int, value: int) -> bytes:
    return varint(at << 3) + varint(value)


def field(at: int, content: bytes) -> bytes:
    return varint(at << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_a_second_graph_that_protobuf_would_merge_is_refused() -> None:
    extra = GraphProto(node=[helper.make_node("Evil", [], ["z"], domain="acme")])
    data = plain().SerializeToString() + field(7, extra.SerializeToString())
    assert len(onnx.load_from_string(data).graph.node) == 2  # so it is a danger
    with pytest.raises(ModelError, match=r"model\.graph comes twice, at byte"):
        check_graph(data, where=WHERE)


def test_an_ort_flatbuffer_in_protobufs_clothes_is_refused() -> None:
    data = field(2, b"12ORTM" + b"x" * 30)[:2] + b"12ORTM" + b"x" * 30
    assert data[4:8] == b"ORTM"
    ModelProto.FromString(data)
    with pytest.raises(ModelError, match=r"an ORT flatbuffer, not ONNX"):
        check_graph(data, where=WHERE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\x08\x08", "it has no graph"),
        (b"\x08", "cut short, at byte 1"),
        (b"\x08" + b"\xff" * 11, "more than ten bytes, at byte 1"),
        (b"\x3a\xff\xff\xff\xff\x07", "cut short, at byte 1"),
        (b"\x00\x00", "no such field, at byte 0"),
        (b"\x0b\x0c", "wire type 3, at byte 1"),
        (b"\x0a\x00", "model.ir_version has wire type 2, at byte 0"),
        (b"\x38\x00", "model.graph has wire type 0"),
        (b"\x09" + b"\0" * 7, "cut short"),
        (b"<html>not found</html>", "not a readable ONNX graph"),
        (number(1, 8) * 2, "model.ir_version comes twice, at byte 2"),
        (field(7, field(1, field(4, b"\xff"))), "a name is not UTF-8, at byte"),
    ],
)
def test_garbage_is_refused_with_the_byte(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        check_graph(data, where=WHERE)
    assert str(caught.value).startswith("edge.onnx: ")


def test_nesting_is_bounded() -> None:
    data = b""
    for _ in range(100):
        data = field(1, field(5, field(6, data)))  # graph > node > attribute > graph
    with pytest.raises(ModelError, match=r"nested too deeply"):
        check_graph(field(7, data), where=WHERE)


def test_the_number_of_fields_is_bounded() -> None:
    with pytest.raises(ModelError, match=r"more fields than a model has"):
        check_graph(b"\x10\x01" * 1_000_001, where=WHERE)


def test_a_file_cut_anywhere_is_refused_or_has_lost_no_operator() -> None:
    data = with_function().SerializeToString()
    whole = check_graph(data, where=WHERE)
    for length in range(len(data)):
        try:
            cut = read_graph(data[:length], where=WHERE)
        except ModelError:
            continue
        assert cut.operators <= whole.operators


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300, deadline=None)
@given(
    st.sampled_from([plain, with_if, with_loop, with_function]),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_changed_bytes_never_raise_anything_but_our_error(
    make: Callable[[], ModelProto], changes: list[tuple[int, int]]
) -> None:
    data = bytearray(make().SerializeToString())
    for place, value in changes:
        data[place % len(data)] = value
    try:
        info = check_graph(bytes(data), where=WHERE)
    except ModelError:
        return
    # what was accepted hides nothing from protobuf's own reading, if that accepts it too
    model = ModelProto()
    try:
        model.ParseFromString(bytes(data))
    except DecodeError:
        return  # what it has read of it means nothing
    seen = nodes_of(model)
    assert {(node.domain, node.op_type) for node in seen} <= {
        (domain, name) for short, name in info.operators for domain in {short, short or "ai.onnx"}
    }


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_but_our_error(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"^edge\.onnx: "):
        check_graph(data, where=WHERE)
