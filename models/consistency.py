"""Whether a manifest agrees with itself and with its graphs, beyond its form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .archive import check_name
from .errors import BundleError, ModelError
from .evidence_head import FEATURES
from .graph import model_spec, shape_text
from .inputs.problems import input_problems
from .manifest import (
    Budget,
    Calibration,
    Cloud,
    Edge,
    EvidenceHead,
    Head,
    Input,
    Manifest,
    Split,
)
from .model import TensorSpec
from .prepare import fed_dtype, widened
from .scores import router_width

MANIFEST = "manifest.toml"
REFERENCE = 19
"""How many quantiles of its score a calibration keeps, if it keeps any."""


class Part(NamedTuple):
    """One model file of a bundle; ``outputs`` is the width of (B, outputs), None: any.

    Any is that of a skip filter with one threshold for all that it gives, one a task.
    ``takes`` is what it is fed; None: the bundle's input.
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
            manifest.taken_by(edge),
        )
        for place, edge in enumerate(manifest.edge)
    )
    filters = (
        Part(
            f"{part.kind} filter",
            f"$.filter[{place}]",
            part.file,
            part.format,
            part.reuse.width if part.reuse is not None else len(part.thresholds) or None,
            takes=manifest.taken_by(part),
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
    found = model_spec(data, format=part.format, output=part.output_name, where=where)
    _check_input(found.inputs[0], spec, where=where)
    _check_tensor(found.outputs[0], (part.outputs,), what="output", of=_columns(part), where=where)


def _columns(part: Part) -> str:
    if part.outputs is None:
        return "a filter's logits, one a task"
    kinds = {
        "split": "features",
        "reuse filter": "values of a key ($.filter.reuse.width)",
        "skip filter": "thresholds ($.filter.thresholds)",
    }
    return f"the {part.outputs} {kinds.get(part.role, 'labels')}"


def _contradictions(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if not manifest.edge and manifest.cloud is None and manifest.split is None:
        yield "$", "neither an edge nor a cloud model"
    yield from _attached(manifest)
    yield from _text(manifest)
    yield from _files(manifest)
    yield from _labels(manifest)
    yield from _filters(manifest)
    yield from _choices(manifest)
    yield from _numbers(manifest)
    yield from input_problems(manifest.input)
    yield from _heads(manifest)


def _attached(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield what takes features that nothing makes."""
    parts = {f"$.edge[{place}]": edge.attach for place, edge in enumerate(manifest.edge)}
    parts |= {f"$.filter[{place}]": one.attach for place, one in enumerate(manifest.filter)}
    for key, attach in parts.items():
        if attach == "feature" and manifest.split is None:
            yield f"{key}.attach", "there is no [split], whose features it would take"


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


def _filters(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield which filter lacks its [reuse], or has one that it cannot have."""
    reusing = 0
    for place, part in enumerate(manifest.filter):
        key = f"$.filter[{place}].reuse"
        reusing += part.kind == "reuse"
        if part.kind == "reuse" and part.thresholds:
            yield f"$.filter[{place}].thresholds", "are for skip filters; a reuse filter has none"
        if part.kind == "skip" and part.reuse is not None:
            yield key, "is for reuse filters; a skip filter has a threshold"
        if part.kind == "reuse" and part.reuse is None:
            yield key, "is missing, which says when a reuse filter answers"
        if part.kind == "reuse" and reusing > 1:
            yield f"$.filter[{place}].kind", "a second reuse filter, where one knows all answers"


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
    } | {
        f"$.filter[{i}].thresholds[{task}]": threshold
        for i, part in enumerate(manifest.filter)
        for task, threshold in enumerate(part.thresholds)
    }
    for key, number in numbers.items():
        if number is not None and not math.isfinite(number):
            yield key, f"{number} is not finite"
    split = manifest.split
    if split is not None and split.shape and math.prod(split.shape) != split.width:
        extents = "x".join(map(str, split.shape))
        size = math.prod(split.shape)
        yield (
            "$.split.shape",
            f"{extents} are {size} values, not the {split.width} of $.split.width",
        )
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
    if calibration.budget is not None:
        yield from _budget(calibration.budget)


def _budget(budget: Budget) -> Iterator[tuple[str, str]]:
    given = (budget.messages_per_hour, budget.bytes_per_hour)
    if given == (None, None):
        yield "$.calibration.budget", "neither messages nor bytes"
    elif None not in given:
        yield "$.calibration.budget", "is of messages or of bytes, not of both"


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
    tensor: TensorSpec, shape: tuple[int | None, ...], *, what: str, of: str, where: str
) -> None:
    """Refuse a tensor that is not (B, *shape), B free or 1; an extent that is free fits any."""
    batch, rest = tensor.shape[:1], tensor.shape[1:]
    fits = len(rest) == len(shape) and all(
        wanted is None or found in (None, wanted) for found, wanted in zip(rest, shape, strict=True)
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
