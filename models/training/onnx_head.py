"""The learnt evidence head inside an ONNX graph, so that the evidence travels with the file.

What `evidence_head.HeadForm` computes of logits is appended as standard operators, all of which
opset 9 has; those that changed their form since are written in the form of the graph's opset.
On a row of few classes each costs 0.3 to 0.9 µs, however little it does: least those of one input,
most those that spread a number over a row. So there are few, and some are used for what they are
not named after; none is a Gemm, which a quantiser would take for a layer. The graph then gives
logits z' with softplus(z') + 1 = alpha, which is what head = "evidential" and output = "logits"
mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import MissingExtraError, ModelError
from ..evidence_head import CLIP, LEAST, MARK
from ..manifest import EvidenceHead, Output
from ..onnx_graph import check_graph

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise MissingExtraError("onnx", extra="train") from error

LEAST_OPSET = 9
_PREFIX = "hedge_evidence_"
_CLIP_BY_INPUTS, _REDUCE_BY_INPUTS = 11, 18  # opsets from which on what were attributes are inputs


class WithHead(NamedTuple):
    """The graph that gives evidence, and the name of the output that does."""

    data: bytes
    output: str


def takes_head(data: bytes, *, where: str) -> bool:
    """Tell whether the head can be appended: not to operators that are too old for it.

    Raises:
        ModelError: the graph may not run, or it has such a head already.
    """
    info = check_graph(data, where=where)
    if any(one.name.startswith(_PREFIX) for one in info.outputs):
        raise ModelError(
            "has learnt evidence already", where=where, hint="give the model as it was"
        )
    return all(version >= LEAST_OPSET for domain, version in info.opsets if not domain)


def append_head(
    data: bytes,
    head: EvidenceHead,
    *,
    classes: int,
    output: Output,
    output_name: str | None = None,
    floor: float = 1e-37,
    where: str,
) -> WithHead:
    """Return the graph ``data`` whose output ``output_name`` (None: the first) gives evidence.

    That output is one of logits or of probabilities, as ``output`` says, (B, ``classes``); in its
    place comes one of float32 with the same batch axis. ``floor`` stands for smaller probabilities.

    Raises:
        ModelError: the graph cannot be read, or the result is no sound one.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own errors share no base with others
        raise ModelError(f"cannot be read by onnx: {error}", where=where) from error
    graph = model.graph
    names = [one.name for one in graph.output]
    place = 0 if output_name is None else names.index(output_name)
    opset = max((one.version for one in model.opset_import if not one.domain), default=LEAST_OPSET)
    chain = _Chain(classes, opset=opset)
    logits = names[place]
    if graph.output[place].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        logits = chain("Cast", logits, to=onnx.TensorProto.FLOAT)
    if output == "probabilities":
        logits = chain.log(logits, least=floor)
    result = _append(chain, head, logits)
    graph.node.extend(chain.nodes)
    graph.initializer.extend(chain.constants)
    dims = graph.output[place].type.tensor_type.shape.dim
    batch = dims[0].dim_value or dims[0].dim_param or "B"
    made = helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, [batch, classes])
    graph.output[place].CopyFrom(made)
    whole: bytes = model.SerializeToString()
    check_graph(whole, where=where)
    return WithHead(whole, result)


