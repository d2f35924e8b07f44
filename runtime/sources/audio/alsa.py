"""The sound of an ALSA device, as `arecord` reads it.

A program of the system's (alsa-utils), because the ALSA library in PyAV's wheels is one of its
own, which knows neither the system's configuration nor its plugins, and so finds no device. A
child can also be ended whatever a driver does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import shutil
import subprocess
from collections import deque
from typing import IO, NoReturn

import numpy as np

from ....models.errors import ConfigError, SourceError
from ....telemetry.clock import Clock, boottime_ns
from .feed import Piece, mono

_log = logging.getLogger(__name__)

_WAIT_MS = 250
_OPEN_NS = 5_000_000_000
_GOODBYE_S = 0.5
_BYTES = 1 << 16
_LONGEST_LINE = 4096
_PERIOD_US = 50_000
_BUFFER_US = 1_000_000  # how long nobody may read before samples are lost
_OFFER = re.compile(r"^(RATE|CHANNELS|FORMAT): +(.{1,60})")
_SETUP = re.compile(r"^ +(rate|channels|period_size) +: (\d+)")
_OVERRUN = "overrun!!!"
_HINTS = (
    ("busy", "another program has it open: end that, or share the card by a 'dsnoop' device"),
    ("Permission denied", "the user must be in the group audio"),
    ("non available", "set channels and sample_rate_hz so, or take a 'plughw:' device"),
    ("Unable to install hw params", "take a 'plughw:' device, which converts"),
    ("audio open error", "`arecord -L` lists the devices"),
)


class Arecord:
    """Reads ``channels`` of 16 bits at ``rate_hz``, or, unless ``exactly``, at a rate near it.

    ``channel`` is which of them is heard (None: the mean). ``overruns`` counts how often samples
    were lost because nobody read them in time.

    Raises:
        ConfigError: `arecord` is not installed.
    """

    def __init__(
        self,
        device: str,
        *,
        rate_hz: int,
        exactly: bool,
        channels: int,
        channel: int | None,
        stall_s: float,
        clock: Clock = boottime_ns,
    ) -> None:
        program = shutil.which("arecord")
        if program is None:
            raise ConfigError(
                "the program arecord, by which sound devices are read, is not there",
                where="source.device",
                hint="apt install alsa-utils",
            )
        self.overruns = 0
        self._device = device
        self._asked_hz, self._exactly = rate_hz, exactly
        self._channels, self._channel = channels, channel
        self._stall_ns = round(stall_s * 1e9)
        self._clock = clock
        self._arguments = [
            program,
            f"--device={device}",
            "--file-type=raw",
            "--format=S16_LE",
            f"--rate={rate_hz}",
            f"--channels={channels}",
            f"--period-time={_PERIOD_US}",
            f"--buffer-time={_BUFFER_US}",
            "--dump-hw-params",  # it says what the device could do
            "--verbose",  # and what it does
        ]
        self._child: subprocess.Popen[bytes] | None = None
        self._begin()

    def open(self) -> None:
        """Start the child, and wait until the device is set up.

        Raises:
            SourceError: there is no such device, or it cannot do what is asked of it.
        """
        self._begin()
        try:
            child = subprocess.Popen(  # noqa: S603 -- a list of arguments, no shell
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,  # a Ctrl-C is for the daemon to act upon
            )
        except OSError as error:
            raise SourceError(f"arecord does not start: {error}", where=self._device) from error
        self._child = child
        for pipe in (_out(child), _err(child)):
            os.set_blocking(pipe.fileno(), False)
        self._agree(child)
        self._heard_ns = self._clock()

    def read(self) -> list[Piece]:
        """Return what has been recorded since.

        Raises:
            SourceError: the device is gone, or has been silent for too long.
        """
        child = self._child
        if child is None:
            raise SourceError("is not open", where=self._device)
        _wait(child)
        overrun = self._listen(child)
        data, now_ns = _some(_out(child)), self._clock()
        if data is None:
            self._give_up(child)
        if data:
            self._heard_ns = now_ns
        elif now_ns - self._heard_ns > self._stall_ns:
            raise SourceError(f"no sound for {self._stall_ns / 1e9:g} s", where=self._device)
        if overrun:  # what is in the pipe, and the period that is being read, may hold the gap
            self._rest, self._gap = b"", True
            self._pass_over = 2 * self._channels * self._setup["period_size"]
            return []
        return self._pieces(data, now_ns)

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()  # there is nothing that it must still do
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GOODBYE_S)  # it may hang in a driver
        for pipe in (_out(child), _err(child)):
            pipe.close()

    def _begin(self) -> None:
        self._said: deque[str] = deque(maxlen=16)
        self._line = self._rest = b""
        self._setup: dict[str, int] = {}
        self._offers: dict[str, str] = {}
        self._heard_ns = 0
        self._gap = False
        self._pass_over = 0  # bytes

    def _agree(self, child: subprocess.Popen[bytes]) -> None:
        """Wait until the child has said how the device is set up, and see that it will do."""
        until_ns = self._clock() + _OPEN_NS
        while len(self._setup) < 3:
            if self._clock() > until_ns:
                raise SourceError("the device does not open", where=self._device)
            _wait(child, stderr_only=True)
            if self._listen(child) is None:
                self._give_up(child)
        rate_hz = self._setup["rate"]
        if rate_hz != self._asked_hz and self._exactly:
            raise SourceError(
                f"it records at {rate_hz} Hz, not at {self._asked_hz} Hz{self._offered()}",
                where=self._device,
                hint=f"set sample_rate_hz = {rate_hz}, or take a 'plughw:' device, which converts",
            )
        _log.info("%s: %d Hz, %d channels", self._device, rate_hz, self._setup["channels"])

    def _listen(self, child: subprocess.Popen[bytes]) -> bool | None:
        """Take in what the child says; tell whether samples were lost. None: it has gone."""
        data = _some(_err(child))
        if data is None:
            return None
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[:_LONGEST_LINE]
        overrun = False
        for line in (one.decode("utf-8", "replace") for one in lines):
            if offer := _OFFER.match(line):
                self._offers.setdefault(offer[1].lower(), offer[2])
            elif setup := _SETUP.match(line):
                self._setup.setdefault(setup[1], int(setup[2]))  # the first is what we get
            elif line.startswith(_OVERRUN):
                self.overruns += 1
                overrun = True
                _log.warning("%s: %s, overruns so far: %d", self._device, line, self.overruns)
            else:
                self._said.append(line)
        return overrun

    def _pieces(self, data: bytes, now_ns: int) -> list[Piece]:
        passed = min(self._pass_over, len(data))
        self._pass_over -= passed
        data = self._rest + data[passed:]
        whole = len(data) - len(data) % (2 * self._channels)
        self._rest = data[whole:]
        if not whole:
            return []
        samples = np.frombuffer(data[:whole], "<i2").reshape(-1, self._channels)
        gap, self._gap = self._gap, False
        return [Piece(mono(samples, self._channel), self._setup["rate"], now_ns, gap)]

    def _give_up(self, child: subprocess.Popen[bytes]) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GOODBYE_S)
        self._listen(child)
        own = [line for line in self._said if line.startswith("arecord: ")]
        why = re.sub(r"^arecord: \w+:\d+: ", "", own[-1])[:200] if own else "arecord has ended"
        hint = next((hint for sign, hint in _HINTS if sign in why), None)
        asked = f"; asked for {self._asked_hz} Hz and {self._channels} channel(s) of 16 bits"
        refused = f"{asked}{self._offered()}" if self._offers and not self._setup else ""
        raise SourceError(f"{why}{refused}", where=self._device, hint=hint)

    def _offered(self) -> str:
        offers = ", ".join(f"{name} {value}" for name, value in self._offers.items())
        return f", it offers {offers}" if offers else ""


def _out(child: subprocess.Popen[bytes]) -> IO[bytes]:
    if child.stdout is None:
        raise TypeError(child)
    return child.stdout


def _err(child: subprocess.Popen[bytes]) -> IO[bytes]:
    if child.stderr is None:
        raise TypeError(child)
    return child.stderr


def _wait(child: subprocess.Popen[bytes], *, stderr_only: bool = False) -> None:
    poll = select.poll()
    for pipe in (_err(child),) if stderr_only else (_err(child), _out(child)):
        poll.register(pipe, select.POLLIN)
    poll.poll(_WAIT_MS)


def _some(pipe: IO[bytes]) -> bytes | None:
    """Return what is in a pipe, b"" where that is nothing; None: its other end is closed."""
    try:
        return os.read(pipe.fileno(), _BYTES) or None
    except BlockingIOError:
        return b""
