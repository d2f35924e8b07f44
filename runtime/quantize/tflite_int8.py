"""TFLite: static quantisation by ai-edge-quantizer; what goes in and out stays float."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from ..backends.first_line import first_line
from .int8 import Calibrator, Int8Model, Recipe, nothing_quantised

WEIGHTED = frozenset(
    {
        "BATCH_MATMUL",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "TRANSPOSE_CONV",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    }
)
_SIGNATURE = "hedge"


def tflite_int8(
    data: bytes, fed: NDArray[Any], *, recipe: Recipe, where: str, output: str | None
) -> Int8Model:
    """See `to_int8`."""
    with _translated(where):
        library = import_module("ai_edge_quantizer.quantizer")
        model = _read(data)
        if _is_quantised(model):
            raise ModelError("is quantised already", where=where)
        keep = _output_layer(model, output) if recipe.float_output else []
        source = _sign(model)
        made = _quantised(
            library, _written(model), {source: fed}, keep=keep, calibrator=recipe.calibrator
        )
        if made is None or not _has_int8_weights(_read(made)):
            raise nothing_quantised(recipe, layers="layer that this library knows", where=where)
    kept = "float" if recipe.float_output else "int8"
    return Int8Model(
        made,
        f"ai-edge-quantizer {version('ai-edge-quantizer')} static int8, {recipe.calibrator}, "
        f"weights per channel, output layer {kept}",
    )


def _read(data: bytes) -> Any:  # noqa: ANN401  the library is untyped
    return import_module("ai_edge_litert.tools.flatbuffer_utils").read_model_from_bytearray(
        bytearray(data)
    )


def _written(model: Any) -> bytes:  # noqa: ANN401
    utils = import_module("ai_edge_litert.tools.flatbuffer_utils")
    return bytes(utils.convert_object_to_bytearray(model))


def _is_quantised(model: Any) -> bool:  # noqa: ANN401
    return any(_has_scale(tensor) for graph in model.subgraphs for tensor in graph.tensors)


def _has_int8_weights(model: Any) -> bool:  # noqa: ANN401
    """Tell whether a tensor whose values stand in the file is quantised."""
    return any(
        _has_scale(tensor) and model.buffers[tensor.buffer].data is not None
        for graph in model.subgraphs
        for tensor in graph.tensors
    )


def _has_scale(tensor: Any) -> bool:  # noqa: ANN401
    scale = None if tensor.quantization is None else tensor.quantization.scale
    return scale is not None and len(scale) > 0


def _sign(model: Any) -> str:  # noqa: ANN401
    """Give the model one signature, which the quantiser asks for; return its input's name."""
    schema = import_module("ai_edge_litert.schema_py_generated")
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey = _SIGNATURE.encode()
    signature.inputs = [_entry(schema, "x", graph.inputs[0])]
    signature.outputs = [
        _entry(schema, f"y{place}", tensor) for place, tensor in enumerate(graph.outputs)
    ]
    model.signatureDefs = [signature]
    return "x"


def _entry(schema: Any, name: str, tensor: int) -> Any:  # noqa: ANN401
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry


def _output_layer(model: Any, output: str | None) -> list[str]:  # noqa: ANN401
    """Return the scopes of the operators from the last weights to the output, both included."""
    utils = import_module("ai_edge_litert.tools.flatbuffer_utils")
    scope = import_module("ai_edge_quantizer.utils.tfl_flatbuffer_utils").get_op_scope
    graph = model.subgraphs[0]
    makers = {tensor: operator for operator in graph.operators for tensor in operator.outputs}
    names = {graph.tensors[tensor].name.decode(): tensor for tensor in graph.outputs}
    waiting = [graph.outputs[0] if output is None else names[output]]
    scopes = set()
    while waiting:
        operator = makers.get(waiting.pop())
        if operator is None or scope(operator, graph.tensors) in scopes:
            continue
        scopes.add(scope(operator, graph.tensors))
        if utils.opcode_to_name(model, operator.opcodeIndex) not in WEIGHTED:
            waiting.extend(operator.inputs)
    return sorted(scopes)


def _quantised(
    library: Any,  # noqa: ANN401
    data: bytes,
    samples: dict[str, NDArray[Any]],
    *,
    keep: list[str],
    calibrator: Calibrator,
) -> bytes | None:
    """Return the int8 model; None where there is nothing to quantise."""
    recipes = import_module("ai_edge_quantizer.recipe")
    operation, leave = recipes.TFLOperationName, library.AlgorithmName.NO_QUANTIZE
    quantizer = library.Quantizer(bytearray(data), recipes.static_wi8_ai8())
    for end in (operation.INPUT, operation.OUTPUT):
        quantizer.update_quantization_recipe(".*", end, None, leave)
    for scope in keep:
        quantizer.update_quantization_recipe(
            f"^{re.escape(scope)}$", operation.ALL_SUPPORTED, None, leave
        )
    ranges = _ranges(
        data, samples, recipe=quantizer.get_quantization_recipe(), calibrator=calibrator
    )
    if not ranges:
        return None
    made = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(made.quantized_model)


def _ranges(
    data: bytes,
    samples: dict[str, NDArray[Any]],
    *,
    recipe: Any,  # noqa: ANN401
    calibrator: Calibrator,
) -> Any:  # noqa: ANN401
    """Return the least and the greatest value of every tensor that is to be quantised.

    The quantiser's own way is the moving average, which clips what is rare.
    """
    manager = import_module("ai_edge_quantizer.recipe_manager").RecipeManager()
    manager.load_quantization_recipe(recipe)
    if not manager.need_calibration():
        return {}
    updates = import_module("ai_edge_quantizer.utils.qsv_utils")
    watching = import_module("ai_edge_quantizer.calibrator").Calibrator(
        data,
        num_threads=1,
        qsv_update_func=updates.min_max_update
        if calibrator == "minmax"
        else updates.moving_average_update,
    )
    ((name, fed),) = samples.items()
    rows = [{name: fed[place : place + 1]} for place in range(len(fed))]
    watching.calibrate({_SIGNATURE: rows}, manager)
    return watching.get_model_qsvs()


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    """Silence the library's progress and advice, and translate what it raises."""
    silent = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
        ):
            warnings.simplefilter("ignore")
            yield
    except ModelError:
        raise
    except Exception as error:  # the library's errors share no base
        raise ModelError(
            f"ai-edge-quantizer cannot quantise it: {first_line(error)}", where=where
        ) from error
