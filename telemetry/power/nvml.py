"""What NVIDIA's GPUs use, by the driver's library NVML; on a Jetson it cannot say.

The energy counter (millijoules since the driver was loaded; Volta and later) is taken where all
GPUs have it, else their power (milliwatts, on newer GPUs the mean of a second). All GPUs that the
driver shows count, whichever of them hedge works on.

Sources: NVML API reference, nvmlDeviceGetTotalEnergyConsumption and nvmlDeviceGetPowerUsage;
nvidia-ml-py, whose module is `pynvml`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from ...models.errors import ConfigError, MissingExtraError
from .reader import Kind, PowerSource

MAX_GPUS = 16
_FASTEST_HZ = 10.0  # chosen: the counters move some ten to a hundred times a second
_HINT = 'a Jetson\'s GPU is measured by `reader = "ina"`; docs/power.md'


class Nvml(Protocol):
    """What is used of `pynvml`, named as it is there."""

    @property
    def NVMLError(self) -> type[Exception]:  # noqa: N802 -- the library's name
        """What every call may raise."""

    def nvmlInit(self) -> None:  # noqa: N802 -- the library's name
        """Open the driver's library."""

    def nvmlShutdown(self) -> None:  # noqa: N802 -- the library's name
        """Close it, once for each time that it was opened."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 -- the library's name
        """Return how many GPUs there are."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802, ANN401 -- a ctypes pointer
        """Return what names a GPU to the other calls."""

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:  # noqa: N802, ANN401 -- a ctypes pointer
        """Return millijoules since the driver was loaded."""

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802, ANN401 -- a ctypes pointer
        """Return milliwatts."""


class NvmlReader:
    """Reads the counter, or the power, of each GPU."""

    def __init__(self, library: Nvml, handles: list[Any], *, kind: Kind) -> None:
        self._library = library
        self._handles = handles
        self._before: list[int | None] = [None] * len(handles)
        self._is_closed = False
        names = tuple(f"gpu{place}" for place in range(len(handles)))
        self.source = PowerSource(
            name="nvml",
            kind=kind,
            rails=names,
            total=names,
            scope="gpu",
            fastest_hz=_FASTEST_HZ,
        )

    def read(self) -> tuple[float | None, ...]:
        """Return watts, or joules since the read before, of each GPU."""
        if self._is_closed:
            return (None,) * len(self._handles)
        ask = _question(self._library, self.source.kind)
        now = [_answer(self._library, ask, handle) for handle in self._handles]
        if self.source.kind == "power":
            return tuple(None if milliwatts is None else milliwatts / 1e3 for milliwatts in now)
        before, self._before = self._before, now
        return tuple(_used_j(*states) for states in zip(before, now, strict=True))

    def close(self) -> None:
        """Close the library."""
        if not self._is_closed:
            self._is_closed = True
            _shut(self._library)


def open_nvml(library: Nvml | None = None) -> NvmlReader:
    """Return the reader of all GPUs; ``library`` stands for `pynvml`.

    Raises:
        MissingExtraError: nvidia-ml-py is not installed.
        ConfigError: there is no driver or GPU, or one says neither energy nor power.
    """
    used = _load() if library is None else library
    try:
        used.nvmlInit()
    except used.NVMLError as error:
        _refuse(error)
    try:
        count = used.nvmlDeviceGetCount()
        handles = [used.nvmlDeviceGetHandleByIndex(place) for place in range(count)]
        return NvmlReader(used, handles, kind=_kind(used, handles))
    except used.NVMLError as error:
        _shut(used)
        _refuse(error)
    except ConfigError:
        _shut(used)
        raise


def _load() -> Nvml:
    try:
        module: Any = importlib.import_module("pynvml")
    except ImportError as error:
        raise MissingExtraError("nvidia-ml-py", extra="nvml") from error
    found: Nvml = module
    return found


def _refuse(error: Exception) -> NoReturn:
    raise ConfigError(f"NVML says: {error}", where="nvml", hint=_HINT) from error


def _shut(library: Nvml) -> None:
    with contextlib.suppress(library.NVMLError):
        library.nvmlShutdown()


def _kind(library: Nvml, handles: list[Any]) -> Kind:
    """Return what every GPU can say."""
    if not 0 < len(handles) <= MAX_GPUS:
        raise ConfigError(f"{len(handles)} GPUs, not 1 to {MAX_GPUS}", where="nvml")
    for kind in ("energy", "power"):
        chosen: Kind = "energy" if kind == "energy" else "power"
        ask = _question(library, chosen)
        if all(_answer(library, ask, handle) is not None for handle in handles):
            return chosen
    raise ConfigError(
        "not every GPU says its energy or its power (NVML: Not Supported)",
        where="nvml",
        hint=_HINT,
    )


def _question(library: Nvml, kind: Kind) -> Callable[[Any], int]:
    energy, power = library.nvmlDeviceGetTotalEnergyConsumption, library.nvmlDeviceGetPowerUsage
    return energy if kind == "energy" else power


def _answer(library: Nvml, ask: Callable[[Any], int], handle: Any) -> int | None:  # noqa: ANN401 -- a ctypes pointer
    try:
        return ask(handle)
    except library.NVMLError:
        return None


def _used_j(before: int | None, now: int | None) -> float | None:
    """Return the joules between two counts; None where one is missing or it was set back."""
    if before is None or now is None or now < before:
        return None
    return (now - before) / 1e3
