"""What feeds the device: each is there, goes away, and comes back."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import socket
import subprocess
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from PIL import Image

_SERVER = Path(__file__).parents[1] / "rtsp_server.py"
_READY_S = 20.0


class Feeder:
    """Calls `feed` every ``period_s`` in a thread of its own, as long as it is not away."""

    period_s = 0.02

    def __init__(self) -> None:
        self._there = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        """Be there."""
        self.come()
        self._thread.start()

    def come(self) -> None:
        """Come, or come back."""
        self._there.set()

    def go(self) -> None:
        """Go away."""
        self._there.clear()

    def close(self) -> None:
        """End for good."""
        self._ended = True
        self.go()
        if self._thread.ident is not None:
            self._thread.join(5)

    def feed(self) -> None:
        """Give the next of what the device is to see."""

    def _run(self) -> None:
        while not self._ended:
            if self._there.wait(0.1):
                with contextlib.suppress(OSError):
                    self.feed()
                time.sleep(self.period_s)


class Camera(Feeder):
    """A real RTSP server that plays a film again and again."""

    def __init__(self, film: Path, port: int, log: Path) -> None:
        super().__init__()
        self._command = ["/usr/bin/python3", str(_SERVER), str(film), "--port", str(port)]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def come(self) -> None:
        """Start the server, and wait until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the server has not started"
        super().come()

    def go(self) -> None:
        """Kill the server."""
        super().go()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Let it stand still, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Cable(Feeder):
    """A pseudo-terminal behind a link, as udev makes it for a serial adapter."""

    def __init__(self, link: Path) -> None:
        super().__init__()
        self._link = link
        self._master: int | None = None
        self._slave: int | None = None
        self._row = 0

    def come(self) -> None:
        """Plug it in: another terminal than the last time."""
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(os.ttyname(self._slave))
        super().come()

    def go(self) -> None:
        """Pull it out."""
        super().go()
        self._link.unlink(missing_ok=True)
        for fd in (self._master, self._slave):
            if fd is not None:
                os.close(fd)
        self._master = self._slave = None

    def feed(self) -> None:
        """Write a row."""
        self._row += 1
        if self._master is not None:
            os.write(self._master, f"{self._row},{self._row * 2},{self._row % 7}\n".encode())


class Broker(Feeder):
    """A mosquitto, and someone who publishes rows to it."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__()
        self._port = port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        self._row = 0

    def come(self) -> None:
        """Start the broker, and wait until it listens."""
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None
        self._process = subprocess.Popen(
            [program, "-p", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _until_listening(self._port)
        if not self._client.is_connected():
            self._client.connect_async("127.0.0.1", self._port)
            self._client.loop_start()
        super().come()

    def go(self) -> None:
        """Kill the broker."""
        super().go()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def feed(self) -> None:
        """Publish a row."""
        self._row += 1
        self._client.publish("plant/pump", f'{{"x": {self._row}, "y": 1.5, "z": -2}}')

    def close(self) -> None:
        """End for good."""
        super().close()
        self._client.loop_stop()


class Program(Feeder):
    """A program that writes rows to the device's socket; ``period_s`` 0: as fast as it can."""

    def __init__(self, path: Path, *, period_s: float = 0.02, rows: int = 1) -> None:
        super().__init__()
        self.period_s = period_s
        self._path = path
        self._line = b'{"x": 1, "y": -2.5, "z": 3}\n' * rows
        self._socket: socket.socket | None = None

    def go(self) -> None:
        """End the program."""
        super().go()
        time.sleep(2 * self.period_s)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def feed(self) -> None:
        """Write a row, connected or connecting."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(1)
                self._socket.connect(str(self._path))
            self._socket.sendall(self._line)
        except TimeoutError:
            return
        except OSError:
            if self._socket is not None:
                self._socket.close()
            self._socket = None
            time.sleep(0.05)


class Photographer(Feeder):
    """Someone who moves pictures into a folder, which at times is not there."""

    period_s = 0.1

    def __init__(self, folder: Path, *, seed: int) -> None:
        super().__init__()
        self._folder = folder
        self._rng = np.random.default_rng(seed)
        self._number = 0

    def come(self) -> None:
        """Make the folder."""
        self._folder.mkdir(exist_ok=True)
        super().come()

    def go(self) -> None:
        """Remove the folder with all that is in it."""
        super().go()
        time.sleep(2 * self.period_s)
        shutil.rmtree(self._folder, ignore_errors=True)

    def feed(self) -> None:
        """Put a picture there, whole."""
        self._number += 1
        pixels = self._rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
        half = self._folder.parent / "half.tmp"
        Image.fromarray(pixels).save(half, "PNG")
        half.replace(self._folder / f"{self._number:06}.png")


class Writer(Feeder):
    """Someone who writes lines to the device's standard input."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__()
        self._pipe = pipe

    def feed(self) -> None:
        """Write a line."""
        self._pipe.write(b"a good film\n")
        self._pipe.flush()


def _until_listening(port: int) -> None:
    _until(lambda: _listens(port), f"nobody listens at port {port}")


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _until(holds: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + _READY_S
    while not holds():
        if time.monotonic() > until_s:
            raise SystemExit(what)
        time.sleep(0.01)


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
