"""What a stream's gate keeps to, and how much of what it lets pass is audited."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class GateOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may move a stream's gate away from where calibration has put it.

    ``messages_per_hour`` or ``bytes_per_hour``, 1 or more, is a budget that the gate is moved to
    hold (None: the bundle's own, if it has one; 0: none), ``promise`` whether the gate is
    tightened when the bundle's promise fails, ``drift`` whether the scores are compared with
    those of calibration.
    """

    messages_per_hour: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    bytes_per_hour: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    promise: bool = True
    drift: bool = True


class AuditOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the error of the edge's confident answers is measured while it serves.

    ``share`` of the samples is drawn at random; of those that the edge answers alone the cloud is
    asked, too, though nobody waits for it, for ``most_per_hour`` of them at most. ``truth`` is
    what an answer is held against: the cloud's, or labels that somebody sends.
    """

    share: Annotated[float, Meta(ge=0, le=1)] = 0.001
    most_per_hour: Annotated[int, Meta(ge=0, le=1_000_000)] = 60
    truth: Literal["cloud", "label"] = "cloud"


def is_audited(options: AuditOptions, *, shared: bool) -> bool:
    """Return whether anything is audited, where samples are ``shared`` with the cloud or not."""
    if options.truth == "label":
        return options.share > 0
    return options.share > 0 and options.most_per_hour > 0 and shared
