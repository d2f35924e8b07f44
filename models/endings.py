"""How a graph ends: whether an output is a softmax, and whether it was integers before."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

_FORMS = frozenset(  # they change the form of a tensor, not what it says
    {
        *("CAST", "DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE"),
        *("Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape"),
        "Squeeze",
    }
)


class Maker(NamedTuple):
    """The operator that makes a tensor, and the first tensor that it takes; None: none."""

    operator: str
    source: Hashable | None


def ending(output: Hashable, makers: Mapping[Hashable, Maker]) -> tuple[str, ...]:
    """Return the operators that end in ``output``, from there to the first that computes.

    Example:
        >>> makers = {"y": Maker("DEQUANTIZE", "p"), "p": Maker("SOFTMAX", "z")}
        >>> ending("y", makers)
        ('DEQUANTIZE', 'SOFTMAX')
    """
    found: list[str] = []
    at: Hashable | None = output
    while at in makers and len(found) < len(makers):  # a broken graph may go in circles
        maker = makers[at]
        found.append(maker.operator)
        if maker.operator not in _FORMS:
            break
        at = maker.source
    return tuple(found)
