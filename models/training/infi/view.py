"""What of a sample a filter sees, and as what: a modality, or several side by side."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from ...errors import ConfigError
from ...manifest import Input

Modality = Literal["text", "image", "video", "audio", "vector", "feature"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

_VIEW = re.compile(r"([a-z]+)(?:\[([\d:, ]{1,64})\])?\Z")
_SLICE = re.compile(r"\s*(\d{0,9})\s*:\s*(\d{0,9})\s*\Z")
_COLOURS = (1, 3, 4)


class View(NamedTuple):
    """A part of the sample, ``cut`` out of it, that is seen as ``modality``.

    ``shape`` is that of the part, without the batch axis, in the sample's ``layout``.
    """

    modality: Modality
    shape: tuple[int, ...]
    layout: str | None = None
    cut: tuple[slice, ...] = ()

    @property
    def is_series(self) -> bool:
        """Whether it is channels over time, which the net looks at as such.

        One channel is, if the layout says so; else it is a vector.
        """
        if self.modality != "vector" or len(self.shape) != 2:
            return False
        return min(self.shape) > 1 or self.layout in ("CT", "TC")


def as_map(seen: View, shape: tuple[int, ...]) -> View:
    """Return a view of all features as the map (C, H, W) that they were before they lay flat.

    ``shape`` is that of the map; of one place only, or of other axes, they stay as they are.
    """
    if seen.modality != "feature" or seen.cut or len(shape) != 3 or max(shape[1:]) < 2:
        return seen
    return seen._replace(shape=shape, layout="CHW")


def views(texts: tuple[str, ...], spec: Input) -> tuple[View, ...]:
    """Return what ``texts`` say is seen of a sample; without any, its own modality.

    Each is the name of a modality, with a slice for each axis where it is only a part:
    ``vector[0:6]``, ``image[:,:,0:3]``.

    Raises:
        ConfigError: one is no modality, or none that such a sample can be seen as.
    """
    if not texts:
        return (_checked(View(_own(spec), spec.shape, spec.layout)),)
    found = tuple(_checked(_view(text, spec)) for text in texts)
    if spec.dtype.startswith("float") and any(one.modality == "text" for one in found):
        raise ConfigError(
            f"samples of {spec.dtype} cannot be seen as text, which is made of whole numbers",
            where="--modality",
            hint="leave it out, and it is taken from the bundle's input",
        )
    return found


def _own(spec: Input) -> Modality:
    """Return the modality that a sample is of by itself."""
    extents = [extent for extent in spec.shape if extent > 1]
    if spec.kind == "text":
        return "text"
    if spec.kind == "image":
        return "image"
    if spec.kind == "audio" and len(extents) == 2:
        return "audio"
    if len(spec.shape) == 4:
        return "video"
    if len(spec.shape) == 3 and len(extents) == 3:
        first, middle, last = spec.shape
        colours = last in _COLOURS and last < min(first, middle)
        return (
            "image" if colours or (first in _COLOURS and first < min(middle, last)) else "feature"
        )
    return "audio" if len(spec.shape) == 3 and len(extents) == 2 else "vector"


def _view(text: str, spec: Input) -> View:
    found = _VIEW.match(text.strip())
    name = next((one for one in MODALITIES if found and found[1] == one), None)
    if found is None or name is None:
        raise ConfigError(
            f"{text!r} is no modality",
            where="--modality",
            hint=f"{', '.join(MODALITIES)}; a part of the sample as vector[0:6]",
        )
    if found[2] is None:
        return View(name, spec.shape, spec.layout)
    cut = tuple(_slice(part, text) for part in found[2].split(","))
    if len(cut) > len(spec.shape):
        raise ConfigError(
            f"{text!r} has {len(cut)} axes, the sample is {spec.shape}", where="--modality"
        )
    if any((one.stop or 0) > extent for one, extent in zip(cut, spec.shape, strict=False)):
        raise ConfigError(
            f"{text!r} goes beyond the sample, which is {spec.shape}",
            where="--modality",
            hint="a slice for each axis, the first one first",
        )
    rest = spec.shape[len(cut) :]
    kept = tuple(
        len(range(*one.indices(extent))) for one, extent in zip(cut, spec.shape, strict=False)
    )
    if 0 in kept:
        raise ConfigError(
            f"{text!r} leaves nothing of the sample, which is {spec.shape}", where="--modality"
        )
    return View(name, (*kept, *rest), spec.layout, cut)


def _slice(part: str, text: str) -> slice:
    found = _SLICE.match(part)
    if found is None:
        raise ConfigError(
            f"{part!r} in {text!r} is no BEGIN:END", where="--modality", hint="as in vector[0:6]"
        )
    begin, end = (int(one) if one else None for one in found.groups())
    return slice(begin, end)


def _checked(view: View) -> View:
    """Return the view, if its net takes such a shape."""
    extents = [extent for extent in view.shape if extent > 1]
    fits = {
        "text": len(view.shape) == 1,
        "image": len(view.shape) in (2, 3) and len(extents) >= 2,
        "audio": len(extents) == 2,
        "video": len(view.shape) in (3, 4) and view.shape[0] > 1,
        "vector": True,
        "feature": len(view.shape) in (1, 3),
    }[view.modality]
    if not fits:
        raise ConfigError(
            f"samples of shape {view.shape} cannot be seen as {view.modality}",
            where="--modality",
            hint="leave it out, and it is taken from the bundle's input",
        )
    return view
