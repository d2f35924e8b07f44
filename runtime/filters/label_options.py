"""How many of the samples that a filter judges the far end is asked about, and which."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class LabelOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Labels by which `hedge filter update` teaches a filter anew (PAPERS: InFi, active update).

    The ``share`` of samples is sent to the far end as asks of kind "label", though nobody waits for
    the answers: ``most_per_hour`` of them at most, for each filter. Of that the part ``by_lot`` is
    drawn from all samples, since a shifted filter can be sure and wrong; the rest is what the
    filter is least certain of among the last 1000 that it has judged.
    """

    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    by_lot: Annotated[float, Meta(ge=0, le=1)] = 0.5
    most_per_hour: Annotated[int, Meta(ge=0, le=1_000_000)] = 60
