"""What a gate has learnt, so that another one can go on from it after a restart."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Held = tuple[tuple[float, ...], ...]


class KeeperMemory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a `PromiseKeeper` knows: where its gate stands, and what speaks for each rung.

    ``rows`` and ``wrong`` are since the change, ``searched_rows`` and ``searched_wrong`` since
    the gate was tightened; ``fails`` and ``holds`` are the detectors'; ``stood`` is the rung from
    which the gate went up to where it is (-1: none).
    """

    at: Annotated[int, Meta(ge=-1)]
    why: str | None
    rows: tuple[Count, ...]
    wrong: tuple[Count, ...]
    searched_rows: tuple[Count, ...]
    searched_wrong: tuple[Count, ...]
    next_look: Count
    on_trial: bool
    suspicion: Annotated[float, Meta(ge=0)]
    fails: Held
    holds: Held
    stood: Annotated[int, Meta(ge=-1)] = -1


class GateMemory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a `Gate` knows: ``keeper`` of the promise, and the audit's ``rows`` and ``wrong``."""

    keeper: KeeperMemory | None
    rows: Count
    wrong: Count
