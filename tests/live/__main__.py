"""Take each of eight live sources away from a running device, and see how soon it is back.

    cd tests; python -m live

One `hedge run` reads a camera over RTSP, a film that changes its size and has noise in it,
sound, a serial line, a topic, a socket, a folder of pictures and its standard input. Each goes
away in its turn; what counts is how long after its return its stream gives outcomes again,
and how long the other streams were silent meanwhile. Then eight streams want more than the
processor can give, and what counts is how evenly it is shared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hedge.runtime.children import Child

from . import bundles, feeders
from .clock import WallClock
from .watch import Watch

_RESULTS = Path(__file__).parent / "results.json"
_AWAY_S = 3.0
_SETTLE_S = 4.0
_READY_S = 60.0
_MOST_S = 2.0  # what the issue asks
_PERIODIC = ("camera", "film", "sound", "serial", "topic", "socket", "folder", "stdin")
_FPS = 10
_SOUND_S = 90.0  # of the film, in which its size changes twice; then its bytes are noise


class Device:
    """The device, what feeds it, and what it says."""

    def __init__(self, folder: Path, *, seed: int, stack: contextlib.ExitStack) -> None:
        made = bundles.make(folder, seed=seed)
        port, broker = feeders.free_port(), feeders.free_port()
        bundles.film(folder / "door.mp4", seconds=20, size="320x240", fps=_FPS)
        bundles.broken_film(folder / "film.ts", fps=_FPS, seed=seed)
        bundles.sound(folder / "sound.wav", seconds=600, seed=seed)
        self.camera = feeders.Camera(folder / "door.mp4", port, folder / "camera.log")
        self.cable = feeders.Cable(folder / "tty")
        self.broker = feeders.Broker(broker, folder)
        self.program = feeders.Program(folder / "rows.sock")
        self.photographer = feeders.Photographer(folder / "pictures", seed=seed)
        config = folder / "device.toml"
        config.write_text(_config(made, port=port, broker=broker))
        read, write = os.pipe()
        self.writer = feeders.Writer(os.fdopen(write, "wb"))
        _start(self.camera, self.cable, self.broker, self.photographer, stack=stack)
        self.watch = Watch(folder / "outcomes.jsonl")
        stack.callback(self.watch.close)
        self.clock = WallClock(folder)
        with os.fdopen(read, "rb") as stdin, self.clock.around() as self.has_clock:
            self.child = Child(
                "device",
                ["run", str(config), "--json", str(folder / "report.json")],
                folder=folder,
                stdin=stdin,
            )
        stack.callback(self.child.close)
        self.child.wait_for("READY=1", timeout_s=_READY_S)
        _start(self.program, self.writer, stack=stack)

    def all_there(self) -> None:
        """Wait until every stream has given outcomes."""
        until_s = time.monotonic() + 30
        while missing := [name for name in _PERIODIC if self.watch.count(name) < 3]:
            if time.monotonic() > until_s:
                raise SystemExit(f"no outcomes of {missing}: {self.child.last_words()}")
            time.sleep(0.05)


def _start(*all_: feeders.Feeder, stack: contextlib.ExitStack) -> None:
    for feeder in all_:
        stack.callback(feeder.close)
        feeder.start()


def _config(made: dict[str, Path], *, port: int, broker: int) -> str:
    streams = {
        "camera": ("image", f'kind = "video", url = "rtsp://127.0.0.1:{port}/film", stall_s = 2'),
        "film": ("image", 'kind = "video", url = "film.ts", realtime = true'),
        "sound": ("audio", 'kind = "audio", path = "sound.wav", realtime = true'),
        "serial": ("tensor", 'kind = "serial", port = "tty"'),
        "topic": (
            "tensor",
            f'kind = "mqtt", topic = "plant/+", broker = "mqtt://127.0.0.1:{broker}"',
        ),
        "socket": ("tensor", 'kind = "socket", path = "rows.sock"'),
        "folder": ("image", 'kind = "images", path = "pictures"'),
        "stdin": ("text", 'kind = "stdin", format = "text"'),
    }
    lines = ['[device]\nname = "live"\nstate_dir = "state"']
    lines.append('[[sink]]\nkind = "jsonl"\npath = "outcomes.jsonl"')
    for name, (kind, source) in streams.items():
        lines.append(
            f'[[stream]]\nname = "{name}"\nbundle = "{made[kind]}"\nsource = {{ {source} }}'
        )
    return "\n".join(lines) + "\n"


def _faults(device: Device) -> Iterator[tuple[str, str, Callable[[], None], Callable[[], None]]]:
    """Yield each fault: its name, the stream it is of, how it comes, and how it goes."""
    yield "server killed", "camera", device.camera.go, device.camera.come
    yield "server stands still", "camera", device.camera.stop, device.camera.go_on
    yield "cable pulled", "serial", device.cable.go, device.cable.come
    yield "broker killed", "topic", device.broker.go, device.broker.come
    yield "program ended", "socket", device.program.go, device.program.come
    yield "folder removed", "folder", device.photographer.go, device.photographer.come
    yield "input pauses", "stdin", device.writer.go, device.writer.come
    if device.has_clock:
        yield "clock set ahead", "serial", lambda: device.clock.jump(7200), _nothing
        yield "clock set back", "serial", lambda: device.clock.jump(-14_400), _nothing


def _nothing() -> None:
    """What is set stays so."""


def _live_through(device: Device) -> Iterator[dict[str, Any]]:
    for name, stream, away, back in _faults(device):
        begin_s = time.monotonic()
        away()
        time.sleep(_AWAY_S * (2 if away == device.camera.stop else 1))  # longer than its stall_s
        back()
        back_s = time.monotonic()
        time.sleep(_SETTLE_S)
        end_s = time.monotonic()
        recovery_s = device.watch.first_after(stream, back_s)
        others = {
            other: round(device.watch.silence_s(other, begin_s, end_s), 3)
            for other in _PERIODIC
            if other != stream
        }
        worst = max(others, key=lambda one: others[one])
        found = {
            "fault": name,
            "stream": stream,
            "away_s": round(back_s - begin_s, 3),
            "recovery_s": None if recovery_s is None else round(recovery_s, 3),
            "longest_silence_of_others_s": others[worst],
            "of": worst,
        }
        print(json.dumps(found), file=sys.stderr, flush=True)  # noqa: T201 -- progress
        yield found


def _shares(folder: Path, *, seed: int, seconds: float) -> dict[str, Any]:
    """Feed eight streams more than can be inferred, one of them ten times as much."""
    bundle = bundles.make(folder, seed=seed)["slow"]
    names = [f"s{number}" for number in range(8)]
    lines = ['[device]\nname = "shares"\nstate_dir = "state"']
    for name in names:
        source = f'kind = "socket", path = "{name}.sock", policy = "latest"'
        lines.append(f'[[stream]]\nname = "{name}"\nbundle = "{bundle}"\nsource = {{ {source} }}')
    config, report = folder / "device.toml", folder / "report.json"
    config.write_text("\n".join(lines) + "\n")
    with contextlib.ExitStack() as stack:
        device = Child("shares", ["run", str(config), "--json", str(report)], folder=folder)
        stack.callback(device.close)
        device.wait_for("READY=1", timeout_s=_READY_S)
        for number, name in enumerate(names):
            program = feeders.Program(
                folder / f"{name}.sock", period_s=0.002, rows=10 if number == 0 else 1
            )
            stack.callback(program.close)
            program.start()
        time.sleep(seconds)
        device.close()
    streams = json.loads(report.read_bytes())["streams"]
    served = {one["stream"]: one["read"] - one["routes"]["overrun"] for one in streams}
    return {
        "streams": len(names),
        "seconds": seconds,
        "served": served,
        "overrun": {one["stream"]: one["routes"]["overrun"] for one in streams},
        "least_over_most": round(min(served.values()) / max(served.values()), 4),
    }


def main() -> int:
    """Run; return 1 where a stream was not back in time, or was starved."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the eight busy streams")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hedge-live-") as name:
        shares = _shares(Path(name), seed=options.seed, seconds=options.seconds)
    print(json.dumps(shares), file=sys.stderr, flush=True)  # noqa: T201 -- progress
    with tempfile.TemporaryDirectory(prefix="hedge-live-") as name:
        folder = Path(name)
        with contextlib.ExitStack() as stack:
            device = Device(folder, seed=options.seed, stack=stack)
            device.all_there()
            begun_s = time.monotonic()
            found = list(_live_through(device))
            film_ended_s = 125 - (time.monotonic() - begun_s)
            time.sleep(max(0.0, film_ended_s))
            began_s = device.watch.first_after("film", 0.0) or 0.0
            silence_s = device.watch.silence_s("film", began_s, began_s + _SOUND_S)
            routes = {stream: dict(device.watch.routes[stream]) for stream in _PERIODIC}
            device.child.close()
        report = json.loads((folder / "report.json").read_bytes())
        log = (folder / "device.log").read_text("utf-8", "replace").splitlines()
    late = [
        one["fault"] for one in found if one["recovery_s"] is None or one["recovery_s"] > _MOST_S
    ]
    starved = shares["least_over_most"] < 0.9
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        "seed": options.seed,
        "asked_s": _MOST_S,
        "late": late,
        "faults": found,
        "film_that_changes_its_size_twice_longest_silence_s": round(silence_s, 3),
        "outcomes": routes,
        "sources": {one["stream"]: one["source"] for one in report["streams"]},
        "lines_logged": len(log),
        "log": log[:60],
        "shares": shares,
    }
    options.results.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps({**result, "log": None}, indent=1))  # noqa: T201 -- the answer
    return int(bool(late) or starved)


if __name__ == "__main__":
    sys.exit(main())
