"""Run a whole device for millions of samples, with outages throughout, and watch its memory.

    cd tests; python -m soak --samples 5000000 --rate 4000

The device is `hedge run` with its outbox on disk; it tells of itself on its telemetry
topic, as devices do. At the end every sum has to hold, and the memory must not have grown
by more than a megabyte for every million samples.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from hedge.runtime.children import Child, child
from hedge.uplink.outbox.recovery import survey

from . import bundle
from .outages import FarEnd

_RESULTS = Path(__file__).parent / "soak.json"
_WARM = 0.1  # of the samples, before memory counts
_MOST_MB_PER_MILLION = 1.0
_JUDGED_FROM = 1_000_000  # samples: what is bounded has to fill first
_PERIOD_S = 30.0
_SHARE = 0.25
_QUIET_S = 30.0  # at the end nothing is killed, so that what is owed can go
_READY_S = 60.0
_ENDS = ("answered", "refused", "expired", "evicted", "dead", "lost")  # of what was stored


def main() -> int:
    """Run; return 1 if a sum does not hold or the memory grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=5_000_000, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=4000.0, help="in a second (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--period", type=float, default=_PERIOD_S, help="of outages, in seconds")
    parser.add_argument("--quiet", type=float, default=_QUIET_S, help="seconds without at the end")
    parser.add_argument("--folder", type=Path, help="on the disk that the outbox is to be on")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hedge-soak-", dir=options.folder) as name:
        found = _run(Path(name), options)
    options.results.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    sys.stderr.write(json.dumps({**found, "memory": None}, indent=1) + "\n")
    return int(bool(found["faults"]))


def _run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    model, data = bundle.make(folder, samples=options.samples, seed=options.seed)
    far = FarEnd(folder, model, period_s=options.period, share=_SHARE)
    config = folder / "device.toml"
    config.write_text(_config(far.url, model, data, rate=options.rate))
    report = folder / "report.json"
    begun_s = time.monotonic()
    with contextlib.closing(far):
        far.open()
        with (
            contextlib.closing(_Listener(far.port)) as listener,
            child("device", ["run", str(config), "--json", str(report)], folder=folder) as device,
        ):
            device.wait_for("READY=1", timeout_s=_READY_S)
            _go_through(device, far, options.samples / options.rate - options.quiet)
        if not report.exists():
            raise SystemExit(f"the device ended: {device.last_words()}")
    told = json.loads(report.read_bytes())
    left = len(survey(folder / "state" / "outbox").asks)
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "python": platform.python_version(),
        "seed": options.seed,
        "seconds": round(time.monotonic() - begun_s, 1),
        "outages": {
            **far.counts,
            "broker_away_s": round(far.away_s, 1),
            "broker_away_share": round(far.away_s / told["seconds"], 3),
        },
        **_judged(told, listener.seen(), left=left, samples=options.samples),
    }


def _go_through(device: Child, far: FarEnd, outages_s: float) -> None:
    """Kill and start by the timetable until the device has ended by itself."""
    until_s = time.monotonic() + outages_s
    while device.process.poll() is None:
        if time.monotonic() < until_s:
            far.turn()
        else:
            far.settle()
        time.sleep(0.1)


def _judged(
    told: Mapping[str, Any], seen: NDArray[np.float64], *, left: int, samples: int
) -> dict[str, Any]:
    """Return the figures, and what of them must not be."""
    (stream,), uplink = told["streams"], told["uplink"]
    warm = seen[seen[:, 0] > _WARM * samples]
    slope = float(np.polyfit(warm[:, 0] / 1e6, warm[:, 1] / 1e6, 1)[0]) if len(warm) > 2 else None
    faults = []
    if stream["read"] != samples or sum(stream["routes"].values()) != samples:
        faults.append(f"{stream['read']} of {samples} read, {stream['routes']}")
    escalated = stream["routes"]["escalated"]
    if escalated != sum(stream["ends"].values()) or stream["waiting"]:
        faults.append(f"{escalated} escalated, {stream['ends']}, {stream['waiting']} waiting")
    ended = {name: uplink.get(name, 0) for name in _ENDS}
    if told["counts"].get("sink_errors"):
        faults.append(f"{told['counts']['sink_errors']} outcomes were not written")
    committed = escalated - stream["reasons"].get("not_stored", 0)
    if committed != sum(ended.values()) + left:
        faults.append(f"{committed} asks committed, {ended} and {left} left")
    if samples >= _JUDGED_FROM and (slope is None or slope > _MOST_MB_PER_MILLION):
        faults.append(f"memory grows by {slope} MB in a million samples")
    return {
        "samples": stream["read"],
        "routes": stream["routes"],
        "ends": stream["ends"],
        "reasons": stream["reasons"],
        "asks": {"committed": committed, **ended, "left": left},
        "uplink": uplink,
        "counts": told["counts"],
        "rss_mb_per_million_samples": None if slope is None else round(slope, 3),
        "rss_mb": _spread(warm[:, 1] / 1e6),
        "memory": _thinned(seen).tolist(),
        "faults": faults,
    }


def _spread(values: NDArray[np.float64]) -> dict[str, float] | None:
    if not len(values):
        return None
    return {"first": float(values[0]), "most": float(values.max()), "last": float(values[-1])}


def _thinned(seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return about a hundred of the points: samples read, bytes of memory."""
    return seen[:: max(1, len(seen) // 100)]


def _config(url: str, model: Path, data: Path, *, rate: float) -> str:
    return f"""
[device]
name = "d0"
site = "soak"
state_dir = "state"

[uplink]
broker = "{url}"

[telemetry]
every_s = 1

[[stream]]
name = "cam"
bundle = "{model}"
source = {{ kind = "replay", path = "{data}", rate_hz = {rate} }}
audit = {{ share = 0 }}
"""


class _Listener:
    """Hears what the device tells of itself."""

    def __init__(self, port: int) -> None:
        self._seen: list[tuple[float, float]] = []
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="soak-listener")
        self._client.reconnect_delay_set(min_delay=1, max_delay=1)
        self._client.on_connect = lambda peer, *_: peer.subscribe("hedge/1/soak/d0/telemetry")
        self._client.on_message = lambda _peer, _data, message: self._hear(message.payload)
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()

    def close(self) -> None:
        """Hear no more."""
        self._client.disconnect()
        self._client.loop_stop()

    def _hear(self, payload: bytes | bytearray) -> None:
        told = json.loads(payload)
        read = sum(stream["read"] for stream in told["streams"].values())
        self._seen.append((read, told["rss_bytes"]))

    def seen(self) -> NDArray[np.float64]:
        """Return samples read and bytes of memory, (n, 2)."""
        return np.array(self._seen, np.float64).reshape(-1, 2)


if __name__ == "__main__":
    raise SystemExit(main())
