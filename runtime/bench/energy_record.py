"""What a sample cost in joules, as `hedge bench run` tells it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from ...telemetry.energy.figures import NOT_RESOLVABLE

PerSample = float | Literal["not resolvable"]


class Energy(Struct, frozen=True, kw_only=True):
    """Joules of one sample, in windows of ``window_s`` together that served ``samples``.

    ``source`` names the sensor, ``replayed`` says that its values were recorded elsewhere.
    ``windows_j`` are the joules a sample of each window, net of the power of the idle window
    right before (``idle_windows_w``, their mean ``idle_w``);
    ``low_j`` and ``high_j`` the 95 % interval of their
    mean. ``resolution_j`` is what the sensor's step makes of one sample, ``coverage`` (0 to
    1) the share of the windows between readings that count. ``per_sample_j`` is "not
    resolvable" where the mean is below the resolution, or its interval holds zero.
    """

    per_sample_j: PerSample
    source: str
    window_s: float
    samples: int
    low_j: float | None = None
    high_j: float | None = None
    windows_j: tuple[float, ...] = ()
    coverage: float | None = None
    resolution_j: float | None = None
    idle_w: float | None = None
    idle_windows_w: tuple[float, ...] = ()
    busy_w: float | None = None
    replayed: bool = False

    @property
    def joules(self) -> float | None:
        """The joules of one sample; None where they cannot be told."""
        return None if self.per_sample_j == NOT_RESOLVABLE else float(self.per_sample_j)
