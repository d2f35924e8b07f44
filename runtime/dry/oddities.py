"""What looks wrong with what a stream has seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...models.manifest import Input
from .look import Facts, Look

_FEW, _SOME = 3, 5  # samples, before they are called all the same
_DARK, _BRIGHT = 10.0, 245.0
_SILENT = 1e-4
_CLIPPED, _AT_LIMITS = 0.01, 0.2
_FAR = 30.0  # times what a scaled channel is made to be about


def oddities(
    looks: Sequence[Look], facts: Sequence[Facts], spec: Input, *, overrun: int
) -> Iterator[str]:
    """Yield what a person should look into, a line each."""
    failed = [one for one in looks if one.would == "fail"]
    if failed:
        yield f"{len(failed)} of {len(looks)} failed, the last so: {failed[-1].why}"
    if facts:
        yield from _of_numbers(facts, spec)
    judged = [one for one in looks if one.label is not None]
    labels = {one.label for one in judged}
    if len(judged) >= _SOME and len(labels) == 1:
        yield f"all {len(judged)} are {labels.pop()!r}: is that so?"
    if len(judged) >= _SOME and all(one.would.startswith("ask") for one in judged):
        yield "every one would be asked: are these samples like those it was calibrated on?"
    if overrun:
        yield f"{overrun} captures gave way to later ones: the model takes longer than they come"


def _of_numbers(facts: Sequence[Facts], spec: Input) -> Iterator[str]:
    broken = sum(not one.finite for one in facts)
    if broken:
        yield f"{broken} samples hold NaN or Inf"
    if _is_silent(facts):
        yield "nothing but silence: is the microphone muted?"
    elif all(one.low == one.high for one in facts):
        what = (
            "picture is of one colour: is the lens covered?"
            if spec.kind == "image"
            else "sample is one number throughout: is the sensor connected?"
        )
        yield f"every {what}"
    elif len(facts) >= _FEW and len({one.digest for one in facts}) == 1:
        yield "every sample is the same: does the source stand still?"
    elif spec.kind == "image" and spec.dtype == "uint8":
        yield from _of_light(facts)
    clipped = max(one.clipped for one in facts)
    if clipped > _CLIPPED:
        yield f"up to {clipped:.0%} of a window is at full scale: turn the microphone down"
    yield from _of_range(facts, spec)


def _of_light(facts: Sequence[Facts]) -> Iterator[str]:
    if all(one.mean < _DARK for one in facts):
        yield "the pictures are all but black"
    elif all(one.mean > _BRIGHT for one in facts):
        yield "the pictures are all but white"


def _is_silent(facts: Sequence[Facts]) -> bool:
    """Return whether all that was captured is sound, and none of it can be heard."""
    return all(one.peak is not None and one.peak < _SILENT for one in facts)


def _of_range(facts: Sequence[Facts], spec: Input) -> Iterator[str]:
    limits = max(one.limits for one in facts)
    if spec.kind == "tensor" and limits > _AT_LIMITS:
        yield f"up to {limits:.0%} of a sample is at the ends of {spec.dtype}: is it cut off there?"
    if spec.tensor is None:
        return
    for place, name in enumerate(spec.tensor.channels):
        largest = max((one.largest[place] for one in facts if one.largest), default=0.0)
        if largest > _FAR:
            yield (
                f"{name} comes to {largest:.3g} after scaling, where a model expects a few units: "
                "are its unit and its place among the channels right?"
            )
