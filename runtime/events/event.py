"""An event, as every sink gets it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


def _is(description: str) -> Meta:
    return Meta(description=description)


class Clip(Struct, frozen=True, omit_defaults=True):
    """What was kept of the time around an event; without ``path`` nothing was, and why."""

    path: Annotated[str | None, _is("The file, on the device.")] = None
    bytes: Annotated[int, _is("Its size.")] = 0
    why: Annotated[str | None, _is("Why there is none.")] = None


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that began and ends: told when it opens, when it closes, and when its clip is kept.

    All three have the same id, which no other event of the device ever has.
    """

    event: Annotated[str, _is("The name of the rule that saw it, or drift.")]
    stream: Annotated[str, _is("The stream that it was seen in.")]
    id: Annotated[str, _is("The event's id.")]
    state: Annotated[Literal["opened", "closed", "clip"], _is("What is told of it.")]
    label: Annotated[str, _is("The label that opened it; of drift the score.")]
    opened_at_s: Annotated[float, _is("When the first sample that opened it was taken: Unix time.")]
    closed_at_s: Annotated[float | None, _is("When the last that held it open was taken.")] = None
    samples: Annotated[
        tuple[str, ...], _is("The ids of the samples that opened it, or the last that held it.")
    ] = ()
    count: Annotated[int, _is("How many samples have held it open so far.")] = 0
    peak: Annotated[float | None, _is("The highest probability of its labels.")] = None
    why: Annotated[str | None, _is("Why it closed: quiet, too_long, stopped, source.")] = None
    clip: Annotated[Clip | None, _is("What was kept of it.")] = None
    statistic: Annotated[
        float | None, _is("Of drift: the population stability index of the stream's scores.")
    ] = None
