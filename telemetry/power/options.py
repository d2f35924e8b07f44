"""The table [telemetry.power] of a device's configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Choice = Literal["auto", "none", "ina", "rapl", "pmic", "battery", "nvml", "replay"]
Path = Annotated[str, Meta(min_length=1, max_length=4000, pattern=r"^[^\x00]+\Z")]
RateHz = Annotated[float, Meta(ge=0.1, le=100)]


class PowerOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which sensors are read, and how often.

    ``reader`` "auto" takes what the board's profile and the machine offer, and nothing where
    they offer nothing; one that is named must yield a reading. ``path`` is the recording that
    "replay" plays, from the configuration's folder; it is for nothing else. ``rate_hz`` is how
    often the sensors are read, less where they are not worth being read that often.
    """

    reader: Choice = "auto"
    path: Path | None = None
    rate_hz: RateHz = 10.0
