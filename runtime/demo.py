"""`hedge demo`: a broker, a worker and a device on this machine, and what they achieve.

The three run as processes of their own, as they would in the field; the demo only writes
their configuration, watches the device's outcomes and does the sums.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from ..models.bundle import Bundle, load_bundle
from ..models.dataset import Dataset, load_dataset
from ..models.errors import DataError, HedgeError
from ..models.unseen import unseen
from ..uplink.link.broker_url import Broker
from .children import Child, child, ending
from .demo_figures import Tally, figures, table
from .far_end import far_end
from .progress import Progress
from .report import RunReport, check_place, write_json
from .shipped import bundle_path
from .sources.folder import read_sample

_RATE_HZ = 200.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "demo",
        help="watch a device, a broker and a worker cooperate on real data",
        description="Replay samples that no training saw through a device that asks a worker "
        "over MQTT only when it is unsure, and show what that is worth. Without arguments: "
        "scikit-learn's handwritten digits.",
    )
    parser.add_argument("bundle", nargs="?", default="digits", help="a bundle (default: digits)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="NPZ|DIR",
        help="the samples: an .npz with X and y, a folder that holds one, or a folder of .npy "
        "samples (default: NAME-unseen.npz beside the bundle)",
    )
    parser.add_argument(
        "--rate", type=_rate, default=_RATE_HZ, metavar="HZ", help="samples a second (default: 200)"
    )
    parser.add_argument(
        "--broker", metavar="URL", help="use this MQTT broker instead of an embedded one"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo; return the exit code."""
    check_place(options.json)
    if options.broker is not None:
        Broker.parse(options.broker)
    path = bundle_path(options.bundle)
    bundle = load_bundle(path)
    if not bundle.manifest.edge or bundle.manifest.cloud is None:
        raise HedgeError("the demo needs a bundle with an edge and a cloud model", where=str(path))
    source = options.data or _beside(path)
    rows, seen = unseen(_samples(source, bundle), bundle, where=str(source))
    print(_opening(bundle, rows, seen), flush=True)
    with tempfile.TemporaryDirectory(prefix="hedge-demo-") as folder:
        tally, report = _cooperate(
            path,
            rows,
            bundle.manifest.labels,
            folder=Path(folder),
            rate_hz=options.rate,
            broker=options.broker,
        )
    found = figures(bundle, rows, tally, report, seen=seen)
    print(table(found, bundle))
    write_json(options.json, found)
    if found.unanswered:
        raise HedgeError(
            f"{found.unanswered} of {found.samples} samples have no final outcome",
            where="device",
            hint="the figures above leave them out",
        )
    return 0


def _rate(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1e6:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1000000")


def _beside(bundle: Path) -> Path:
    """Return where a recipe leaves the rows that its bundle has not seen."""
    data = bundle.with_name(f"{bundle.resolve().name.removesuffix('.hedge')}-unseen.npz")
    if not data.exists():
        raise DataError("no data for this bundle", where=str(data), hint="name some with --data")
    return data


def _samples(path: Path, bundle: Bundle) -> Dataset:
    """Load the rows at ``path`` in the bundle's dtype; a folder of .npy files has no classes."""
    if path.is_dir() and not any(path.glob("*.npz")):
        files = sorted(path.glob("*.npy"))
        if not files:
            raise DataError("holds neither an .npz nor .npy samples", where=str(path))
        try:
            rows = np.stack([read_sample(file) for file in files])
        except ValueError as error:
            raise DataError("the samples differ in shape", where=str(path)) from error
        data = Dataset(x=rows)
    else:
        data = load_dataset(path)
    return data.fitted(bundle.input, labels=bundle.labels, where=str(path))


def _opening(bundle: Bundle, data: Dataset, seen: int) -> str:
    manifest = bundle.manifest
    left_out = f"; {seen} rows that they saw are left out" if seen else ""
    return (
        f"{manifest.name} {manifest.version}: {len(data.x)} samples that neither training nor "
        f"calibration saw{left_out}"
    )


def _cooperate(
    bundle: Path,
    data: Dataset,
    labels: tuple[str, ...],
    *,
    folder: Path,
    rate_hz: float,
    broker: str | None,
) -> tuple[Tally, RunReport]:
    """Run broker, worker and device over the samples; return what came of it."""
    np.savez(folder / "samples.npz", X=data.x)
    bundle = bundle.resolve()
    config = folder / "device.toml"
    with far_end(bundle, folder=folder, broker=broker) as far:
        config.write_text(_device_toml(bundle, folder, rate_hz=rate_hz, broker=far.broker), "utf-8")
        with child("device", ["run", str(config)], folder=folder) as device:
            tally = _watch(device, far.worker, Tally(data, labels), folder / "outcomes.jsonl")
    if device.process.returncode != 0:
        raise HedgeError(
            f"{ending(device.process.returncode)}: {device.last_words()}", where="device"
        )
    return tally, msgspec.json.decode((folder / "report.json").read_bytes(), type=RunReport)


def _device_toml(bundle: Path, folder: Path, *, rate_hz: float, broker: str) -> str:
    quoted = {name: json.dumps(str(folder / name)) for name in ("samples.npz", "outcomes.jsonl")}
    return f"""
[device]
name = "demo-{secrets.token_hex(4)}"
state_dir = {json.dumps(str(folder / "state"))}
[[stream]]
name = "demo"
bundle = {json.dumps(str(bundle))}
source = {{ kind = "replay", path = {quoted["samples.npz"]}, rate_hz = {rate_hz} }}
audit = {{ share = 0 }}
[uplink]
broker = {json.dumps(broker)}
[telemetry]
report = {json.dumps(str(folder / "report.json"))}
[[sink]]
kind = "jsonl"
path = {quoted["outcomes.jsonl"]}
"""


def _watch(device: Child, worker: Child, tally: Tally, outcomes: Path) -> Tally:
    """Follow the outcomes until the device has ended, and show how it goes."""
    lost = False
    with Progress() as progress:
        for _ in _until_ended(device):
            tally.follow(outcomes)
            if not lost and worker.process.poll() is not None:
                lost = True
                progress.say(
                    f"the worker is gone ({ending(worker.process.returncode)}): "
                    "the device goes on alone"
                )
            progress.show(tally.line())
    return tally


def _until_ended(device: Child) -> Iterator[None]:
    ended = False
    while not ended:
        ended = device.process.poll() is not None
        yield
        if not ended:
            time.sleep(0.1)
