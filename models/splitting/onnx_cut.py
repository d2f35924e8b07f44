"""An ONNX graph as what can be cut in two: where it hangs together by one tensor, and its halves.

Only what lies between the graph's input and the output that counts is looked at. A tensor
separates the graph if no path from one to the other leads around it. What depends on no input
(weights, constants and what is made of them) goes with the half that uses it, or with both.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import MissingExtraError, ModelError
from ..graph import model_spec
from ..model import ModelSpec

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise MissingExtraError("onnx", extra="quantize") from error

import numpy as np

LEAST_OPSET = 6  # from which on Cast and Reshape have the form that is used here
_NEAR = 3
_SHOWN = 8  # tensors of a path
_FLOAT = onnx.TensorProto.FLOAT
_KEPT = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT8: "int8",
}
"""What features may be in the graph; they travel as floats, which hold bytes exactly."""

_ELEMENTS = {name: element for element, name in _KEPT.items()}


class Node(NamedTuple):
    """An operator of the main graph; ``takes`` has what its subgraphs take, too."""

    proto: Any
    takes: tuple[str, ...]
    gives: tuple[str, ...]


class Seam(NamedTuple):
    """The tensor to cut at: ``shape`` of one sample's part of it, and its dtype."""

    tensor: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def width(self) -> int:
        """How many features it holds."""
        return int(np.prod(self.shape))


class Halves(NamedTuple):
    """Both halves, the name of the head's output, and that of the tail's."""

    head: bytes
    tail: bytes
    head_output: str
    tail_output: str


