"""The manifest that model files suggest, with where each of its lines comes from.

What a graph says of itself is taken from it: shape, dtype, quantisation, how it ends. What
no graph knows, such as the names of the classes, has to be wished for; what lies between is
guessed, and said to be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from msgspec import Struct

from .errors import ConfigError, ModelError
from .graph import Format, model_spec, shape_text
from .manifest import (
    FORMAT,
    Cloud,
    DType,
    Edge,
    Fit,
    Head,
    ImageInput,
    Input,
    Manifest,
    Output,
    Resize,
    State,
)
from .model import TensorSpec
from .onnx_graph import check_graph, read_graph
from .prepare import widened
from .tflite_graph import IDENTIFIER, TfliteInfo, check_tflite

WISHED, GRAPH, DEFAULT = "as asked", "from the graph", "by default"
_FIRST_BYTE = b"\x08"  # of nearly every ONNX file: the field of its IR version
_SOFTMAX = frozenset({"SOFTMAX", "Softmax"})
_SIGMOID = frozenset({"LOGISTIC", "Sigmoid"})
_DEQUANTISES = frozenset({"DEQUANTIZE", "DequantizeLinear"})
_CHANNELS, _LEAST_SIDE = (1, 3), 16  # of what passes for an image


class _Pixels(NamedTuple):
    """A range that pixels are often brought to, and how bytes come there."""

    low: float
    high: float
    scale: float
    offset: float | None


_RANGES = (
    _Pixels(0.0, 255.0, 1.0, None),
    _Pixels(0.0, 1.0, 1 / 255, None),
    _Pixels(-1.0, 1.0, 1 / 127.5, 127.5),
)


class ModelFile(NamedTuple):
    """A model file: what it is called in messages, and its bytes."""

    where: str
    data: bytes


class Wishes(Struct, frozen=True, kw_only=True):
    """What the user has said; None: nothing. Only the ``labels`` have to be."""

    labels: tuple[str, ...]
    name: str | None = None
    version: str | None = None
    licence: str | None = None
    kind: Literal["tensor", "image", "audio", "text"] | None = None
    shape: tuple[int, ...] | None = None
    dtype: DType | None = None
    layout: str | None = None
    scale: float | None = None
    offset: float | None = None
    fit: Fit | None = None
    resize: Resize | None = None
    output: Output | None = None
    output_name: str | None = None
    state: State | None = None
    head: Head | None = None


class Proposal(Struct, frozen=True, kw_only=True):
    """A manifest, the files that it names, and by dotted key where its values come from."""

    manifest: Manifest
    files: dict[str, bytes]
    origins: dict[str, str]


class _Graph(NamedTuple):
    """A model that has been read: its one input, and the output (B, K) that is meant.

    ``output_name`` is None where there is no other; ``ending`` is how it comes about.
    """

    file: ModelFile
    format: Format
    takes: TensorSpec
    gives: TensorSpec
    output_name: str | None
    ending: tuple[str, ...]
    stateful: bool


class _Lines:
    """The values for a table of the manifest; where they come from goes into ``origins``."""

    def __init__(self, table: str, origins: dict[str, str]) -> None:
        self.values: dict[str, Any] = {}
        self._table = table
        self._origins = origins

    def take(self, name: str, found: object, origin: str, *, wish: object = None) -> None:
        """Take the wish if there is one, else what was found."""
        value = found if wish is None else wish
        self.values[name] = value
        if value is not None:
            self._origins[f"{self._table}{name}"] = origin if wish is None else WISHED


def propose(edges: Mapping[str, ModelFile], cloud: ModelFile | None, wishes: Wishes) -> Proposal:
    """Return the bundle of the variants of a small model, by name, and of a large one.

    A variant named "" gets the name of its precision. The wishes for output and head are
    those for the small models.

    Raises:
        ModelError: a file is no model, may not run, takes several inputs, or is no
            classifier of as many classes as there are labels.
        ConfigError: a wish is missing, or cannot be met.
    """
    if len(wishes.labels) < 2:
        raise ConfigError("a classifier has at least 2", where="labels")
    origins: dict[str, str] = {}
    small = {name: _read(file, wishes, wishes.output_name) for name, file in edges.items()}
    large = None if cloud is None else _read(cloud, wishes, None)
    graphs = [*small.values(), *([] if large is None else [large])]
    head = _head(graphs[0].file, wishes, origins)
    given = _input([graph.takes for graph in graphs], wishes, origins, where=graphs[0].file.where)
    variants = [
        _edge(name, graph, wishes, _Lines(f"edge.{place}.", origins))
        for place, (name, graph) in enumerate(small.items())
    ]
    sent = None if large is None else _cloud(large, _Lines("cloud.", origins))
    named: list[Edge | Cloud] = [*variants, *([] if sent is None else [sent])]
    manifest = Manifest(
        format=FORMAT,
        task="classification",
        input=given,
        edge=tuple(variants),
        cloud=sent,
        files={},
        **head,
    )
    files = {part.file: graph.file.data for part, graph in zip(named, graphs, strict=True)}
    return Proposal(manifest=manifest, files=files, origins=origins)


def format_of(file: ModelFile) -> Format:
    """Tell the format of a model file, by what it holds.

    Raises:
        ModelError: it is of neither, or ONNX that cannot be read.
    """
    if file.data[4:8] == IDENTIFIER:
        return "tflite"
    try:
        read_graph(file.data, where=file.where)
    except ModelError as error:
        if file.data[:1] == _FIRST_BYTE or file.data[4:8] == b"ORTM":
            raise
        what = "neither an ONNX nor a TFLite file" if file.data else "is empty"
        raise ModelError(what, where=file.where) from error
    return "onnx"


def _read(file: ModelFile, wishes: Wishes, output_name: str | None) -> _Graph:
    """Read a graph and check that it classifies into the labels."""
    format_ = format_of(file)
    check = check_tflite if format_ == "tflite" else check_graph
    info = check(file.data, where=file.where)
    labels = len(wishes.labels)
    name = output_name or _fitting(info.outputs, labels)
    spec = model_spec(file.data, format=format_, output=name, where=file.where)
    (takes,), (gives,) = spec.inputs, spec.outputs
    width = gives.shape[1]
    if width == 1:
        raise ModelError(
            f"output {gives.name!r} is one number for each sample: no classifier of 2 or more",
            where=file.where,
        )
    if width not in (None, labels):
        raise ModelError(
            f"output {gives.name!r} has {width} classes, but there are {labels} labels",
            where=file.where,
        )
    place = info.outputs.index(gives)
    named = gives.name if len(info.outputs) > 1 else None
    stateful = isinstance(info, TfliteInfo) and info.stateful
    return _Graph(file, format_, takes, gives, named, info.endings[place], stateful)


def _fitting(outputs: Sequence[TensorSpec], labels: int) -> str | None:
    """Return the name of the only output (B, labels) where that is not the first."""
    fit = [one.name for one in outputs if len(one.shape) == 2 and one.shape[1] == labels]
    return fit[0] if len(fit) == 1 else None


def _head(file: ModelFile, wishes: Wishes, origins: dict[str, str]) -> dict[str, Any]:
    """Return the manifest's first lines."""
    lines = _Lines("", origins)
    stem = re.sub(r"[^a-z0-9_-]+", "-", PurePath(file.where).stem.lower()).strip("-")
    lines.take("name", stem[:64] or "model", "from the file's name", wish=wishes.name)
    lines.take("version", "1.0.0", DEFAULT, wish=wishes.version)
    lines.take("labels", None, DEFAULT, wish=wishes.labels)
    lines.take("licence", "not stated", "unknown: --licence says it", wish=wishes.licence)
    return lines.values


