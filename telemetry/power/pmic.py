"""The power chip of a Raspberry Pi 5, as the firmware's command tells it.

``vcgencmd pmic_read_adc`` prints a line for each volt and each ampere, such as
``3V7_WL_SW_A current(0)=0.0487A`` and ``3V7_WL_SW_V volt(8)=3.7063V``; the numbers in brackets
are those of the chip's inputs, and differ within a pair. Watts are their product. EXT5V and BATT
have volts only, so what hangs on the 5 V input is not measured.

Sources: Raspberry Pi documentation, "Raspberry Pi OS", vcgencmd; the profile raspberry-pi-5.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path

from ...models.errors import ConfigError
from ..boards.profile import Power
from ..boards.rails import VCGENCMD
from .reader import PowerSource

TIMEOUT_S = 2.0
FASTEST_HZ = 2.0
"""Chosen, not measured: each reading starts a process and waits for the firmware."""

_MAX_BYTES = 16_384
_GRACE_S = 0.1
_LINE = re.compile(
    r"^\s*([A-Z0-9_]{1,40})_([AV])\s+(?:current|volt)\(\d{1,3}\)=(-?\d{1,5}\.\d{1,12})\2\s*$",
    re.ASCII | re.MULTILINE,
)
_HINT = "it needs the group video, for /dev/vcio: `hedge service install --pmic`"


class PmicReader:
    """Runs the command for each reading; one that hangs is killed, and none runs beside it."""

    def __init__(self, power: Power, *, command: Path, timeout_s: float = TIMEOUT_S) -> None:
        self._command = Command((str(command), "pmic_read_adc"), timeout_s=timeout_s)
        labels = tuple(rail.label for rail in power.rail if rail.driver == "vcgencmd")
        is_whole = set(power.total) <= set(labels)
        self.source = PowerSource(
            name="pmic",
            kind="power",
            rails=labels,
            total=tuple(label for label in labels if label in power.total) if is_whole else (),
            scope=power.scope if is_whole else "none",
            step=power.resolution_w,
            fastest_hz=FASTEST_HZ,
        )

    def read(self) -> tuple[float | None, ...]:
        """Return the watts of each rail now; None: not printed, or not as it should be."""
        powers = parse_adc(self._command.output() or "")
        return tuple(powers.get(label) for label in self.source.rails)

    def close(self) -> None:
        """End the command if it still runs."""
        self._command.close()


class Command:
    """A program that is run again and again, and trusted with nothing."""

    def __init__(self, arguments: tuple[str, ...], *, timeout_s: float) -> None:
        self._arguments = arguments
        self._timeout_s = timeout_s
        self._left: subprocess.Popen[bytes] | None = None  # was killed, and has not ended yet

    def output(self) -> str | None:
        """Return what it prints; None: it fails, hangs or prints too much."""
        if self._left is not None and self._left.poll() is None:
            return None
        try:
            process = subprocess.Popen(  # noqa: S603 -- a fixed list of arguments, no shell
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError:
            return None
        until_s = time.monotonic() + self._timeout_s
        with process.stdout or contextlib.nullcontext() as stdout:
            text = None if stdout is None else _read_all(stdout.fileno(), until_s)
        self._end(process, until_s=until_s if text is not None else 0.0)
        return text if process.returncode == 0 else None

    def close(self) -> None:
        """Wait no longer for what was killed."""
        if self._left is not None:
            self._left.poll()
            self._left = None

    def _end(self, process: subprocess.Popen[bytes], *, until_s: float) -> None:
        """Give it until then, and kill it with all that it started; what stays is left."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until_s - time.monotonic()))
        if process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)  # the kernel may hold on to it
        self._left = process if process.returncode is None else None


def open_pmic(power: Power, *, root: Path, timeout_s: float = TIMEOUT_S) -> PmicReader:
    """Return the reader of a profile's rails that vcgencmd tells of.

    Raises:
        ConfigError: there is no such rail or command, or it tells of none of them.
    """
    if not any(rail.driver == "vcgencmd" for rail in power.rail):
        raise ConfigError(
            "the board's profile names no rail of vcgencmd",
            hint="only the Raspberry Pi 5 and its kin can tell; docs/power.md",
        )
    command = root / VCGENCMD
    if not os.access(command, os.X_OK):
        raise ConfigError(
            "is not there or cannot be run",
            where=str(command),
            hint="install raspi-utils, or give it to the container",
        )
    reader = PmicReader(power, command=command, timeout_s=timeout_s)
    if all(power_w is None for power_w in reader.read()):
        raise ConfigError("tells of no rail (pmic_read_adc)", where=str(command), hint=_HINT)
    return reader


def parse_adc(text: str) -> dict[str, float]:
    """Return the watts of every rail of which both volts and amperes are printed."""
    values = {(rail, unit): float(value) for rail, unit, value in _LINE.findall(text)}
    return {
        rail: value * values[rail, "V"]
        for (rail, unit), value in values.items()
        if unit == "A" and (rail, "V") in values
    }


def _read_all(file: int, until_s: float) -> str | None:
    """Return all that comes out of a pipe until its end, if that is by then and not too much."""
    waiting = select.poll()
    waiting.register(file, select.POLLIN)
    data = b""
    while len(data) <= _MAX_BYTES and (left_s := until_s - time.monotonic()) > 0:
        if waiting.poll(left_s * 1e3):
            more = os.read(file, _MAX_BYTES)
            if not more:
                return data.decode("utf-8", "replace")
            data += more
    return None
