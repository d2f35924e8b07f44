"""The far end: a broker and a worker, killed and started again by a timetable."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

from hedge.runtime.children import Child

_PATIENCE_S = 30.0


class FarEnd:
    """A mosquitto and a `hedge worker`, in processes of their own.

    In every period of ``period_s`` the broker is killed and away for ``away_s``; half a
    period later the worker is killed, and away for half as long. ``counts`` says how often,
    ``away_s`` for how long the broker was not there.
    """

    def __init__(self, folder: Path, bundle: Path, *, period_s: float, share: float) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            raise SystemExit("mosquitto is not installed")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        lines = (f"listener {self.port} 127.0.0.1", "allow_anonymous true", "user root")
        config = folder / "mosquitto.conf"
        config.write_text("\n".join((*lines, "set_tcp_nodelay true")))
        self._command = [program, "-c", str(config)]
        self._folder = folder
        self._bundle = bundle
        self._period_s = period_s
        self._share = share
        self._broker: subprocess.Popen[bytes] | None = None
        self._worker: Child | None = None
        self._broker_since_s = self._worker_since_s = 0.0
        self._gone_s: float | None = None
        self.away_s = 0.0
        self.counts = {"broker_killed": 0, "worker_killed": 0}

    @property
    def url(self) -> str:
        """Where the broker is."""
        return f"mqtt://127.0.0.1:{self.port}?version=5"

    def open(self) -> None:
        """Start both."""
        self._start_broker()
        self._start_worker()
        self._broker_since_s = time.monotonic()
        self._worker_since_s = self._broker_since_s - self._period_s / 2

    def turn(self) -> None:
        """Kill and start what is due."""
        now_s = time.monotonic()
        up_s = self._period_s * (1 - self._share)
        if self._broker is not None and now_s - self._broker_since_s > up_s:
            self._kill_broker()
            self._broker_since_s = now_s
        elif self._broker is None and now_s - self._broker_since_s > self._period_s - up_s:
            self._start_broker()
            self._broker_since_s = now_s
        away_s = self._period_s * self._share / 2
        if self._worker is not None and now_s - self._worker_since_s > self._period_s - away_s:
            self._kill_worker()
            self._worker_since_s = now_s
        elif self._worker is None and now_s - self._worker_since_s > away_s:
            self._start_worker()
            self._worker_since_s = now_s

    def settle(self) -> None:
        """Have both there, for good."""
        if self._broker is None:
            self._start_broker()
        if self._worker is None:
            self._start_worker()

    def close(self) -> None:
        """End both."""
        if self._worker is not None:
            self._worker.close()
        if self._broker is not None:
            self._broker.kill()
            self._broker.wait()

    def _start_broker(self) -> None:
        quiet = subprocess.DEVNULL
        self._broker = subprocess.Popen(self._command, stdout=quiet, stderr=quiet)
        until_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                break
            time.sleep(0.01)
        else:
            raise SystemExit("mosquitto does not start")
        if self._gone_s is not None:
            self.away_s += time.monotonic() - self._gone_s
            self._gone_s = None

    def _kill_broker(self) -> None:
        if self._broker is not None:
            self._broker.kill()
            self._broker.wait()
            self._broker = None
            self._gone_s = time.monotonic()
            self.counts["broker_killed"] += 1

    def _start_worker(self) -> None:
        arguments = ["worker", str(self._bundle), "--broker", self.url, "--name", "soak"]
        self._worker = Child("worker", arguments, folder=self._folder)

    def _kill_worker(self) -> None:
        if self._worker is not None:
            self._worker.process.kill()
            self._worker.process.wait()
            self._worker.close()
            self._worker = None
            self.counts["worker_killed"] += 1