def _edge(name: str, graph: _Graph, wishes: Wishes, lines: _Lines) -> Edge:
    is_int8 = _is_int8(graph)
    precision = "int8" if is_int8 else "float"
    name = name or precision
    lines.take("name", name, "from its precision" if name == precision else WISHED)
    _model(graph, lines, file=f"edge-{name}.{graph.format}", wish=wishes.output)
    lines.take("head", "softmax", DEFAULT, wish=wishes.head)
    steps = "from the graph, whose output has " + ("steps of 8 bits" if is_int8 else "no steps")
    lines.take("precision", precision, steps)
    if graph.stateful:
        remark = 'the file keeps its state; "reset" is for samples that follow no other'
        lines.take("state", "kept", remark, wish=wishes.state)
    return Edge(**lines.values)


def _cloud(graph: _Graph, lines: _Lines) -> Cloud:
    _model(graph, lines, file=f"cloud.{graph.format}", wish=None)
    lines.take("head", "softmax", DEFAULT)
    return Cloud(**lines.values)


def _model(graph: _Graph, lines: _Lines, *, file: str, wish: Output | None) -> None:
    """Take the lines that edge and cloud have in common."""
    lines.take("file", file, "the model's new name")
    lines.take("format", graph.format, "from what the file holds")
    last = graph.ending[-1] if graph.ending else "no operator"
    ends = f"from the graph, which ends in {last}"
    if last in _SIGMOID:
        ends = f"guessed: the graph ends in {last}, which is neither"
    lines.take("output", "probabilities" if last in _SOFTMAX else "logits", ends, wish=wish)
    lines.take("output_name", graph.output_name, "one of several: the one that fits, or the first")


def _is_int8(graph: _Graph) -> bool:
    """Tell whether the output counts in steps of eight bits, if only on its way."""
    return graph.gives.dtype.itemsize == 1 or not _DEQUANTISES.isdisjoint(graph.ending)


