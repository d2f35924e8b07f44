"""Where a graph can be cut: the tensors that separate it, how large they are, and at what work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.errors import MissingExtraError, ModelError
from ...models.splitting.onnx_cut import CutGraph, Seam
from ...models.splitting.work import macs
from ..backends.first_line import first_line

_ERRORS_ONLY = 3


class Place(Struct, frozen=True, kw_only=True):
    """A tensor at which a graph can be cut.

    ``shape`` is that of one sample's features, ``bytes_float16`` what they take as they travel;
    ``work`` the share of the graph's multiplications that lie before it (None: it has none).
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    width: int
    bytes_float16: int
    work: float | None


class Shapes(NamedTuple):
    """The shapes of all that a graph makes of one row, and of two (None: only one can be fed)."""

    one: dict[str, NDArray[Any]]
    two: dict[str, tuple[int, ...]] | None

    def seam(self, tensor: str, *, where: str) -> Seam:
        """Return the seam at ``tensor``.

        Raises:
            ModelError: its shape is not (B, …) with at least one extent more, or not fixed.
        """
        array = self.one[tensor]
        shape = tuple(array.shape)
        two = None if self.two is None else self.two.get(tensor)
        if len(shape) < 2 or shape[0] != 1 or two not in (None, (2, *shape[1:])):
            pair = "" if two is None else f" and {two} for two"
            raise ModelError(
                f"{tensor!r} has the shape {shape} for one sample{pair}, and features are (B, …) "
                "with extents that are fixed",
                where=where,
            )
        if not np.prod(shape[1:]):
            raise ModelError(f"{tensor!r} is empty", where=where)
        return Seam(tensor, shape[1:], str(array.dtype))


def shapes_of(graph: CutGraph, fed: NDArray[Any], *, where: str) -> Shapes:
    """Run the graph on the first row of ``fed`` (2, …), and on both, and return what it makes.

    Raises:
        ModelError: ONNX Runtime refuses it, or fails.
        MissingExtraError: that is not installed.
    """
    names = graph.made()
    try:
        import onnxruntime  # noqa: PLC0415  an extra
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra="onnx") from error
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never guess
    taken, two = graph.spec.inputs[0], None
    try:
        session = onnxruntime.InferenceSession(
            graph.showing(names), options, providers=["CPUExecutionProvider"]
        )
        one = dict(zip(names, session.run(names, {taken.name: fed[:1]}), strict=True))
        if taken.shape[0] is None:
            both = zip(names, session.run(names, {taken.name: fed}), strict=True)
            two = {name: tuple(a.shape) for name, a in both if isinstance(a, np.ndarray)}
    except Exception as error:  # the library's errors share no base
        raise ModelError(f"ONNX Runtime failed: {first_line(error)}", where=where) from error
    arrays = {name: array for name, array in one.items() if isinstance(array, np.ndarray)}
    return Shapes({taken.name: fed[:1], **arrays}, two)


def places(graph: CutGraph, shapes: Shapes) -> list[Place]:
    """Return all tensors at which the graph can be cut, in its order.

    Those whose shape is none of features are left out.
    """
    done = dict(zip(graph.tensors, _work_until(graph, shapes), strict=True))
    total = max(done.values(), default=0)
    found = []
    for tensor in graph.separators():
        try:
            seam = shapes.seam(tensor, where="graph")
        except (ModelError, KeyError):
            continue
        found.append(
            Place(
                tensor=tensor,
                shape=seam.shape,
                dtype=seam.dtype,
                width=seam.width,
                bytes_float16=2 * seam.width,
                work=done[tensor] / total if total else None,
            )
        )
    return found


def work_before(graph: CutGraph, shapes: Shapes, tensor: str) -> tuple[int, int]:
    """Return the MACs of the graph up to ``tensor``, that one included, and of all of it."""
    done = dict(zip(graph.tensors, _work_until(graph, shapes), strict=True))
    return done[tensor], max(done.values(), default=0)


def _work_until(graph: CutGraph, shapes: Shapes) -> Iterator[int]:
    """Yield for each of the graph's tensors the MACs until it is made."""
    known = {name: tuple(array.shape) for name, array in shapes.one.items()} | graph.weights
    there, done = set(graph.tensors), 0
    for node in graph.nodes:
        done += macs(node.proto, known)
        yield from (done for name in node.gives if name in there)


def lines(found: Sequence[Place]) -> Iterator[str]:
    """Yield a table of the places, a line each."""
    widest = max([len("tensor"), *(len(one.tensor) for one in found)])
    yield f"{'tensor':<{widest}}  {'shape':<18} {'values':>9} {'as float16':>12}  work before it"
    for one in found:
        work = "not known" if one.work is None else f"{one.work:.1%}"
        shape = "x".join(map(str, one.shape))
        size = f"{one.width:>9} {one.bytes_float16:>10} B"
        yield f"{one.tensor:<{widest}}  {shape:<18} {size}  {work:>9}"
