"""An ONNX graph as a torch module, so that its weights can be taught where they lie.

Only the operators of common small classifiers are known, each as ONNX defines it
(https://onnx.ai/onnx/operators); a graph with another one is refused, not guessed at. What is
learnt are the weights of layers; normalisations keep their statistics, other constants their
values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from ....models.errors import ModelError

Attributes = Mapping[str, Any]
_Operator = Callable[[Attributes, list[Any]], Any]
_WEIGHTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "Conv": (1, 2),
        "ConvTranspose": (1, 2),
        "Gemm": (1, 2),
        "MatMul": (0, 1),
        "BatchNormalization": (1, 2),
        "LayerNormalization": (1, 2),
        "PRelu": (1,),
        "Gather": (0,),
    }
)


class TorchGraph(nn.Module):
    """The part of a graph that leads from its input ``source`` to the tensor ``target``.

    ``forward`` takes what the graph is fed (B, ...) and gives that tensor. `weights` are the
    parameters by the names that the graph has for them.

    Raises:
        ModelError: it holds an operator, or a form of one, that is not known here.
    """

    def __init__(self, model: onnx.ModelProto, *, target: str, where: str) -> None:
        super().__init__()
        held = constants(model)
        self._nodes = _leading_to(model, target)
        self._target = target
        self._where = where
        for node in self._nodes:
            if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
                raise ModelError(
                    f"all its layers cannot be taught: {node.op_type} is not known here",
                    where=where,
                    hint="leave --all-layers away to teach the last one only",
                )
        self._attributes = [
            {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            for node in self._nodes
        ]
        taught = _weights(self._nodes, {one.name for one in model.graph.initializer})
        self._names = sorted(taught)
        self._parameters_by_place = nn.ParameterList(
            nn.Parameter(torch.from_numpy(numpy_helper.to_array(held[name]).copy()))
            for name in self._names
        )
        used = {name for node in self._nodes for name in node.input} & held.keys()
        self._constants = {
            name: torch.from_numpy(numpy_helper.to_array(held[name]).copy())
            for name in sorted(used - taught)
        }
        given = held.keys()
        self._source = next(one.name for one in model.graph.input if one.name not in given)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters, by their names in the graph."""
        return dict(zip(self._names, self._parameters_by_place, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return the target (B, K) of ``x``, what the graph is fed.

        Raises:
            ModelError: an operator is used in a form that is not known here.
        """
        known: dict[str, Any] = {**self._constants, **self.weights, self._source: x}
        for node, attributes in zip(self._nodes, self._attributes, strict=True):
            fed = [known[name] if name else None for name in node.input]
            try:
                found = OPERATORS[node.op_type](attributes, fed)
            except (RuntimeError, IndexError, TypeError, ValueError, KeyError) as error:
                raise ModelError(
                    f"all its layers cannot be taught: {node.op_type} in a form that is not "
                    f"known here ({str(error).splitlines()[0][:120]})",
                    where=self._where,
                    hint="leave --all-layers away to teach the last one only",
                ) from error
            known[node.output[0]] = found
        result: Tensor = known[self._target]
        return result


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the tensors that a graph holds, its initialisers and its constants, by name."""
    held = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        for one in node.attribute:
            if node.op_type == "Constant" and one.name == "value":
                held[node.output[0]] = one.t
    return held


def _leading_to(model: onnx.ModelProto, target: str) -> list[onnx.NodeProto]:
    """Return the nodes that ``target`` needs, in their order; constants are none."""
    needed, found = {target}, []
    for node in reversed(model.graph.node):
        if needed.isdisjoint(node.output) or node.op_type == "Constant":
            continue
        needed.update(name for name in node.input if name)
        found.append(node)
    return found[::-1]


def _weights(nodes: Sequence[onnx.NodeProto], held: Collection[str]) -> set[str]:
    """Return the names of what is learnt: the weights of layers, and what is added to a MatMul."""
    found: set[str] = set()
    products = {node.output[0] for node in nodes if node.op_type == "MatMul"}
    for node in nodes:
        places = _WEIGHTS.get(node.op_type, ())
        if node.op_type == "Add" and not products.isdisjoint(node.input):
            places = (0, 1)
        mine = {node.input[place] for place in places if place < len(node.input)}
        found |= {name for name in mine if name in held}
    return found


# ---- The operators


def _axes(attributes: Attributes, fed: Sequence[Any], place: int = 1) -> list[int] | None:
    """Return the axes, which newer operator sets give as an input; None: all."""
    if len(fed) > place and fed[place] is not None:
        given: list[int] = fed[place].tolist()
        return given
    axes = attributes.get("axes")
    return None if axes is None else list(axes)


def _reduced(by: Callable[..., Tensor]) -> _Operator:
    def operator(attributes: Attributes, fed: list[Any]) -> Tensor:
        axes = _axes(attributes, fed)
        axes = list(range(fed[0].ndim)) if axes is None else axes
        return by(fed[0], dim=axes, keepdim=bool(attributes.get("keepdims", 1)))

    return operator


def _spatial(fed: Sequence[Any], attributes: Attributes) -> tuple[Tensor, int]:
    """Return the input, with its padding in it, and how many spatial axes it has."""
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("auto_pad")
    return fed[0], fed[0].ndim - 2


def _padded(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    axes = len(pads) // 2
    order = [pads[at] for axis in reversed(range(axes)) for at in (axis, axis + axes)]
    return functional.pad(x, order, value=value) if any(pads) else x


def _conv(attributes: Attributes, fed: list[Any]) -> Tensor:
    x, axes = _spatial(fed, attributes)
    conv = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    result: Tensor = conv(
        _padded(x, attributes.get("pads", [0] * 2 * axes), 0.0),
        fed[1],
        fed[2] if len(fed) > 2 else None,
        stride=tuple(attributes.get("strides", [1] * axes)),
        dilation=tuple(attributes.get("dilations", [1] * axes)),
        groups=attributes.get("group", 1),
    )
    return result


def _max_pool(attributes: Attributes, fed: list[Any]) -> Tensor:
    x, axes = _spatial(fed, attributes)
    if attributes.get("ceil_mode", 0):
        raise ValueError("ceil_mode")
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[axes - 1]
    result: Tensor = pool(
        _padded(x, attributes.get("pads", [0] * 2 * axes), -torch.inf),
        tuple(attributes["kernel_shape"]),
        stride=tuple(attributes.get("strides", [1] * axes)),
        dilation=tuple(attributes.get("dilations", [1] * axes)),
    )
    return result


def _average_pool(attributes: Attributes, fed: list[Any]) -> Tensor:
    x, axes = _spatial(fed, attributes)
    pads = attributes.get("pads", [0] * 2 * axes)
    if attributes.get("ceil_mode", 0) or (any(pads) and not attributes.get("count_include_pad")):
        raise ValueError("padding that does not count")
    pool: Callable[..., Tensor] = (
        functional.avg_pool1d,
        functional.avg_pool2d,
        functional.avg_pool3d,
    )[axes - 1]
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1] * axes)
    return pool(_padded(x, pads, 0.0), tuple(kernel), stride=tuple(strides))


def _gemm(attributes: Attributes, fed: list[Any]) -> Tensor:
    a = fed[0].T if attributes.get("transA") else fed[0]
    b = fed[1].T if attributes.get("transB") else fed[1]
    result: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return result if len(fed) < 3 else result + attributes.get("beta", 1.0) * fed[2]


def _batch_normalised(attributes: Attributes, fed: list[Any]) -> Tensor:
    x, scale, bias, mean, variance = fed
    return functional.batch_norm(
        x, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5)
    )


