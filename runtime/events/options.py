"""Events and their clips, as the configuration says them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ...models.manifest import Name

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Few = Annotated[int, Meta(ge=1, le=10_000)]


class ClipOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept around an event: from ``pre_s`` before it to ``post_s`` after it.

    Of the event itself no more than ``max_s`` is, and a clip is no larger than ``max_bytes``; what
    is beyond that is cut off at its end. They are in ``path``, below the state directory where it
    is not absolute. All clips of the stream there are no larger than ``keep_bytes`` and no older
    than ``keep_days``: the oldest go, of whatever rule. In memory are the seconds of a whole clip,
    or twice its bytes.
    """

    pre_s: Seconds = 3.0
    post_s: Seconds = 3.0
    max_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    max_bytes: Annotated[int, Meta(ge=1 << 12, le=1 << 32)] = 16 << 20
    keep_bytes: Annotated[int, Meta(ge=1 << 12, le=1 << 44)] = 1 << 30
    keep_days: Annotated[float, Meta(gt=0, le=36_500)] = 7.0
    path: Annotated[str, Meta(min_length=1, max_length=4000, pattern=r"^[^\x00]+\Z")] = "clips"


class EventRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When outcomes of a stream are an event: ``[[stream.event]]``.

    It opens when in ``k`` of the last ``n`` answered samples one of ``labels`` had a
    probability of at least ``enter``; it closes when in none of the last ``n`` one had
    ``leave``, or after ``max_s``. For ``cooldown_s`` after that it does not open again.
    ``separate``: each label opens events of its own. What counts is each sample's final answer,
    in the order in which the answers come.
    """

    name: Name
    labels: Annotated[tuple[str, ...], Meta(min_length=1)]
    k: Few = 1
    n: Few = 1
    enter: Share = 0.5
    leave: Share = 0.5
    cooldown_s: Seconds = 0.0
    max_s: Seconds | None = None
    separate: bool = False
    clip: ClipOptions | None = None
