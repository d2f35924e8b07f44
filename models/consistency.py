"""Whether a manifest agrees with itself and with its graphs, beyond its form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .archive import check_name
from .errors import BundleError, ModelError
from .evidence_head import FEATURES
from .graph import model_spec, shape_text, tensors
from .inputs.problems import input_problems
from .manifest import Budget, Calibration, Cloud, Edge, EvidenceHead, Head, Input, Manifest, Split
from .model import TensorSpec
from .prepare import fed_dtype, widened
from .scores import router_width

MANIFEST = "manifest.toml"
REFERENCE = 19
"""How many quantiles of its score a calibration keeps, if it keeps any."""


class Part(NamedTuple):
    """One model file of a bundle; ``outputs`` is the width of (B, outputs), if known.

    ``takes`` is what it is fed, where that is not the bundle's input.
    """

    role: str
    key: str
    file: str
    format: str
    outputs: int | None
    output_name: str | None = None
    takes: Input | None = None


def parts(manifest: Manifest) -> tuple[Part, ...]:
    """Return every model of the manifest, in its order: edges, filters, cloud, split."""
    classes = len(manifest.labels)
    edges = (
        Part(
            f"edge {edge.name}",
            f"$.edge[{place}]",
            edge.file,
            edge.format,
            classes,
            edge.output_name,
        )
        for place, edge in enumerate(manifest.edge)
    )
    filters = (
        Part(
            f"{part.kind} filter",
            f"$.filter[{place}]",
            part.file,
            part.format,
            1 if (part.kind, part.attach) == ("skip", "input") else None,
        )
        for place, part in enumerate(manifest.filter)
    )
    cloud = manifest.cloud
    last = () if cloud is None else (_cloud(cloud, "cloud", "$.cloud", classes=classes),)
    return (*edges, *filters, *last, *_halves(manifest.split, classes=classes))


def _cloud(cloud: Cloud, role: str, key: str, *, classes: int, takes: Input | None = None) -> Part:
    return Part(role, key, cloud.file, cloud.format, classes, cloud.output_name, takes)


def _halves(split: Split | None, *, classes: int) -> tuple[Part, ...]:
    if split is None:
        return ()
    here = Part("split", "$.split", split.file, split.format, split.width, split.output_name)
    there = _cloud(
        split.cloud, "split's cloud", "$.split.cloud", classes=classes, takes=split.features
    )
    return here, there


def check_manifest(manifest: Manifest, *, where: str) -> None:
    """Refuse a manifest that contradicts itself.

    Raises:
        BundleError: ``where`` is that of the manifest, and the dotted key.
    """
    for name in manifest.files:
        check_name(name, where=f"{where}: $.files")
    for key, what in _contradictions(manifest):
        raise BundleError(what, where=f"{where}: {key}")


def check_model(data: bytes, part: Part, spec: Input, *, where: str) -> None:
    """Refuse a model file that may not run, or that does not fit the manifest.

    Raises:
        ModelError: what is wrong with the graph at ``where``.
    """
    if part.outputs is None:
        tensors(data, format=part.format, where=where)
        return
    found = model_spec(data, format=part.format, output=part.output_name, where=where)
    _check_input(found.inputs[0], spec, where=where)
    width, given = part.outputs, found.outputs[0]
    of = "one filter logit" if width == 1 else f"the {width} {_columns(part)}"
    _check_tensor(given, (width,), what="output", of=of, where=where)


def _columns(part: Part) -> str:
    return "features" if part.role == "split" else "labels"


def _contradictions(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if not manifest.edge and manifest.cloud is None:
        yield "$", "neither an edge nor a cloud model"
    yield from _text(manifest)
    yield from _files(manifest)
    yield from _labels(manifest)
    yield from _choices(manifest)
    yield from _numbers(manifest)
    yield from input_problems(manifest.input)
    yield from _heads(manifest)


def _text(manifest: Manifest) -> Iterator[tuple[str, str]]:
    texts = {f"$.labels[{place}]": label for place, label in enumerate(manifest.labels)}
    texts |= {f"$.citations[{place}]": text for place, text in enumerate(manifest.citations)}
    texts["$.licence"] = manifest.licence
    if manifest.calibration is not None:
        texts["$.calibration.method"] = manifest.calibration.method
    if manifest.training is not None:
        texts["$.training.recipe"] = manifest.training.recipe
    if manifest.input.layout is not None:
        texts["$.input.layout"] = manifest.input.layout
    for key, text in texts.items():
        if not text.strip() or not text.isprintable():  # it is shown on terminals
            yield key, f"{text!r} is empty or not printable"


def _files(manifest: Manifest) -> Iterator[tuple[str, str]]:
    named = {f"{part.key}.file": part.file for part in parts(manifest)}
    if manifest.training is not None:
        named["$.training.seen"] = manifest.training.seen
    if manifest.input.tokenizer is not None:
        named["$.input.tokenizer"] = manifest.input.tokenizer
    for key, name in named.items():
        if name not in manifest.files:
            yield key, f"{name!r} is not listed in [files]"
    if MANIFEST in manifest.files:
        yield "$.files", f"{MANIFEST} cannot hold its own digest"


def _labels(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for twice in _twice(manifest.labels):
        yield "$.labels", f"{twice!r} is there twice"
    for twice in _twice(edge.name for edge in manifest.edge):
        yield "$.edge", f"two variants are called {twice!r}"
    for place, part in enumerate(manifest.filter):
        for label in part.redundant:
            if label not in manifest.labels:
                yield f"$.filter[{place}].redundant", f"{label!r} is none of the labels"
        if set(part.redundant) == set(manifest.labels):
            yield f"$.filter[{place}].redundant", "names every label: nothing would matter"


def _choices(manifest: Manifest) -> Iterator[tuple[str, str]]:
    names = [edge.name for edge in manifest.edge]
    boards = [(choice.board, choice.power_mode) for choice in manifest.choice]
    for place, choice in enumerate(manifest.choice):
        if choice.variant not in names:
            yield f"$.choice[{place}].variant", f"{choice.variant!r} is none of the variants"
        if boards[place] in boards[:place]:
            yield f"$.choice[{place}]", f"a second choice for {choice.board!r} in the same mode"


def _twice(names: Iterator[str] | tuple[str, ...]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def _numbers(manifest: Manifest) -> Iterator[tuple[str, str]]:
    numbers: dict[str, float | None] = {}
    if manifest.calibration is not None:
        for name in ("total", "epistemic", "aleatoric", "fusion_gain"):
            numbers[f"$.calibration.{name}"] = getattr(manifest.calibration, name)
    numbers |= {
        f"$.filter[{i}].threshold": part.threshold for i, part in enumerate(manifest.filter)
    }
    for key, number in numbers.items():
        if number is not None and not math.isfinite(number):
            yield key, f"{number} is not finite"
    if math.prod(manifest.input.shape) > 1 << 28:
        yield "$.input.shape", f"{manifest.input.shape} is beyond 2**28 values"


def _heads(manifest: Manifest) -> Iterator[tuple[str, str]]:
    models: dict[str, Edge | Cloud] = {f"$.edge[{i}]": one for i, one in enumerate(manifest.edge)}
    if manifest.cloud is not None:
        models["$.cloud"] = manifest.cloud
    if manifest.split is not None:
        models["$.split.cloud"] = manifest.split.cloud
    for key, model in models.items():
        if model.evidence is not None:
            yield from _evidence(model.evidence, model.head, key=key)
        elif model.head == "evidential" and model.output == "probabilities":
            yield f"{key}.head", "an evidential head needs output = 'logits'"
    calibration = manifest.calibration
    if calibration is None:
        return
    if not manifest.edge:
        yield "$.calibration", "there is no edge model to gate"
    if calibration.score == "vacuity" and any(e.head != "evidential" for e in manifest.edge):
        yield "$.calibration.score", "'vacuity' needs head = 'evidential' in every edge"
    if calibration.fusion and manifest.cloud is None:
        yield "$.calibration.fusion", "there is no cloud model to fuse with"
    yield from _gate(calibration, classes=len(manifest.labels))


def _gate(calibration: Calibration, *, classes: int) -> Iterator[tuple[str, str]]:
    """Yield what the score lacks, and what a promise or a budget does."""
    score, router, promise = calibration.score, calibration.router, calibration.promise
    for needed, given in (("temperature", calibration.temperature), ("router", router)):
        if given is None and score == needed:
            yield f"$.calibration.{needed}", f"is missing, which score = {needed!r} needs"
    if router is not None:
        wanted = router_width(classes)
        if len(router.weights) != wanted:
            yield "$.calibration.router.weights", f"{len(router.weights)} of them, not {wanted}"
        if not all(map(math.isfinite, (router.bias, *router.weights))):
            yield "$.calibration.router", "has a number that is not finite"
    if list(calibration.reference) != sorted(calibration.reference) or (
        calibration.reference and len(calibration.reference) != REFERENCE
    ):
        yield "$.calibration.reference", f"should be {REFERENCE} quantiles, rising"
    if promise is not None and (promise.by == "group") != (promise.groups is not None):
        yield "$.calibration.promise.groups", "goes with by = 'group' and with no other"
    if calibration.budget == Budget():
        yield "$.calibration.budget", "neither messages nor bytes"


def _evidence(table: EvidenceHead, head: Head, *, key: str) -> Iterator[tuple[str, str]]:
    if head != "evidential":
        yield f"{key}.evidence", f"makes an evidential head, and the head is said to be {head!r}"
    if len(table.weights) != len(FEATURES):
        yield f"{key}.evidence.weights", f"{len(table.weights)} of them, not {len(FEATURES)}"
    numbers = {f"weights[{i}]": weight for i, weight in enumerate(table.weights)}
    numbers |= {"bias": table.bias, "temperature": table.temperature}
    for name, number in numbers.items():
        if not math.isfinite(number):
            yield f"{key}.evidence.{name}", f"{number} is not finite"


def _check_input(tensor: TensorSpec, spec: Input, *, where: str) -> None:
    _check_tensor(tensor, spec.shape, what="input", of="$.input.shape", where=where)
    dtype = widened(fed_dtype(spec), tensor.dtype)
    if dtype == tensor.dtype or (dtype == np.float32 and tensor.quantisation is not None):
        return
    raise ModelError(
        f"input {tensor.name!r} is {tensor.dtype}, but is fed {dtype}",
        where=where,
        hint="see $.input.dtype, scale and offset of the manifest",
    )


def _check_tensor(
    tensor: TensorSpec, shape: tuple[int, ...], *, what: str, of: str, where: str
) -> None:
    """Refuse a tensor that is not (B, *shape), B free or 1; a free extent fits any."""
    batch, rest = tensor.shape[:1], tensor.shape[1:]
    fits = len(rest) == len(shape) and all(
        found in (None, wanted) for found, wanted in zip(rest, shape, strict=True)
    )
    if batch not in ((None,), (1,)) or not fits:
        found = shape_text(tensor.shape)
        wanted = shape_text((None, *shape))
        fixed = fits and batch
        raise ModelError(
            f"{what} {tensor.name!r} has the shape {found}, but {of} asks for {wanted}",
            where=where,
            hint="export the graph with a batch axis that is free, or 1" if fixed else None,
        )