class _Chain:
    """Operators on (B, K) and (B, 1), one after the other; each call returns its result's name."""

    def __init__(self, classes: int, *, opset: int) -> None:
        self.classes = classes
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._opset = opset
        self._ones = self.table(np.ones((classes, 1)))

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401  onnx's
        name = f"{_PREFIX}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def number(self, value: float) -> str:
        """Return the name of a float32 constant."""
        return self._constant(np.array(value, np.float32))

    def table(self, values: np.ndarray[Any, Any]) -> str:
        """Return the name of a float32 constant of any shape."""
        return self._constant(values.astype(np.float32))

    def sum(self, rows: str) -> str:
        """Return the sums (B, 1) of ``rows`` (B, K)."""
        return self("MatMul", rows, self._ones)

    def reduce(self, operator: str, rows: str) -> str:
        """Return what an operator such as ReduceMax makes of ``rows`` (B, K): (B, 1)."""
        if self._opset < _REDUCE_BY_INPUTS:
            return self(operator, rows, axes=[1], keepdims=1)
        return self(operator, rows, self._constant(np.array([1], np.int64)), keepdims=1)

    def weighed(self, columns: Sequence[str], weights: Sequence[float]) -> str:
        """Return the sum (B, 1) of ``columns`` (B, 1) by ``weights``."""
        if len(columns) == 1:
            return self("Mul", columns[0], self.number(weights[0]))
        return self("MatMul", self("Concat", *columns, axis=1), self.table(np.array([weights]).T))

    def clip(self, rows: str, least: float, most: float = float(np.finfo(np.float32).max)) -> str:
        """Return ``rows`` within bounds."""
        if self._opset < _CLIP_BY_INPUTS:
            return self("Clip", rows, min=least, max=most)
        return self("Clip", rows, self.number(least), self.number(most))

    def log(self, positive: str, *, least: float = LEAST) -> str:
        """Return the logarithm, of ``least`` where there is less."""
        return self("Log", self.clip(positive, least))

    def _constant(self, array: np.ndarray[Any, Any]) -> str:
        name = f"{_PREFIX}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def _append(chain: _Chain, head: EvidenceHead, logits: str) -> str:
    """Append alpha = 1 + (S - K) q of ``logits`` (B, K), as logits of it."""
    greatest = chain("Hardmax", logits, axis=1)
    below = chain("Sub", logits, chain.reduce("ReduceMax", logits))
    depth = below
    if head.temperature != 1.0:  # nothing lies above 0, where a leaky one would stay as it is
        depth = chain("LeakyRelu", below, alpha=1 / head.temperature)
    exp = chain("Exp", depth)  # of the greatest just 1
    others = chain("Sub", exp, greatest)
    rest = chain.sum(others)
    log_rest = chain.log(rest)
    mark = chain("HardSigmoid", greatest, alpha=MARK - 1.0, beta=0.0)  # of 0 and 1: alpha times
    minus_total = chain("Sub", chain.number(-1.0), rest)
    minus_q = chain("Div", chain("Add", exp, mark), minus_total)
    confidence, order, peak = head.weights
    shift = math.log(chain.classes)
    bias = head.bias + shift
    features, weights = [log_rest], [-confidence]
    if order:
        features.append(_log_entropy(chain, minus_q, depth, log_rest))
        weights.append(-order)
        bias += order * math.log(shift)
    if peak:
        features.append(_minus_peak(chain, below))
        weights.append(-peak)
    sure = chain("Add", chain.weighed(features, weights), chain.number(bias))
    least, most = (bound + shift for bound in CLIP)
    strength = chain("Exp", chain.clip(sure, least, most))
    return _inverse_softplus(chain, chain("Mul", minus_q, strength))


def _log_entropy(chain: _Chain, minus_q: str, depth: str, log_rest: str) -> str:
    """Append ln of ln(1 + rest) - Σ q d: (B, 1).

    The first is the softplus of ln(rest), which is exact for a small rest too. The greatest,
    whose q is marked, has no part in the second: its d is 0.
    """
    spread = chain.sum(chain("Mul", minus_q, depth))
    entropy = chain("Add", chain("Softplus", log_rest), spread)
    return chain.log(entropy, least=LEAST * math.log(chain.classes))


def _minus_peak(chain: _Chain, below: str) -> str:
    """Append -max(d)/‖d‖₄ of d = z - mean(z), from ``below`` = z - max(z): (B, 1)."""
    shares = chain.table(np.full((chain.classes, 1), 1 / chain.classes))
    mean = chain("MatMul", below, shares)  # max(d) is what lies above it
    apart = chain("Sub", below, mean)
    norm = chain("Sqrt", chain.reduce("ReduceL2", chain("Mul", apart, apart)))
    return chain("Div", mean, chain.clip(norm, LEAST))


def _inverse_softplus(chain: _Chain, minus_evidence: str) -> str:
    """Append ln(exp(e) - 1) as ln(1 - exp(-e)) + e, of -e; Elu gives 1 - exp(-e) of it.

    What rounding takes from a small e is nothing beside the 1 that makes it an alpha.
    """
    share = chain("Elu", minus_evidence, alpha=-1.0)
    return chain("Sub", chain.log(share), minus_evidence)
