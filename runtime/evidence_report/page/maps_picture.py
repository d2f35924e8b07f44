"""The pictures that the edge is least and most sure of, and over each its uncertainty map."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ....models.evidence import Figures
from ....models.manifest import Input
from ...bench.page.svg import WIDTH, element, label, picture
from ..maps import EACH, Shown
from ..png import png, visible
from ..record import MapCase, Maps

_SIZE, _GAP, _TOP, _ROW = 100.0, 4.0, 26.0, 190.0
_TINT = (255, 120, 0)
_STRONGEST = 0.85  # how much of the tint covers the picture where u is 1


def maps_picture(found: Maps, shown: Sequence[Shown], spec: Input) -> str | None:
    """Return a tile for each case; None where there are no maps."""
    if not shown:
        return None
    content = []
    for row, named in enumerate(("least sure of", "surest of")):
        content.append(label(0, 14 + row * _ROW, named, class_="name"))
    for place, (case, one) in enumerate(zip(found.cases, shown, strict=True)):
        x = (place % EACH) * (WIDTH / EACH)
        content.extend(_tile(case, one, spec, x, _TOP + (place // EACH) * _ROW))
    return picture(content, height=_TOP + 2 * _ROW - 26, title="Uncertainty maps")


def _tile(case: MapCase, one: Shown, spec: Input, x: float, y: float) -> Iterator[str]:
    sample = visible(one.sample, layout=spec.layout)
    high, wide = sample.shape[:2]
    size = _SIZE / max(high, wide)
    for place in range(2):
        left = x + place * (_SIZE + _GAP)
        yield _image(png(sample), left, y, wide * size, high * size, class_="pixels")
    yield _image(png(_tint(one.map)), x + _SIZE + _GAP, y, wide * size, high * size, class_="map")
    yield label(x, y + _SIZE + 18, f"{_short(case.truth)}", class_="name")
    says = f"edge: {_short(case.edge)}"
    says += "" if case.cloud is None else f", cloud: {_short(case.cloud)}"
    yield label(x, y + _SIZE + 35, says, class_="small")
    asked = "" if not case.escalated else ", escalates"
    yield label(x, y + _SIZE + 52, f"u {case.uncertainty:.2f}{asked}", class_="small")


def _short(name: str) -> str:
    return name if len(name) <= 10 else f"{name[:9]}…"


def _image(data: bytes, x: float, y: float, width: float, height: float, *, class_: str) -> str:
    href = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return element(
        "image",
        href=href,
        x=x,
        y=y,
        width=width,
        height=height,
        preserveAspectRatio="none",
        class_=class_,
    )


def _tint(heat: Figures) -> NDArray[np.uint8]:
    """Return a map (H, W) in [0, 1] as a colour that covers as much as it is high."""
    tint = np.empty((*heat.shape, 4), np.uint8)
    tint[..., :3] = _TINT
    tint[..., 3] = np.rint(255 * _STRONGEST * heat)
    return tint
