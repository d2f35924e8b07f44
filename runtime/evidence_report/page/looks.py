"""What the line of each score looks like, the same in all pictures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..candidates import TITLES
from ..record import Curve, EvidenceReport

_REFERENCES = ("random", "oracle")
_LOOKS: Mapping[str, str] = MappingProxyType(
    {
        "vacuity": "line0",
        "max_prob": "line1",
        "temperature": "line1 dashed",
        "entropy": "line3",
        "margin": "line4",
        "p_norm": "line2",
        "router": "ink",
        "mc_dropout": "line3 dashed",
        "random": "chance",
        "oracle": "best",
    }
)


def look(name: str, *, own: bool) -> str:
    """Return the classes of a score's line: neighbours differ in hue, a rescaled one by dashes."""
    if name in _REFERENCES:
        return _LOOKS[name]
    return f"{_LOOKS[name]} {'own' if own else 'thin'}"


def titled(name: str, *, own: bool) -> str:
    """Return what a score is called in a legend."""
    return f"{TITLES[name]} (the bundle's)" if own else TITLES[name]


def in_order(found: EvidenceReport) -> list[Curve]:
    """Return the curves, references below, the bundle's own on top."""
    own = own_name(found)
    return sorted(found.curves, key=lambda one: (one.name == own, one.name not in _REFERENCES))


def own_name(found: EvidenceReport) -> str:
    """Return the name of the bundle's own score."""
    return next(one.name for one in found.scores if one.own)