def _layer_normalised(attributes: Attributes, fed: list[Any]) -> Tensor:
    axis = attributes.get("axis", -1)
    shape = fed[0].shape[axis:]
    bias = fed[2] if len(fed) > 2 else None
    return functional.layer_norm(fed[0], shape, fed[1], bias, attributes.get("epsilon", 1e-5))


def _reshaped(attributes: Attributes, fed: list[Any]) -> Tensor:
    if attributes.get("allowzero"):
        raise ValueError("allowzero")
    x, shape = fed[0], fed[1].tolist()
    result: Tensor = x.reshape([x.shape[at] if one == 0 else one for at, one in enumerate(shape)])
    return result


def _flattened(attributes: Attributes, fed: list[Any]) -> Tensor:
    axis = attributes.get("axis", 1) % (fed[0].ndim + 1)
    rows = int(torch.tensor(fed[0].shape[:axis]).prod())
    result: Tensor = fed[0].reshape(rows, -1)
    return result


def _squeezed(attributes: Attributes, fed: list[Any]) -> Tensor:
    axes = _axes(attributes, fed)
    result: Tensor = fed[0].squeeze() if axes is None else fed[0].squeeze(tuple(axes))
    return result


def _unsqueezed(attributes: Attributes, fed: list[Any]) -> Tensor:
    axes = _axes(attributes, fed) or []
    found = fed[0]
    for axis in sorted(one % (fed[0].ndim + len(axes)) for one in axes):
        found = found.unsqueeze(axis)
    result: Tensor = found
    return result


def _sliced(attributes: Attributes, fed: list[Any]) -> Tensor:
    if len(fed) == 1:
        starts, ends, axes, steps = attributes["starts"], attributes["ends"], None, None
        axes = attributes.get("axes")
    else:
        starts, ends, axes, steps = [
            None if at >= len(fed) or fed[at] is None else fed[at].tolist() for at in range(1, 5)
        ]
    found = fed[0]
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = place if axes is None else axes[place]
        step = 1 if steps is None else steps[place]
        if step < 1:
            raise ValueError("a step below 1")
        size = found.shape[axis]
        first, last = (max(0, one + size) if one < 0 else min(one, size) for one in (start, end))
        rows = torch.arange(first, max(first, last), step)
        found = found.index_select(axis, rows)
    result: Tensor = found
    return result