class CutGraph:
    """One ONNX graph between its input and the output that counts.

    ``spec`` is what it takes and gives, ``nodes`` the operators that lie between, in order.
    """

    def __init__(self, data: bytes, *, output: str | None, where: str) -> None:
        self.spec: ModelSpec = model_spec(data, format="onnx", output=output, where=where)
        self._where = where
        try:
            self._model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's own errors share no base with others
            raise ModelError(f"cannot be read by onnx: {error}", where=where) from error
        graph = self._model.graph
        self._all = [Node(one, _takes(one), _named(one.output)) for one in graph.node]
        self._maker = {name: node for node in self._all for name in node.gives}
        self._input, self._output = self.spec.inputs[0].name, self.spec.outputs[0].name
        self._check_order()
        self._between = self._reached() & self._needed({self._output})
        self.nodes = [one for one in self._all if self._between.intersection(one.gives)]

    @property
    def tensors(self) -> list[str]:
        """All that operators make of the input on the way to the output, in order."""
        return [name for node in self.nodes for name in node.gives if name in self._between]

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the graph's own arrays."""
        return {one.name: tuple(one.dims) for one in self._model.graph.initializer}

    def made(self) -> list[str]:
        """Return all that operators make, constants and what leads nowhere included."""
        return [name for node in self._all for name in node.gives]

    def showing(self, tensors: Iterable[str]) -> bytes:
        """Return the graph with these for further outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        there = {one.name for one in model.graph.output}
        model.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in tensors if name not in there
        )
        data: bytes = model.SerializeToString()
        return data

    def separators(self) -> list[str]:
        """Return the tensors at which the graph can be cut, in order.

        In an order in which each comes after what it takes, what is still to be used after a
        cut is one tensor alone just where that tensor separates what is before from what is
        behind: any other would be a path around it.
        """
        uses = dict.fromkeys(self._between, 0)
        for node in self.nodes:
            for name in self._between.intersection(node.takes):
                uses[name] += 1
        uses[self._output] += 1
        alive, found = {self._input}, []
        for node in self.nodes:
            for name in self._between.intersection(node.takes):
                uses[name] -= 1
                if not uses[name]:
                    alive.discard(name)
            alive |= self._between.intersection(node.gives)
            if len(alive) == 1 and (name := next(iter(alive))) != self._output:
                found.append(name)
        return found

    def around(self, tensor: str) -> list[str]:
        """Return the shortest path from input to output around ``tensor``; empty: there is none."""
        came: dict[str, str | None] = {self._input: None}
        queue = deque([self._input])
        users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.takes:
                users.setdefault(name, []).append(node)
        while queue:
            here = queue.popleft()
            if here == self._output:
                return list(_back(came, here))
            for node in users.get(here, ()):
                for name in node.gives:
                    if name in self._between and name not in came and name != tensor:
                        came[name] = here
                        queue.append(name)
        return []

    def check(self, tensor: str) -> None:
        """Refuse a tensor at which the graph cannot be cut.

        Raises:
            ModelError: there is none of that name, it is no part of what leads from the input to
                the output, it is one of these, or a path leads around it, which is named.
        """
        if tensor in {self._input, self._output}:
            of, half = ("input", "head") if tensor == self._input else ("output", "tail")
            raise ModelError(
                f"{tensor!r} is the graph's {of}: nothing would be left for the {half}",
                where=self._where,
            )
        if tensor not in self._between:
            raise self._absent(tensor)
        path = self.around(tensor)
        if path:
            raise ModelError(
                f"a cut at {tensor!r} does not separate the graph: around it leads "
                f"{_path_text(path)}",
                where=self._where,
                hint="without --at the tensors that do are listed",
            )

    def halves(self, seam: Seam, *, shape: tuple[int, ...]) -> Halves:
        """Return both halves, cut at ``seam``; ``shape`` is that of one sample as it is fed.

        The head gives float32 (B, width), the tail takes that. A batch axis that is fixed stays.

        Raises:
            ModelError: it does not separate the graph, or is no tensor of numbers that can travel.
        """
        self.check(seam.tensor)
        self._check_versions()
        if seam.dtype not in _ELEMENTS:
            raise ModelError(
                f"{seam.tensor!r} is {seam.dtype}, and features are {', '.join(_ELEMENTS)}",
                where=self._where,
            )
        batch = self.spec.inputs[0].shape[0] or "B"
        flat = (len(seam.shape), seam.dtype) == (1, "float32")
        sent = seam.tensor if flat else self._free("hedge_features")
        given = self._free("hedge_given") if not flat else seam.tensor
        head, tail = (self._part(seam.tensor, None), self._part(self._output, seam.tensor))
        fed = next(one for one in self._model.graph.input if one.name == self._input)
        element = fed.type.tensor_type.elem_type
        _declare(head.graph.input, self._input, element, [batch, *shape])
        _declare(head.graph.output, sent, _FLOAT, [batch, seam.width])
        _declare(tail.graph.input, given, _FLOAT, [batch, seam.width])
        tail.graph.output.extend(
            one for one in self._model.graph.output if one.name == self._output
        )
        if not flat:
            self._flatten(head.graph, seam, sent)
            self._unflatten(tail.graph, seam, given)
        return Halves(head.SerializeToString(), tail.SerializeToString(), sent, self._output)

    def _flatten(self, graph: Any, seam: Seam, sent: str) -> None:  # noqa: ANN401  onnx's
        floats = seam.tensor
        if seam.dtype != "float32":
            floats = self._free("hedge_floats")
            graph.node.append(helper.make_node("Cast", [seam.tensor], [floats], to=_FLOAT))
        graph.node.append(helper.make_node("Flatten", [floats], [sent], axis=1))

    def _unflatten(self, graph: Any, seam: Seam, given: str) -> None:  # noqa: ANN401  onnx's
        shape, element = self._free("hedge_shape"), _ELEMENTS[seam.dtype]
        is_float = element == _FLOAT
        shaped = seam.tensor if is_float else self._free("hedge_unflattened")
        array = np.array([-1, *seam.shape], np.int64)
        graph.initializer.append(numpy_helper.from_array(array, shape))
        first = [helper.make_node("Reshape", [given, shape], [shaped])]
        if not is_float:
            first.append(helper.make_node("Cast", [shaped], [seam.tensor], to=element))
        rest = list(graph.node)
        del graph.node[:]
        graph.node.extend([*first, *rest])

    def _part(self, wanted: str, stop: str | None) -> Any:  # noqa: ANN401  onnx's
        """Return a model of what makes ``wanted``, of all or else of ``stop``, without ends."""
        needed = self._needed({wanted}, stop=stop)
        nodes = [
            node.proto
            for node in self._all
            if needed.intersection(node.gives) and stop not in node.gives
        ]
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph, old = model.graph, self._model.graph
        for field in ("node", "initializer", "input", "output", "value_info"):
            del getattr(graph, field)[:]
        del graph.quantization_annotation[:]
        graph.node.extend(nodes)
        graph.initializer.extend(one for one in old.initializer if one.name in needed)
        return model

    def _reached(self) -> set[str]:
        """Return all that depends on the input, and the input."""
        found = {self._input}
        for node in self._all:
            if found.intersection(node.takes):
                found.update(node.gives)
        return found

    def _needed(self, wanted: set[str], *, stop: str | None = None) -> set[str]:
        """Return all that ``wanted`` is made of, itself included; nothing beyond ``stop``."""
        found, queue = set(wanted), list(wanted)
        while queue:
            name = queue.pop()
            node = None if name == stop else self._maker.get(name)
            for other in () if node is None else node.takes:
                if other not in found:
                    found.add(other)
                    queue.append(other)
        return found

    def _absent(self, tensor: str) -> ModelError:
        of = next((one for one in self._all if one.proto.name == tensor and one.gives), None)
        if of is not None and tensor not in self._maker:
            return ModelError(
                f"{tensor!r} is an operator; the tensor that it makes is {of.gives[0]!r}",
                where=self._where,
            )
        if tensor in self._maker or tensor in self.weights:
            return ModelError(
                f"{tensor!r} is no part of what leads from the input to {self._output!r}",
                where=self._where,
            )
        near = difflib.get_close_matches(tensor, self.tensors, n=_NEAR, cutoff=0.4)
        names = ", ".join(repr(name) for name in near)
        return ModelError(
            f"has no tensor {tensor!r}",
            where=self._where,
            hint=f"near it are {names}" if near else "without --at all that separate it are listed",
        )

    def _check_order(self) -> None:
        """Refuse a graph whose operators come before what they take."""
        seen: set[str] = set()
        for node in self._all:
            early = [name for name in node.takes if name in self._maker and name not in seen]
            if early:
                raise ModelError(
                    f"{node.proto.op_type} takes {early[0]!r} before it is made", where=self._where
                )
            seen.update(node.gives)

    def _check_versions(self) -> None:
        versions = [one.version for one in self._model.opset_import if not one.domain]
        if any(version < LEAST_OPSET for version in versions):
            raise ModelError(
                f"opset {min(versions)}; to cut it takes {LEAST_OPSET} or above",
                where=self._where,
                hint="export it with a newer opset",
            )

    def _free(self, name: str) -> str:
        taken = {self._input, *self._maker, *self.weights}
        return next(one for one in _numbered(name) if one not in taken)


def _takes(node: Any) -> tuple[str, ...]:  # noqa: ANN401  onnx's
    """Return what an operator takes, and what its subgraphs take from outside."""
    found = dict.fromkeys(_named(node.input))
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            found |= dict.fromkeys(_free_of(graph))
    return tuple(found)


def _free_of(graph: Any) -> Iterator[str]:  # noqa: ANN401  onnx's
    """Yield what a subgraph takes from outside."""
    own = {one.name for one in (*graph.input, *graph.initializer)}
    own |= {name for node in graph.node for name in node.output}
    ends = (one.name for one in graph.output)
    for name in (*(name for node in graph.node for name in _takes(node)), *ends):
        if name and name not in own:
            yield name


def _named(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names without the empty ones, which stand for what is left out."""
    return tuple(name for name in names if name)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _back(came: dict[str, str | None], end: str) -> Iterator[str]:
    """Yield a path from its first to its last, as it was come by."""
    path = [end]
    while (before := came[path[-1]]) is not None:
        path.append(before)
    yield from reversed(path)


def _path_text(path: list[str]) -> str:
    if len(path) > _SHOWN:
        path = [*path[: _SHOWN // 2], "…", *path[-_SHOWN // 2 :]]
    return " > ".join(path)


def _declare(ends: Any, name: str, element: int, shape: list[int | str]) -> None:  # noqa: ANN401  onnx's
    ends.append(helper.make_tensor_value_info(name, element, shape))
