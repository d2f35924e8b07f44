"""Prometheus' text format 0.0.4: families of samples, and how they are written.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Kind = Literal["counter", "gauge", "histogram", "summary"]
_TEXT = str.maketrans({"\\": r"\\", "\n": r"\n"})
_LABEL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Family(Struct, frozen=True):
    """One metric: its name, its kind, a sentence about it, and the labels that it may have."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


class Exposition:
    """Gathers samples and writes them by family, in the order in which the families came.

    A value of None is left out, and so is a label of None: what is missing is never 0. A
    family without a sample is not written at all.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[Family, list[str]]] = {}

    def add(self, family: Family, value: float | None, **labels: str | None) -> None:
        """Add one sample of a counter or a gauge."""
        shown = _shown(family, labels)
        if value is not None:
            self._add(family, "", shown, value)

    def add_histogram(
        self,
        family: Family,
        *,
        bounds: Sequence[float],
        below: Sequence[int],
        count: int,
        total: float,
        **labels: str | None,
    ) -> None:
        """Add a histogram: ``below`` (n,) counts what is at most each of ``bounds`` (n,)."""
        shown = _shown(family, labels)
        for bound, reached in zip(bounds, below, strict=True):
            self._add(family, "_bucket", [*shown, f'le="{bound:.9g}"'], reached)
        self._add(family, "_bucket", [*shown, 'le="+Inf"'], count)
        self._add(family, "_sum", shown, total)
        self._add(family, "_count", shown, count)

    def add_summary(
        self,
        family: Family,
        quantiles: Sequence[tuple[float, float | None]],
        *,
        count: int,
        total: float,
        **labels: str | None,
    ) -> None:
        """Add a summary: its quantiles by share (0 to 1); one of None is "not a number"."""
        shown = _shown(family, labels)
        for share, value in quantiles:
            known = math.nan if value is None else value
            self._add(family, "", [*shown, f'quantile="{share:g}"'], known)
        self._add(family, "_sum", shown, total)
        self._add(family, "_count", shown, count)

    def text(self) -> str:
        """Return everything added so far, each family with its HELP and its TYPE."""
        lines = []
        for family, samples in self._found.values():
            lines.append(f"# HELP {family.name} {family.help.translate(_TEXT)}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines += samples
        return "\n".join([*lines, ""])

    def _add(self, family: Family, suffix: str, shown: Sequence[str], value: float) -> None:
        samples = self._found.setdefault(family.name, (family, []))[1]
        braced = f"{{{','.join(shown)}}}" if shown else ""
        samples.append(f"{family.name}{suffix}{braced} {_number(value)}")


def _shown(family: Family, labels: Mapping[str, str | None]) -> list[str]:
    """Return the labels as they are written."""
    unknown = labels.keys() - set(family.labels)
    if unknown:
        raise ValueError(f"{family.name} has no label {', '.join(sorted(unknown))}")
    return [
        f'{name}="{text.translate(_LABEL)}"' for name, text in labels.items() if text is not None
    ]


def _number(value: float) -> str:
    """Return a number as Go reads it, with all its digits."""
    if isinstance(value, int):  # a bool is 0 or 1
        return str(int(value))
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
