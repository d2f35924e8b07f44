"""What sampling the power sensors costs: shares of one core, beside an idle floor.

Run by `make bench`. Each case is a process of its own that does nothing but sample for some
seconds. A case's cost is what its sampling thread, and its whole process, spend of CPU time in a
second; the floor is the same process with no sampler, and "waking" one whose thread wakes as
often and does nothing. The cases take turns, in an order drawn
anew for each round, so that they meet the same noise.

An INA3221 of three rails is six files of the kernel, which stay open: "kernel files" reads as
many of /sys, any that hold a number. What it leaves out is the talk with the chip, in which the
CPU mostly waits. "planted" reads a recorded tree of a board through the real reader; its files
are plain ones, which are opened anew for each reading, so it is dearer than a board.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hedge.telemetry.boards.detect import detect
from hedge.telemetry.boards.profile import find_profile
from hedge.telemetry.boards.recording import plant
from hedge.telemetry.energy.account import EnergyAccount
from hedge.telemetry.energy.sampler import DETUNED, PowerSampler
from hedge.telemetry.ledger import Done, Work
from hedge.telemetry.power.opening import open_reader
from hedge.telemetry.power.options import PowerOptions
from hedge.telemetry.power.reader import PowerReader, PowerSource
from hedge.telemetry.power.sensor_file import SensorFile

SEED = 20265
RATE_HZ = 50.0 / DETUNED  # of which come 50 readings a second
SECONDS = 5.0
ROUNDS = 5
SETTLES = 2000
CASES = ("floor", "waking", "constant", "kernel files", "planted")
NUMBER = "sys/class/net/lo/mtu"
BOARD = "jetson-orin-nano-nx"
RECORDED = Path(__file__).parents[1] / "recorded" / "boards" / "jetson-orin-nano-jetpack-6.2.toml"


class Constant:
    """Costs nothing to read: three rails that say what they said."""

    source = PowerSource(
        name="constant", kind="power", rails=("A", "B", "C"), total=("A",), scope="board"
    )

    def read(self) -> tuple[float | None, ...]:
        """Return the same watts."""
        return (5.0, 2.0, 1.0)

    def close(self) -> None:
        """Do nothing."""


class KernelFiles(Constant):
    """Reads as many files of the kernel as an INA3221 of three rails has."""

    def __init__(self) -> None:
        self._files = [SensorFile(Path("/"), NUMBER) for _ in range(6)]

    def read(self) -> tuple[float | None, ...]:
        """Return products of two numbers, small enough to be watts."""
        found = [file.number() for file in self._files]
        pairs = zip(found[::2], found[1::2], strict=True)
        return tuple(None if a is None or b is None else a * b * 1e-9 for a, b in pairs)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def reader(case: str, folder: Path) -> PowerReader | None:
    """Return the reader of a case; None: the floor."""
    match case:
        case "constant":
            return Constant()
        case "kernel files":
            return KernelFiles()
        case "planted":
            plant(RECORDED, folder)
            board = detect(root=folder, board=find_profile(BOARD))
            return open_reader(PowerOptions(reader="ina"), board=board, base=folder, root=folder)
        case _:
            return None


class Waking:
    """A thread that wakes up at the rate of the readings, for nothing."""

    def __init__(self) -> None:
        self._open = threading.Lock()
        self._open.acquire()
        self._thread = threading.Thread(target=self._run)
        self.woken = self.spent_ns = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._open.release()
        self._thread.join()

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._open.acquire(timeout=max(0.0, due_s - time.monotonic())):
            due_s += 1 / (RATE_HZ * DETUNED)
            self.woken += 1
            self.spent_ns = time.thread_time_ns()


class Sampling:
    """A sampler, told of in the same way."""

    def __init__(self, read: PowerReader) -> None:
        self._sampler = PowerSampler(read, rate_hz=RATE_HZ, also=[self._look])
        self.start, self.close = self._sampler.start, self._sampler.close
        self.spent_ns = 0

    @property
    def woken(self) -> int:
        """How often the sensor was read."""
        return self._sampler.totals().samples

    def _look(self) -> None:
        self.spent_ns = time.thread_time_ns()


def one_case(case: str) -> dict[str, float]:
    """Sample for some seconds in this process; return shares of one core and readings a second."""
    with tempfile.TemporaryDirectory() as name:
        read = reader(case, Path(name))
        work = Waking() if case == "waking" else None if read is None else Sampling(read)
        if work is None:
            return _spent(None)
        work.start()
        found = _spent(work)
        work.close()
    return found


def _spent(work: Waking | Sampling | None) -> dict[str, float]:
    time.sleep(1.0)  # the first second is that of caches
    begun, begun_cpu = time.perf_counter(), time.process_time()
    before = (0, 0) if work is None else (work.spent_ns, work.woken)
    time.sleep(SECONDS)
    seconds = time.perf_counter() - begun
    found = {"process": (time.process_time() - begun_cpu) / seconds}
    if work is not None:
        found["thread"] = (work.spent_ns - before[0]) / 1e9 / seconds
        found["readings_per_s"] = (work.woken - before[1]) / seconds
    return found


def settling_us() -> float:
    """Return the median microseconds of sharing out a second over two streams."""
    sampler = PowerSampler(Constant(), rate_hz=RATE_HZ)
    sampler.sample()
    account = EnergyAccount(sampler, baseline=None)
    spent_ns = []
    for number in range(1, SETTLES + 1):
        done = Done(number, number * 1000)
        work = Work(
            dict.fromkeys(("filter", "infer", "uncertainty", "uplink"), done),
            dict.fromkeys(("dropped", "reused", "accepted", "escalated", "failed"), done),
        )
        begun = time.perf_counter_ns()
        account.settle({"one": work, "two": work})
        spent_ns.append(time.perf_counter_ns() - begun)
    return statistics.median(spent_ns) / 1e3


def machine() -> str:
    """Return what was measured on."""
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}"
    )


def _in_turn(run: Callable[[str], dict[str, float]]) -> dict[str, list[dict[str, float]]]:
    draw = random.Random(SEED)  # noqa: S311 -- an order, not a secret
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(ROUNDS):
        for case in draw.sample(CASES, len(CASES)):
            found[case].append(run(case))
    return found


def _in_a_process(case: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--case", case],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, print, and keep the figures beside this file."""
    if "--case" in sys.argv:
        print(json.dumps(one_case(sys.argv[-1])))  # noqa: T201 -- for the process that asked
        return
    rounds = _in_turn(_in_a_process)
    found: dict[str, Any] = {
        "machine": machine(),
        "seed": SEED,
        "rounds": ROUNDS,
        "seconds_each": SECONDS,
        "load_average": [round(one, 2) for one in os.getloadavg()[:2]],
    }
    for case, runs in rounds.items():
        keys = dict.fromkeys(itertools.chain.from_iterable(runs))
        found[case] = {
            key if key == "readings_per_s" else f"{key}_percent_of_a_core": _spread(
                [run[key] * (1 if key == "readings_per_s" else 100) for run in runs]
            )
            for key in keys
        }
    found["settle_two_streams_us"] = round(settling_us(), 2)
    print(json.dumps(found, indent=1))  # noqa: T201 -- what the command is for
    if "--keep" in sys.argv:
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "least": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "most": round(max(values), 4),
    }


if __name__ == "__main__":
    main()
