"""A device that lives through a scene, with a broker and a worker beside it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hedge.models.bundle import load_bundle
from hedge.models.dataset import Dataset
from hedge.runtime.children import Child
from hedge.runtime.demo_figures import Tally
from hedge.runtime.far_end import far_end
from hedge.runtime.top.feed_socket import SOCKET, SocketFeed
from hedge.telemetry.ledger import StreamReport
from hedge.telemetry.snapshot import Snapshot

from .scene import Scene

_PATIENCE_S = 60.0
_STILL_S = 20.0  # without a new sample: then what is missing does not come any more
_EVERY_S = 0.5
_LEAST_S = 2.0  # of what is looked at: else the run as a whole


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What came of it: the report, every sample's outcomes, the events, and what it took.

    ``cpu_share`` is of one core while the source was played, ``rss_bytes`` the most.
    """

    report: dict[str, Any]
    tally: Tally
    events: list[dict[str, Any]]
    cpu_share: float
    rss_bytes: int
    seconds: float


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[int]:
    """Start mosquitto and give its port; end it."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        raise SystemExit("mosquitto is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    config = folder / "mosquitto.conf"
    own = ("allow_anonymous true", "set_tcp_nodelay true", "user root")
    config.write_text("\n".join((f"listener {port} 127.0.0.1", *own)))
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([program, "-c", str(config)], stdout=quiet, stderr=quiet)
    try:
        _wait_for_port(port)
        yield port
    finally:
        process.kill()
        process.wait()


def live_through(scene: Scene, config: str, *, folder: Path, url: str) -> Ran:
    """Run a device by ``config`` while the scene is played, until nothing more comes."""
    for old, new in scene.values.items():
        assert old in config, f"{old} is not in the configuration"
        config = config.replace(old, new)
    path, report = folder / "hedge.toml", folder / "report.json"
    path.write_text(config, "utf-8")
    tally = Tally(Dataset(x=scene.x), load_bundle(scene.bundle).labels)
    with (
        far_end(scene.bundle, folder=folder, broker=url),
        contextlib.closing(
            Child(
                "device",
                ["run", str(path), "--json", str(report)],
                folder=folder,
                stdin=scene.stdin,
            )
        ) as device,
        contextlib.closing(_Watch(device, folder / "state", len(scene.x))) as watch,
        ThreadPoolExecutor(1) as threads,
    ):
        device.wait_for("READY=1", timeout_s=_PATIENCE_S)
        watch.wait_until_open()
        playing = threads.submit(scene.play)
        watch.until_the_end(playing)
        playing.result()
    if not report.exists():
        raise SystemExit(f"the device ended: {device.last_words()}")
    events = _apart(folder / "outcomes.jsonl", folder / "tally.jsonl", samples=len(scene.x))
    tally.follow(folder / "tally.jsonl")
    told = json.loads(report.read_bytes())
    cpu_s, seconds = watch.took() or (told["cpu_s"], told["seconds"])
    return Ran(
        report=told,
        tally=tally,
        events=events,
        cpu_share=cpu_s / seconds,
        rss_bytes=max(watch.most_rss_bytes, told["rss_bytes"]),
        seconds=seconds,
    )


def _apart(path: Path, outcomes: Path, *, samples: int) -> list[dict[str, Any]]:
    """Copy the outcomes of the first ``samples`` to a file of their own; return the events."""
    events = []
    with outcomes.open("w", encoding="utf-8") as file:
        for line in path.read_text("utf-8").splitlines(keepends=True):
            told = json.loads(line)
            if "event" in told:
                events.append(told)
            elif number_of(told["id"]) < samples:
                file.write(line)
    return events


def number_of(sample: str) -> int:
    """Return which sample of its session an id names, from 0."""
    return int(sample.rpartition("-")[2])


class _Watch:
    """Asks a device every so often how it is."""

    def __init__(self, device: Child, state: Path, samples: int) -> None:
        self._device = device
        self._samples = samples
        self._feed = SocketFeed(state / SOCKET, every_s=_EVERY_S)
        self._first: Snapshot | None = None
        self._last: Snapshot | None = None
        self.most_rss_bytes = 0

    def close(self) -> None:
        """Ask no more."""
        self._feed.close()

    def took(self) -> tuple[float, float] | None:
        """Return the CPU time and the time while the source was played, in seconds.

        None: that was over too soon to be seen.
        """
        first, last = self._first, self._last
        if first is None or last is None or last.uptime_s - first.uptime_s < _LEAST_S:
            return None
        return (last.cpu_s or 0.0) - (first.cpu_s or 0.0), last.uptime_s - first.uptime_s

    def wait_until_open(self) -> None:
        """Return once the source is there, or the device has ended."""
        until_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until_s and self._device.process.poll() is None:
            now = self._ask()
            source = None if now is None else _stream(now).source
            if source is not None and source.state != "away":
                self._first = now
                return
        if self._device.process.poll() != 0:
            raise SystemExit(f"the source does not open: {self._device.last_words()}")

    def until_the_end(self, playing: Future[None]) -> None:
        """Return once the device has ended, or has answered all that was played."""
        read, moved_s = -1, time.monotonic()
        while self._device.process.poll() is None:
            now = self._ask()
            if now is None:
                continue
            stream = _stream(now)
            if stream.read != read or not playing.done():
                read, moved_s = stream.read, time.monotonic()
            still_s = time.monotonic() - moved_s
            finished = playing.done() and stream.read >= self._samples and not stream.waiting
            if finished or still_s > _STILL_S:
                return

    def _ask(self) -> Snapshot | None:
        before = self._feed.seen().now
        self._feed.poll(_EVERY_S)
        now = self._feed.seen().now
        if now is None or now is before:
            return None
        self._last = now
        self.most_rss_bytes = max(self.most_rss_bytes, now.rss_bytes or 0)
        return now


def _stream(now: Snapshot) -> StreamReport:
    (stream,) = now.streams.values()
    return stream


def _wait_for_port(port: int) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise SystemExit("mosquitto does not start")