def _input(
    takes: Sequence[TensorSpec], wishes: Wishes, origins: dict[str, str], *, where: str
) -> Input:
    """Return what one sample is, so that every graph that ``takes`` it can be fed."""
    lines = _Lines("input.", origins)
    shape = tuple(extent or 0 for extent in wishes.shape or takes[0].shape[1:])
    if 0 in shape:
        raise ConfigError(
            f"the graph leaves it open: {shape_text(takes[0].shape)}",
            where=f"{where}: shape",
            hint="--shape gives that of one sample, such as 224,224,3",
        )
    is_image = _is_image(shape)
    guess = "guessed from the shape"
    lines.take("kind", "image" if is_image else "tensor", guess, wish=wishes.kind)
    lines.take("shape", shape, GRAPH, wish=wishes.shape)
    layout = ("HWC" if shape[-1] in _CHANNELS else "CHW") if is_image else None
    lines.take("layout", layout, guess, wish=wishes.layout)
    _values(takes, wishes, lines, where=where)
    lines.values["image"] = _image(lines.values, wishes, origins)
    return Input(**lines.values)


def _image(values: Mapping[str, Any], wishes: Wishes, origins: dict[str, str]) -> ImageInput | None:
    """Return how a picture becomes a sample; None: it is no picture that could become one."""
    if values["kind"] != "image" or values["dtype"] != "uint8" or len(values["shape"]) != 3:
        for key in ("fit", "resize"):
            if getattr(wishes, key) is not None:
                raise ConfigError("is for pictures of uint8", where=key)
        return None
    lines = _Lines("input.image.", origins)
    channels = values["shape"][0 if values["layout"] == "CHW" else -1]
    lines.take("colour", "grey" if channels == 1 else "rgb", "guessed from the shape")
    lines.take("fit", "stretch", DEFAULT, wish=wishes.fit)
    lines.take("resize", "bilinear", DEFAULT, wish=wishes.resize)
    return ImageInput(**lines.values)


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and min(shape) in _CHANNELS and _has_sides(shape)


def _has_sides(shape: tuple[int, ...]) -> bool:
    """Tell whether there are two sides as long as those of an image."""
    return sum(extent >= _LEAST_SIDE for extent in shape) == 2


def _values(takes: Sequence[TensorSpec], wishes: Wishes, lines: _Lines, *, where: str) -> None:
    """Take dtype, scale and offset: how samples become what the graphs are fed.

    Where all graphs take the samples' own dtype, they are fed as they are. Else they are
    fed float32, and what is quantised has to say what its integers stand for.
    """
    pixels, first = _pixels(takes), takes[0]
    dtype, origin = first.dtype.name, GRAPH
    if pixels is not None and _has_sides(lines.values["shape"]):
        dtype, origin = "uint8", f"guessed: the graph takes {pixels.low:g} to {pixels.high:g}"
    elif _scales(wishes):
        dtype, origin = "uint8", "guessed, since samples are scaled"
    elif dtype == "int64":
        dtype, origin = "int32", "since the graph takes int64, which it is made"
    lines.take("dtype", dtype, origin, wish=wishes.dtype)
    dtype = lines.values["dtype"]
    if dtype not in get_args(DType):
        known = ", ".join(get_args(DType))
        raise ModelError(f"takes {dtype}", where=where, hint=f"samples are {known}")
    scale, offset, origin = _scaling(dtype, takes, pixels, where=where, is_wished=_scales(wishes))
    lines.take("scale", scale, origin, wish=wishes.scale)
    lines.take("offset", offset, origin, wish=wishes.offset)


def _scales(wishes: Wishes) -> bool:
    return wishes.scale is not None or wishes.offset is not None


def _scaling(
    dtype: str,
    takes: Sequence[TensorSpec],
    pixels: _Pixels | None,
    *,
    where: str,
    is_wished: bool,
) -> tuple[float | None, float | None, str]:
    """Return scale and offset for samples of ``dtype``, and where they come from."""
    if is_wished or all(widened(np.dtype(dtype), one.dtype) == one.dtype for one in takes):
        return None, None, ""
    if dtype == "float32":  # what is quantised takes it too
        return None, None, ""
    if dtype == "float16":
        return 1.0, None, "since the graph takes float32"
    if dtype == "uint8" and pixels is not None:
        return pixels.scale, pixels.offset, "guessed from the graph's quantisation"
    stored = [one.quantisation for one in takes if one.dtype.name == dtype]
    if stored and stored[0] is not None:
        scale, zero_point = stored[0]
        return scale, float(zero_point), "from the graph's quantisation: what its integers mean"
    raise ConfigError(
        f"says how samples of {dtype} become what the graph takes, and is missing",
        where=f"{where}: scale",
        hint="--scale 1 for the numbers as they are, --scale 1/255 for 0 to 1",
    )


def _pixels(takes: Sequence[TensorSpec]) -> _Pixels | None:
    """Return the range of pixels that the first quantised graph is made for, if it is one."""
    for one in takes:
        if one.quantisation is None or one.dtype.itemsize > 1:
            continue
        scale, zero_point = one.quantisation
        least = -128 if one.dtype.kind == "i" else 0
        low, high = scale * (least - zero_point), scale * (least + 255 - zero_point)
        near = 1.5 * scale
        for pixels in _RANGES:
            if math.isclose(low, pixels.low, abs_tol=near) and math.isclose(
                high, pixels.high, abs_tol=near
            ):
                return pixels
        return None
    return None
