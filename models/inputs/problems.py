"""Whether an input's tables agree with its shape, dtype and layout."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..manifest import Input
from .audio import audio_problems
from .image import image_problems
from .tensor import tensor_problems
from .text import text_problems

_TABLES = ("image", "audio", "tensor", "text")


def input_problems(spec: Input) -> Iterator[tuple[str, str]]:
    """Yield what cannot be in [input]: the manifest's key, and what is wrong there."""
    for name in _TABLES:
        if name != spec.kind and getattr(spec, name) is not None:
            yield f"$.input.{name}", f"the input's kind is {spec.kind!r}"
    yield from _factors(spec)
    match spec.kind:
        case "image":
            yield from image_problems(spec)
        case "audio":
            yield from audio_problems(spec)
        case "tensor":
            yield from tensor_problems(spec)
        case "text":
            yield from text_problems(spec)


def _factors(spec: Input) -> Iterator[tuple[str, str]]:
    for name, value in (("scale", spec.scale), ("offset", spec.offset)):
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if isinstance(value, tuple):
            yield from _each_channel(spec, name, len(value))
        for one in values:
            if not math.isfinite(one):
                yield f"$.input.{name}", f"{one} is not finite"
        if name == "scale" and 0 in values:
            yield "$.input.scale", "0 would make all samples the same"


def _each_channel(spec: Input, name: str, count: int) -> Iterator[tuple[str, str]]:
    if spec.kind != "image" or len(spec.shape) != 3:
        yield f"$.input.{name}", "only an image of 3 axes has one for each channel"
        return
    channels = spec.shape[0 if spec.layout == "CHW" else 2]
    if count != channels:
        yield f"$.input.{name}", f"{count} numbers for {channels} channels"
