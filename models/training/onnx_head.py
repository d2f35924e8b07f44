"""The learnt evidence head inside an ONNX graph, so that the evidence travels with the file.

What `evidence_head.HeadForm` computes of logits is appended as standard operators, all of which
opset 9 has in the form used here; sums are products with ones, since the operators for sums
changed their form. The graph then gives logits z' with softplus(z') + 1 = alpha, which is what
head = "evidential" and output = "logits" mean.
"""

from __future__ import annotations

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
_LARGE = 20.0  # evidence from which on softplus leaves a number as it is, in float32


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
    chain = _Chain(classes)
    logits = chain.floats(names[place])
    if output == "probabilities":
        logits = chain("Log", chain("Max", logits, chain.number(floor)))
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

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._ones = self._constant(np.ones((classes, 1), np.float32))

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401  onnx's
        name = f"{_PREFIX}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def number(self, value: float) -> str:
        """Return the name of a float32 constant."""
        return self._constant(np.array(value, np.float32))

    def floats(self, tensor: str) -> str:
        """Return ``tensor`` as float32."""
        return self("Cast", tensor, to=onnx.TensorProto.FLOAT)

    def sum(self, rows: str) -> str:
        """Return the sums (B, 1) of ``rows`` (B, K)."""
        return self("MatMul", rows, self._ones)

    def first_greatest(self, rows: str) -> str:
        """Return (B, K), 1 for the first of the greatest of each row, 0 for all else."""
        at = self("ArgMax", rows, axis=1, keepdims=1)
        each = self._constant(np.arange(self.classes, dtype=np.int64)[None, :])
        return self.floats(self("Equal", at, each))

    def log(self, positive: str) -> str:
        """Return the logarithm, of `LEAST` where there is less."""
        return self("Log", self("Max", positive, self.number(LEAST)))

    def _constant(self, array: np.ndarray[Any, Any]) -> str:
        name = f"{_PREFIX}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def _append(chain: _Chain, head: EvidenceHead, logits: str) -> str:
    """Append alpha = 1 + (S - K) q of ``logits`` (B, K), as logits of it."""
    greatest = chain.first_greatest(logits)
    others = chain("Sub", chain.number(1.0), greatest)
    log_q = chain("LogSoftmax", chain("Mul", logits, chain.number(1 / head.temperature)), axis=1)
    depth = chain("Sub", log_q, chain.sum(chain("Mul", log_q, greatest)))
    exp = chain("Exp", depth)
    rest = chain.sum(chain("Mul", exp, others))
    total = chain("Add", rest, chain.number(1.0))
    terms = [chain("Mul", chain.log(rest), chain.number(-head.weights[0]))]
    if head.weights[1]:
        spread = chain("Div", chain.sum(chain("Mul", exp, depth)), total)
        entropy = chain("Sub", _log_of_one_more(chain, rest), spread)
        share = chain("Mul", entropy, chain.number(1 / np.log(chain.classes)))
        terms.append(chain("Mul", chain.log(share), chain.number(-head.weights[1])))
    if head.weights[2]:
        terms.append(chain("Mul", _peak(chain, logits, greatest), chain.number(head.weights[2])))
    sure = chain.number(head.bias)
    for term in terms:
        sure = chain("Add", sure, term)
    inside = chain("Min", chain("Max", sure, chain.number(CLIP[0])), chain.number(CLIP[1]))
    strength = chain("Mul", chain("Exp", inside), chain.number(chain.classes))
    mark = chain("Add", chain("Mul", greatest, chain.number(MARK - 1.0)), chain.number(1.0))
    marked = chain("Mul", exp, mark)
    return _inverse_softplus(chain, chain("Mul", marked, chain("Div", strength, total)))


def _log_of_one_more(chain: _Chain, x: str) -> str:
    """Append ln(1 + x) as 2 atanh(x/(2 + x)), which is exact for small x too."""
    share = chain("Div", x, chain("Add", x, chain.number(2.0)))
    return chain("Mul", chain("Atanh", share), chain.number(2.0))


def _peak(chain: _Chain, logits: str, greatest: str) -> str:
    """Append max(d)/‖d‖₄ of d = z - mean(z): (B, 1)."""
    mean = chain("Mul", chain.sum(logits), chain.number(1 / chain.classes))
    apart = chain("Sub", logits, mean)
    square = chain("Mul", apart, apart)
    norm = chain("Sqrt", chain("Sqrt", chain.sum(chain("Mul", square, square))))
    top = chain.sum(chain("Mul", apart, greatest))
    return chain("Div", top, chain("Max", norm, chain.number(LEAST)))


def _inverse_softplus(chain: _Chain, evidence: str) -> str:
    """Append ln(exp(e) - 1) as e/2 + ln(2 sinh(e/2)), which is exact for small e too."""
    e = chain("Max", evidence, chain.number(LEAST))
    half = chain("Mul", chain("Min", e, chain.number(_LARGE)), chain.number(0.5))
    small = chain("Add", half, chain("Log", chain("Mul", chain("Sinh", half), chain.number(2.0))))
    return chain("Where", chain("Greater", e, chain.number(_LARGE)), e, small)
