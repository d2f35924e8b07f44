"""What `hedge bench run` found, as it stands in its JSON."""

from __future__ import annotations

from msgspec import Struct

from .accuracy import Accuracy
from .latency import Latency, Ratio
from .machine import Machine
from .opening import Opening

FORMAT = 1


class Energy(Struct, frozen=True, kw_only=True):
    """Joules of one sample, integrated over ``window_s`` in which ``samples`` were served.

    ``source`` names the sensor.
    """

    per_sample_j: float
    source: str
    window_s: float
    samples: int


class Measured(Struct, frozen=True, kw_only=True):
    """One variant with so many threads; ``sha256`` is that of its model file.

    ``runs_on`` is the backend that was timed, ``ratio`` that to the first of the report.
    ``accuracy`` is None without data, ``energy`` without a power source.
    """

    variant: str
    threads: int
    sha256: str
    precision: str
    runs_on: str
    opening: Opening
    latency: Latency
    ratio: Ratio
    accuracy: Accuracy | None
    energy: Energy | None


class Failed(Struct, frozen=True, kw_only=True):
    """A variant that could not be measured, and why."""

    variant: str
    threads: int
    reason: str


class BenchReport(Struct, frozen=True, kw_only=True):
    """The figures of one run; ``floor`` is what the null backend takes in the same rounds."""

    format: int
    bundle: str
    version: str
    digest: str
    board: str
    power_mode: str | None
    machine: Machine
    seed: int
    rounds: int
    seen_rows_left_out: int | None
    floor: Latency
    measured: tuple[Measured, ...]
    failed: tuple[Failed, ...]
