"""Reports of `hedge bench run` to order, for the tests of what is made of them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedge.models.measures import Flags
from hedge.runtime.bench.accuracy import Accuracy, _packed
from hedge.runtime.bench.conditions import Conditions
from hedge.runtime.bench.energy_record import Energy
from hedge.runtime.bench.latency import Latency, Ratio
from hedge.runtime.bench.machine import Machine
from hedge.runtime.bench.opening import Opening
from hedge.runtime.bench.record import FORMAT, BenchReport, Measured
from hedge.runtime.bench.spread import Spread

Rounds = list[NDArray[np.int64]]

COOL = Conditions(
    load=0.1,
    power_mode="10W",
    governors=("schedutil",),
    cpu=(),
    gpu=(),
    temps_c={"cpu-thermal": 41.0},
    hottest_c=41.0,
    too_hot=(),
    throttled=False,
    throttled_by=(),
)
MACHINE = Machine(
    architecture="aarch64",
    processor="Cortex-A78AE",
    cpus=6,
    system="Linux 5.15",
    python="3.10.12",
    libraries={"onnxruntime": "1.23.0"},
    load=0.1,
)


def drifting(*, seed: int, number: int = 200, by: float = 0.05) -> NDArray[np.float64]:
    """Return how much slower a machine is in each round: it wanders."""
    steps = np.random.default_rng(seed).standard_normal(number)
    slow: NDArray[np.float64] = np.exp(by * np.cumsum(steps) / np.sqrt(number))
    return slow


def rounds(
    median_ns: float,
    *,
    seed: int,
    number: int = 200,
    calls: int = 50,
    slow: NDArray[np.float64] | None = None,
) -> Rounds:
    """Latencies that scatter by a tenth, with a tail, on a machine that may drift."""
    rng = np.random.default_rng(seed)
    times = np.ones(number) if slow is None else slow
    found = median_ns * times[:, None] * rng.lognormal(0, 0.1, (number, calls))
    found *= np.where(rng.random((number, calls)) < 0.02, 3.0, 1.0)
    return list(np.rint(found).astype(np.int64))


def measured(name: str, given: Rounds, **more: Any) -> Measured:  # noqa: ANN401 -- its own fields
    """Return a variant with these latencies."""
    one = Measured(
        variant=name,
        threads=1,
        sha256="5" * 64,
        precision="float",
        runs_on="nothing",
        opening=Opening(open_ms=1, warm_up_ms=1, peak_bytes=1, added_bytes=1, runs_on="nothing"),
        latency=Latency.of(np.concatenate(given)),
        ratio=Ratio(median=1, low=1, high=1, pairs=len(given)),
        accuracy=None,
        energy=None,
        spread=Spread.of(given),
    )
    return msgspec.structs.replace(one, **more)


def accuracy(right: Flags, *, data: str = "a" * 64) -> Accuracy:
    """Return the accuracy of such rows."""
    return Accuracy(
        rows=len(right),
        accuracy=float(right.mean()),
        accepted_accuracy=None,
        escalated_share=0.125,
        right=_packed(right),
        data_sha256=data,
    )


def energy(mean_j: float, half_j: float, *, replayed: bool = False) -> Energy:
    """Return joules of a sample, with their interval."""
    return Energy(
        per_sample_j=mean_j,
        source="ina3221",
        window_s=10.0,
        samples=1000,
        low_j=mean_j - half_j,
        high_j=mean_j + half_j,
        windows_j=(mean_j - half_j, mean_j, mean_j + half_j),
        coverage=1.0,
        resolution_j=mean_j / 20,
        idle_w=5.0,
        busy_w=7.0,
        replayed=replayed,
    )


def report(
    *variants: Measured,
    floor: Rounds,
    **more: Any,  # noqa: ANN401 -- its own fields
) -> BenchReport:
    """Return a report of these variants."""
    one = BenchReport(
        format=FORMAT,
        bundle="steps",
        version="1.0",
        digest="0" * 64,
        board="jetson-orin-nano",
        power_mode="10W",
        machine=MACHINE,
        seed=0,
        rounds=len(floor),
        seen_rows_left_out=None,
        floor=Latency.of(np.concatenate(floor)),
        measured=variants,
        failed=(),
        floor_spread=Spread.of(floor),
        before=COOL,
        after=COOL,
        preempted_hz=0.0,
    )
    return msgspec.structs.replace(one, **more)
