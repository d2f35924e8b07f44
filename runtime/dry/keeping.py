"""What a stream has seen, as files that a person can look at or listen to."""

from __future__ import annotations

import importlib
import io
import wave
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ConfigError
from ...models.manifest import Input
from ...telemetry.whole_file import write_whole
from ..checks.places import why_no_folder
from ..sources.source import Captured
from .look import Taken

_LARGEST = 320  # pixels of a captured picture that are kept
_FULL = 32767


class Keeping:
    """Writes into ``folder``, which is made with the first file.

    Raises:
        ConfigError: nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        why = why_no_folder(folder)
        if why is not None:
            raise ConfigError(why, where=str(folder), hint="--folder names another")
        self._folder = folder

    def keep(self, stream: str, taken: Taken, spec: Input) -> tuple[str, ...]:
        """Write what there is to show of one sample; return the files' names.

        Raises:
            OSError: it cannot be written; nothing half-written stays.
        """
        names: list[str] = []
        for end, data in _shown(taken, spec):
            name = f"{stream}-{taken.look.number:03d}{end}"
            write_whole(self._folder / name, data)
            names.append(name)
        return tuple(names)


def _shown(taken: Taken, spec: Input) -> Iterator[tuple[str, bytes]]:
    """Yield the end of a file's name, and its content."""
    captured, sample = taken.captured, taken.sample
    if captured is None or sample is None:
        return
    match spec.kind:
        case "image":
            yield from _pictures(captured, sample, spec)
        case "audio":
            yield from _sound(captured, sample)
        case "tensor":
            channels = () if spec.tensor is None else spec.tensor.channels
            yield from _numbers(captured.data, channels)
        case "text":
            pass  # it stands in the table


def _pictures(captured: Captured, sample: NDArray[Any], spec: Input) -> Iterator[tuple[str, bytes]]:
    seen = _as_picture(sample, spec)
    if seen is None or find_spec("PIL") is None:
        yield from _numbers(sample, ())
        return
    yield ".png", _png(seen)
    if captured.data.ndim == 3 and captured.data is not sample:
        yield "-captured.png", _png(captured.data, largest=_LARGEST)


def _as_picture(sample: NDArray[Any], spec: Input) -> NDArray[np.uint8] | None:
    """Return what the model sees as (h, w) or (h, w, 3) in RGB; None: it is no picture."""
    if sample.dtype != np.uint8 or sample.ndim not in {2, 3}:
        return None
    picture = np.moveaxis(sample, 0, -1) if spec.layout == "CHW" and sample.ndim == 3 else sample
    if picture.ndim == 3 and picture.shape[-1] == 1:
        picture = picture[..., 0]
    if picture.ndim == 3 and picture.shape[-1] != 3:
        return None
    is_bgr = spec.image is not None and spec.image.colour == "bgr"
    return np.ascontiguousarray(picture[..., ::-1] if is_bgr and picture.ndim == 3 else picture)


def _png(picture: NDArray[Any], *, largest: int | None = None) -> bytes:
    pillow: Any = importlib.import_module("PIL.Image")
    image, out = pillow.fromarray(picture), io.BytesIO()
    if largest is not None:
        image.thumbnail((largest, largest))
    image.save(out, format="PNG")
    return out.getvalue()


def _sound(captured: Captured, sample: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    rate_hz = (captured.meta or {}).get("sample_rate_hz")
    if rate_hz is None or captured.data.ndim != 1:
        yield from _numbers(sample, ())
        return
    whole = np.clip(np.rint(captured.data * (_FULL + 1)), -_FULL - 1, _FULL)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(round(rate_hz))
        file.writeframes(whole.astype("<i2").tobytes())
    yield ".wav", out.getvalue()


def _numbers(rows: NDArray[Any], channels: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield rows as CSV, with the channels' names; what has more axes as .npy."""
    out = io.BytesIO()
    if rows.ndim > 2:
        np.save(out, rows, allow_pickle=False)
        yield ".npy", out.getvalue()
        return
    table = np.atleast_2d(rows)
    header = ",".join(channels) if len(channels) == table.shape[1] else ""
    np.savetxt(out, table, fmt="%.9g", delimiter=",", header=header, comments="")
    yield ".csv", out.getvalue()
