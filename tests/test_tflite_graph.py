"""Tests of the TFLite reader, against the reading of the schema's own generated code."""

from __future__ import annotations

import contextlib
import doctest
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedge.models import endings, tflite_graph
from hedge.models.errors import ModelError
from hedge.models.model import Quantisation, TensorSpec
from hedge.models.tflite_graph import MAX_DEPTH, check_tflite

schema = pytest.importorskip(
    "ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed"
)
flatbuffers = pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")

WHERE = "edge.tflite"
Make = Callable[..., bytes]
Edit = Callable[[Any], None]


def edited(data: bytes, edit: Edit) -> bytes:
    """Return the file after ``edit`` has changed its `ModelT`."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    edit(model)
    return packed(model)


def packed(model: Any) -> bytes:  # noqa: ANN401  the generated code is untyped
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def refused(data: bytes, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        check_tflite(data, where=WHERE)
    assert str(caught.value).startswith(f"{WHERE}: ")
    assert "\n" not in str(caught.value)


@pytest.fixture
def linear(linear_tflite: Make) -> bytes:
    """Give the int8 file of x (B, 4) -> softmax(x W) (B, 3)."""
    return linear_tflite(3, int8=True)


def ready_made() -> list[Path]:
    place = os.environ.get("HEDGE_DATA")
    return sorted(Path(place, "models").glob("*.tflite")) if place else []


def test_the_worked_example_holds() -> None:
    found = doctest.testmod(endings)
    assert (found.failed, found.attempted) == (0, 2)


def test_inputs_outputs_and_operators_are_those_that_were_written(linear: bytes) -> None:
    info = check_tflite(linear, where=WHERE)
    int8 = np.dtype(np.int8)
    assert info.version == 3
    assert info.inputs == (TensorSpec("x", int8, (None, 4), Quantisation(1 / 32, 3)),)
    assert info.outputs == (TensorSpec("y", int8, (None, 3), Quantisation(1 / 256, -128)),)
    assert info.operators == {"FULLY_CONNECTED", "SOFTMAX"}
    assert info.endings == (("SOFTMAX",),)
    assert not info.stateful


def test_a_batch_axis_is_free_only_where_the_signature_says_so(linear_tflite: Make) -> None:
    info = check_tflite(linear_tflite(3, free_batch=False), where=WHERE)
    assert (info.inputs[0].shape, info.outputs[0].shape) == ((1, 4), (1, 3))
    assert info.inputs[0].quantisation is None


def test_every_operator_has_the_number_of_the_schema() -> None:
    numbers = {
        name: number
        for name, number in vars(schema.BuiltinOperator).items()
        if isinstance(number, int) and not name.startswith("_")
    }
    assert {name: place for place, name in enumerate(tflite_graph._NAMES)} == numbers


@pytest.mark.parametrize("path", ready_made() or [None], ids=lambda path: path and path.stem)
def test_ready_made_files_are_read_as_the_library_reads_them(path: Path | None) -> None:
    if path is None:
        pytest.skip("HEDGE_DATA does not say where the models are")
    info = check_tflite(path.read_bytes(), where=path.name)
    bare = interpreter.Interpreter(model_path=str(path))
    for mine, theirs in (
        (info.inputs, bare.get_input_details()),
        (info.outputs, bare.get_output_details()),
    ):
        assert [one.name for one in mine] == [one["name"] for one in theirs]
        assert [one.dtype for one in mine] == [one["dtype"] for one in theirs]
        signatures = [tuple(one["shape_signature"].tolist()) for one in theirs]
        assert [tuple(-1 if n is None else n for n in one.shape) for one in mine] == signatures
        scales = [tuple(one.quantisation or (0.0, 0)) for one in mine]
        assert scales == [one["quantization"] for one in theirs]
    bare.allocate_tensors()
    ran = {one["op_name"] for one in bare._get_ops_details()}
    assert ran - {"DELEGATE"} <= info.operators
    assert info.stateful == ("lstm" in path.stem or "dtln" in path.stem)


def test_what_only_changes_the_form_is_looked_through(linear: bytes) -> None:
    def dequantise(model: Any) -> None:  # noqa: ANN401
        graph = model.subgraphs[0]
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
        code.version = 2
        model.operatorCodes.append(code)
        last = schema.TensorT()
        last.name, last.shape, last.type = "real", [1, 3], schema.TensorType.FLOAT32
        graph.tensors.append(last)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = 2, [3], [4]
        graph.operators.append(operator)
        graph.outputs = [4]

    info = check_tflite(edited(linear, dequantise), where=WHERE)
    assert info.endings == (("DEQUANTIZE", "SOFTMAX"),)
    assert info.outputs == (TensorSpec("real", np.dtype(np.float32), (1, 3)),)


def test_a_tensor_made_of_itself_is_not_looked_through_for_ever(linear: bytes) -> None:
    def turn(model: Any) -> None:  # noqa: ANN401
        code = model.operatorCodes[1]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
        model.subgraphs[0].tensors[3].isVariable = True
        model.subgraphs[0].operators[1].inputs = [3]

    info = check_tflite(edited(linear, turn), where=WHERE)
    assert set(info.endings[0]) == {"RESHAPE"}


def test_a_tensor_that_keeps_its_value_makes_the_graph_stateful(linear: bytes) -> None:
    def remember(model: Any) -> None:  # noqa: ANN401
        model.subgraphs[0].tensors[2].isVariable = True

    assert check_tflite(edited(linear, remember), where=WHERE).stateful


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"TFL3", "no TFLite file"),
        (b"\x08\x08\x12\x04abcdefgh", "no TFLite file"),
        (b"\x1c\0\0\0TFL3", "cut short"),
        (b"\xff\xff\xff\x7fTFL3" + bytes(64), "at byte 2147483647"),
        (bytes(4) + b"TFL3" + bytes(64), "an offset of 0"),
    ],
)
def test_what_is_no_tflite_file_is_refused(data: bytes, match: str) -> None:
    refused(data, match)


def test_a_truncated_file_is_refused_at_whatever_length(linear: bytes) -> None:
    for length in range(len(linear)):
        with pytest.raises(ModelError):
            check_tflite(linear[:length], where=WHERE)


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1))
def test_bytes_that_were_changed_raise_nothing_but_a_model_error(
    linear: bytes, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(linear)
    for place, byte in changes:
        data[place % len(data)] = byte
    with contextlib.suppress(ModelError):
        info = check_tflite(bytes(data), where=WHERE)
        assert len(info.endings) == len(info.outputs)


def _another_version(model: Any) -> None:  # noqa: ANN401
    model.version = 4


def _no_subgraph(model: Any) -> None:  # noqa: ANN401
    model.subgraphs = []


def _unknown_operator(model: Any) -> None:  # noqa: ANN401
    model.operatorCodes[1].builtinCode = 4711


def _custom_operator(model: Any) -> None:  # noqa: ANN401
    code = model.operatorCodes[1]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "TFLite_Detection_PostProcess"


def _flex(model: Any) -> None:  # noqa: ANN401
    _custom_operator(model)
    model.operatorCodes[1].customCode = "FlexErf"


def _no_such_operator(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].operators[1].opcodeIndex = 2


def _no_such_tensor(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].operators[1].outputs = [5]


def _no_such_input(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].inputs = [0, -1]


def _no_such_intermediate(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].operators[1].intermediates = [-(1 << 31)]


def _another_order(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].operators.reverse()


def _no_weights(model: Any) -> None:  # noqa: ANN401
    model.buffers[1].data = None


def _made_by_nobody(model: Any) -> None:  # noqa: ANN401
    del model.subgraphs[0].operators[1]


def _no_such_buffer(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].tensors[1].buffer = 9


def _huge(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].tensors[2].shape = [1 << 16, 1 << 16]


def _negative(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].tensors[2].shape = [-3, 3]


def _text(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].tensors[0].type = schema.TensorType.STRING


def _resource(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].tensors[3].type = schema.TensorType.RESOURCE


def _per_axis(model: Any) -> None:  # noqa: ANN401
    given = model.subgraphs[0].tensors[3].quantization
    given.scale, given.zeroPoint = [0.1, 0.2, 0.3], [0, 0, 0]


def _no_scale(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].tensors[0].quantization.scale = [float("nan")]


def _negative_scale(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].tensors[0].quantization.scale = [-1.0]


def _zero_point(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].tensors[0].quantization.zeroPoint = [128]


def _sparse(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].tensors[1].sparsity = schema.SparsityParametersT()


def _beyond_the_file(model: Any) -> None:  # noqa: ANN401
    buffer = model.buffers[1]
    buffer.data, buffer.offset, buffer.size = None, 1 << 32, 12


def _external(model: Any) -> None:  # noqa: ANN401
    model.externalBuffers = [schema.ExternalBufferT()]


def _external_tensor(model: Any) -> None:  # noqa: ANN401
    model.subgraphs[0].tensors[1].externalBuffer = 1


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (_another_version, "version 4, supported is 3"),
        (_no_subgraph, "it has no subgraph"),
        (_unknown_operator, "operator 4711 is unknown .*update hedge"),
        (_custom_operator, "custom operator 'TFLite_Detection_PostProcess'"),
        (_flex, "custom operator 'FlexErf' .*SELECT_TF_OPS"),
        (_no_such_operator, "no such operator"),
        (_no_such_tensor, "no such tensor"),
        (_no_such_input, "no such tensor"),
        (_no_such_intermediate, "no such tensor"),
        (_another_order, "'logits' is used before it is made"),
        (_no_weights, "'W' is used before it is made"),
        (_made_by_nobody, "'y' is used before it is made"),
        (_no_such_buffer, "'W' has no such buffer"),
        (_huge, r"'logits' claims the shape \(65536, 65536\)"),
        (_negative, r"'logits' claims the shape \(-3, 3\)"),
        (_text, "'x' has the unsupported element type 5"),
        (_resource, "'y' has the unsupported element type 13"),
        (_per_axis, "'y' has more than one scale"),
        (_no_scale, "'x' has the scale nan"),
        (_negative_scale, "'x' has the scale -1.0"),
        (_zero_point, "'x' has .*the zero point 128"),
        (_sparse, "sparse tensors"),
        (_beyond_the_file, "data outside the file"),
        (_external, "data outside the file"),
        (_external_tensor, "'W' has its data outside the file"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_no_bundle_may_hold_is_refused_by_name(linear: bytes, edit: Edit, match: str) -> None:
    refused(edited(linear, edit), match)


def test_weights_behind_the_flatbuffer_are_taken_while_they_lie_in_the_file(
    linear: bytes,
) -> None:
    weights = bytes(schema.ModelT.InitFromPackedBuf(linear, 0).buffers[1].data)

    def move(offset: int) -> Edit:
        def edit(model: Any) -> None:  # noqa: ANN401
            buffer = model.buffers[1]
            buffer.data, buffer.offset, buffer.size = None, offset, len(weights)

        return edit

    offset = len(edited(linear, move(1 << 20)))
    data = edited(linear, move(offset)) + weights
    assert check_tflite(data, where=WHERE).inputs == check_tflite(linear, where=WHERE).inputs
    refused(data[:-1], "data outside the file")


def _chain(linear: bytes, *, subgraphs: int, last_calls: int | None) -> bytes:
    """Return a file in which each subgraph calls the next, and the last ``last_calls``."""

    def edit(model: Any) -> None:  # noqa: ANN401
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.WHILE
        model.operatorCodes.append(code)
        chain = [model.subgraphs[0]]
        for _ in range(1, subgraphs):
            one = schema.SubGraphT()
            one.tensors, one.operators = [schema.TensorT()], []
            one.inputs, one.outputs = [0], [0]
            chain.append(one)
        for place, one in enumerate(chain):
            called = place + 1 if place + 1 < subgraphs else last_calls
            if called is not None:
                options = schema.WhileOptionsT()
                options.condSubgraphIndex = options.bodySubgraphIndex = called
                operator = schema.OperatorT()
                operator.opcodeIndex, operator.inputs, operator.outputs = 2, [0], [0]
                operator.builtinOptionsType = schema.BuiltinOptions.WhileOptions
                operator.builtinOptions = options
                one.operators.append(operator)
        model.subgraphs = chain

    return edited(linear, edit)


def test_subgraphs_may_call_others_but_not_themselves(linear: bytes) -> None:
    info = check_tflite(_chain(linear, subgraphs=MAX_DEPTH, last_calls=None), where=WHERE)
    assert "WHILE" in info.operators
    refused(_chain(linear, subgraphs=1, last_calls=0), "subgraph 0 calls itself")
    refused(_chain(linear, subgraphs=5, last_calls=3), "calls itself")
    refused(_chain(linear, subgraphs=MAX_DEPTH + 1, last_calls=None), "deeper than 64")
    refused(_chain(linear, subgraphs=5, last_calls=7), "calls subgraph 7 of 5")


def test_an_operator_that_does_not_say_what_it_calls_calls_the_first(linear: bytes) -> None:
    def forget(model: Any) -> None:  # noqa: ANN401
        operator = model.subgraphs[0].operators[-1]
        operator.builtinOptions, operator.builtinOptionsType = None, 0

    refused(edited(_chain(linear, subgraphs=1, last_calls=0), forget), "calls itself")


@pytest.mark.timeout(60)
def test_a_small_file_that_points_at_the_same_tables_over_and_over_is_refused() -> None:
    builder = flatbuffers.Builder(1024)

    def many(offset: int, count: int) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(offset)
        made: int = builder.EndVector()
        return made

    schema.TensorStart(builder)
    tensors = many(schema.TensorEnd(builder), 10_000)
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    subgraphs = many(schema.SubGraphEnd(builder), 10_000)
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, subgraphs)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    data = bytes(builder.Output())
    assert len(data) < 100_000
    refused(data, "more than 4 MiB of tables")


@pytest.mark.parametrize(
    ("name", "match"),
    [(b"\xff\xfe", "not UTF-8"), (b"n" * 70_000, "a name of 70000 bytes")],
    ids=["no text", "too long"],
)
def test_a_name_that_is_none_is_refused(linear: bytes, name: bytes, match: str) -> None:
    def rename(model: Any) -> None:  # noqa: ANN401
        model.subgraphs[0].tensors[0].name = "?" * len(name)

    data = edited(linear, rename)
    refused(
        data.replace(
            struct.pack("<I", len(name)) + b"?" * len(name), struct.pack("<I", len(name)) + name
        ),
        match,
    )