def _clipped(attributes: Attributes, fed: list[Any]) -> Tensor:
    low = fed[1] if len(fed) > 1 else attributes.get("min")
    high = fed[2] if len(fed) > 2 else attributes.get("max")
    result: Tensor = fed[0] if low is None and high is None else torch.clamp(fed[0], low, high)
    return result


def _gathered(attributes: Attributes, fed: list[Any]) -> Tensor:
    axis, rows = attributes.get("axis", 0), fed[1].long()
    axis %= fed[0].ndim
    rows = torch.where(rows < 0, rows + fed[0].shape[axis], rows)
    found = fed[0].index_select(axis, rows.reshape(-1))
    shape = (*fed[0].shape[:axis], *rows.shape, *fed[0].shape[axis + 1 :])
    result: Tensor = found.reshape(shape)
    return result


def _cast(attributes: Attributes, fed: list[Any]) -> Tensor:
    kind = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    result: Tensor = fed[0].to(getattr(torch, kind.name))
    return result


def _pad(attributes: Attributes, fed: list[Any]) -> Tensor:
    if attributes.get("mode", b"constant") != b"constant" or (len(fed) > 3 and fed[3] is not None):
        raise ValueError("its mode")
    value = float(fed[2]) if len(fed) > 2 and fed[2] is not None else 0.0
    return _padded(fed[0], fed[1].tolist(), value)


def _plain(by: Callable[..., Any]) -> _Operator:
    """Return the operator that is a function of its inputs alone."""
    return lambda _, fed: by(*fed)


def _pooled_globally(by: Callable[..., Tensor]) -> _Operator:
    return lambda _, fed: by(fed[0], dim=list(range(2, fed[0].ndim)), keepdim=True)


def _softmaxed(by: Callable[..., Tensor]) -> _Operator:
    return lambda attributes, fed: by(fed[0], dim=attributes.get("axis", -1))


OPERATORS: Mapping[str, _Operator] = MappingProxyType(
    {
        "Abs": _plain(torch.abs),
        "Add": _plain(torch.add),
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalised,
        "Cast": _cast,
        "Clip": _clipped,
        "Concat": lambda attributes, fed: torch.cat(fed, attributes["axis"]),
        "Conv": _conv,
        "Div": _plain(torch.true_divide),
        "Dropout": lambda _, fed: fed[0],
        "Elu": lambda attributes, fed: functional.elu(fed[0], attributes.get("alpha", 1.0)),
        "Equal": _plain(torch.eq),
        "Erf": _plain(torch.erf),
        "Exp": _plain(torch.exp),
        "Flatten": _flattened,
        "Gather": _gathered,
        "Gemm": _gemm,
        "GlobalAveragePool": _pooled_globally(torch.mean),
        "GlobalMaxPool": _pooled_globally(torch.amax),
        "HardSigmoid": lambda attributes, fed: torch.clamp(
            attributes.get("alpha", 0.2) * fed[0] + attributes.get("beta", 0.5), 0.0, 1.0
        ),
        "HardSwish": _plain(functional.hardswish),
        "Identity": _plain(lambda x: x),
        "LayerNormalization": _layer_normalised,
        "LeakyRelu": lambda attributes, fed: functional.leaky_relu(
            fed[0], attributes.get("alpha", 0.01)
        ),
        "Log": _plain(torch.log),
        "LogSoftmax": _softmaxed(torch.log_softmax),
        "MatMul": _plain(torch.matmul),
        "MaxPool": _max_pool,
        "Mul": _plain(torch.mul),
        "Neg": _plain(torch.neg),
        "Not": _plain(torch.logical_not),
        "Pad": _pad,
        "Pow": _plain(torch.pow),
        "PRelu": _plain(lambda x, slope: torch.where(x >= 0, x, slope * x)),
        "Reciprocal": _plain(torch.reciprocal),
        "ReduceMax": _reduced(torch.amax),
        "ReduceMean": _reduced(torch.mean),
        "ReduceMin": _reduced(torch.amin),
        "ReduceSum": _reduced(torch.sum),
        "Relu": _plain(torch.relu),
        "Reshape": _reshaped,
        "Shape": lambda _, fed: torch.tensor(fed[0].shape),
        "Sigmoid": _plain(torch.sigmoid),
        "Sign": _plain(torch.sign),
        "Slice": _sliced,
        "Softmax": _softmaxed(torch.softmax),
        "Softplus": _plain(functional.softplus),
        "Sqrt": _plain(torch.sqrt),
        "Squeeze": _squeezed,
        "Sub": _plain(torch.sub),
        "Tanh": _plain(torch.tanh),
        "Transpose": lambda attributes, fed: fed[0].permute(
            *attributes.get("perm", reversed(range(fed[0].ndim)))
        ),
        "Unsqueeze": _unsqueezed,
        "Where": _plain(torch.where),
    }
)
"""Operators by name; each takes its attributes and inputs (None: left out)."""
