"""How soon a camera is seen again that was away: killed, hung, or silent."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hedge.models.errors import DataError
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.options import VideoSource
from hedge.runtime.sources.video.reader import VideoReader

_SERVER = Path(__file__).parent.parent / "rtsp_server.py"
_PYTHON = "/usr/bin/python3"  # which has GStreamer's bindings
_STALL_S = 1.0
_MOST_S = 2.0
_PATIENCE_S = 30.0
_AWAY_S = 3.0  # at most, drawn evenly


def measure(film: Path, *, trials: int, seed: int) -> dict[str, Any] | None:
    """Return seconds from a camera's return to its first picture; None: there is no server."""
    rng = np.random.default_rng(seed)
    server = _Server(film)
    if not server.start():
        return None
    found: dict[str, list[float]] = {"killed": [], "hung": [], "silent": []}
    reader = VideoReader(VideoSource(url=server.url, stall_s=_STALL_S), base=Path("/"))
    live = Live(reader, name="cam", policy="latest", buffer=8, ring=threading.Event().set)
    with contextlib.closing(server), contextlib.closing(live):
        _wait(lambda: _sees(live))
        for _ in range(trials):
            for how, taken_s in found.items():
                with getattr(server, how)():
                    _wait(lambda: live.state().state == "away")
                    time.sleep(float(rng.uniform(0, _AWAY_S)))
                    while live.due_ns() is not None:
                        _sees(live)
                begun_s = time.monotonic()
                _wait(lambda: _sees(live))
                taken_s.append(time.monotonic() - begun_s)
    slow = {how: max(taken_s) for how, taken_s in found.items() if max(taken_s) > _MOST_S}
    return {
        "trials": trials,
        "stall_s": _STALL_S,
        "away_s_at_most": _AWAY_S,
        "seconds_to_the_first_picture": {
            how: {"median": round(float(np.median(s)), 3), "most": round(max(s), 3)}
            for how, s in found.items()
        },
        "faults": [f"{how}: back after {s:.1f} s" for how, s in slow.items()],
    }


def _sees(live: Live) -> bool:
    """Return whether there is a picture; the last one of a server that is killed may be cut."""
    with contextlib.suppress(DataError):
        return live.poll(0) is not None
    return False


class _Server:
    """A real RTSP server, and how it goes away."""

    def __init__(self, film: Path) -> None:
        self._film = film
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}/film"

    def start(self) -> bool:
        """Serve, on the port that it had; False: it cannot."""
        command = [_PYTHON, str(_SERVER), str(self._film), "--port", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        line = self._process.stdout.readline() if self._process.stdout else b""
        self._port = int(line or 0)
        return bool(line)

    def close(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()

    @contextlib.contextmanager
    def killed(self) -> Iterator[None]:
        """It is killed, and started again."""
        self.close()
        yield
        self.start()

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """It is stopped, and goes on."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """In its place nobody answers at all: of who is beyond the backlog, packets are lost."""
        self.close()
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._port))
            listener.listen(0)
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", self._port))
            yield
        self.start()


def _wait(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            raise SystemExit("the camera does not come back")
        time.sleep(0.005)
