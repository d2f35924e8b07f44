"""Person at the door: a camera's stream, a ready-made model at the edge, and events with clips.

The edge is MLPerf Tiny's visual wake words (MobileNet, int8), which never saw this place. The
cloud is a net that was taught on the first third of the clip: what a second model learns from a
camera's own pictures. It knows this place and no other. When to ask is found on the first half of
the clip, by what the edge makes of it alone; the second half is played, by a real RTSP server.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hedge.models.bundle import load_bundle
from hedge.models.manifest import ImageInput, Input
from hedge.models.proposal import ModelFile, Wishes, propose
from hedge.models.training.export import to_onnx
from hedge.models.training.fitting import Course, Material, epochs, fit, repeatable
from hedge.models.training.losses import cross_entropy
from hedge.models.training.sampling import samples
from hedge.runtime.bundle_init import init

from .running import number_of
from .scene import Place, Scene

_CLIP = "one_by_one_person.mp4"
_MODEL = "mlperf_tiny_vww_mobilenet96_int8.tflite"
_LABELS = ("none", "person")
_RATE_HZ = 10.0
_TAUGHT, _HALF = 450, 700  # pictures; every tenth begins anew, so that the clip can be cut there
_ESCALATED = 0.2
_SERVER = Path(__file__).parents[1] / "rtsp_server.py"
_PYTHON = "/usr/bin/python3"  # the system's: GStreamer's introspection is its package
_SPEC = Input(
    kind="image",
    shape=(96, 96, 3),
    dtype="uint8",
    layout="HWC",
    scale=1 / 255,
    image=ImageInput(fit="letterbox"),
)


def scene(place: Place) -> Scene:
    """Teach the cloud, find when to ask, and serve the second half of the clip."""
    clip = place.data / "video" / _CLIP
    x = samples(_SPEC, _pictures(clip), name="person")
    visits = _visits(clip.with_name("labels_intervals.tsv"))
    y = np.zeros(len(x), np.int64)
    for first, last in visits:
        y[first : last + 1] = 1
    bundle = _bundle(place, x[:_HALF], y[:_HALF])
    end = len(x) if place.samples is None else min(len(x), _HALF + place.samples)
    film = place.folder / "door.mp4"
    _cut(clip, film, begin=_HALF, end=end)
    return Scene(
        bundle=bundle,
        x=x[_HALF:end],
        y=y[_HALF:end],
        play=lambda: None,
        values={
            '"rtsp://192.168.1.20/door"': f'"{_serve(film, place)}"',
            '"mqtt://127.0.0.1:1883"': f'"{place.broker}"',
        },
        more=lambda events: _seen(
            events, [(a - _HALF, b - _HALF) for a, b in visits if b >= _HALF and a < end]
        ),
    )


class Shown(nn.Module):
    """Takes pictures (B, 96, 96, 3) of 0 to 1 to (B, 3, 96, 96) of about -1 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Return 2x - 1, channels first."""
        return x.permute(0, 3, 1, 2) * 2.0 - 1.0


def augment(x: Tensor) -> Tensor:
    """Return the pictures ``x`` (B, 96, 96, 3) mirrored or not, lighter or darker, moved a bit."""
    batch = len(x)
    mirrored = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, x.flip(2), x)
    rows, columns = (torch.randint(-4, 5, (batch,)) for _ in range(2))
    moved = [
        one.roll((int(row), int(column)), (0, 1))
        for one, row, column in zip(mirrored, rows, columns, strict=True)
    ]
    light = 1.0 + 0.15 * torch.randn(batch, 1, 1, 1)
    return (torch.stack(moved) * light).clamp(0.0, 1.0)


def _net() -> nn.Module:
    layers: list[nn.Module] = [Shown()]
    for before, after in ((3, 12), (12, 24), (24, 32), (32, 48)):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(48, 2)
    )


def _bundle(place: Place, x: NDArray[Any], y: NDArray[np.int64]) -> Path:
    """Teach the cloud, and have `hedge bundle init` put the two models together."""
    images = torch.from_numpy(x.astype(np.float32) / 255.0)
    classes = torch.from_numpy(y)
    material = Material(images[:_TAUGHT], classes[:_TAUGHT], images[_TAUGHT:], classes[_TAUGHT:])
    course = Course(
        net=_net,
        loss=cross_entropy,
        epochs=epochs(25, place.effort),
        batch=32,
        decay=1e-2,
        augment=augment,
    )
    with repeatable(place.seed):
        net = fit(course, material, name="cloud", say=place.say)
        cloud = to_onnx(net, shape=_SPEC.shape, dtype="float32")
    (place.folder / "cloud.onnx").write_bytes(cloud)
    edge = ModelFile(_MODEL, (place.data / "models" / _MODEL).read_bytes())
    wishes = Wishes(
        labels=_LABELS,
        name="person",
        licence="Apache-2.0 (edge: MLPerf Tiny), CC-BY-4.0 (cloud: taught on Intel's sample clip)",
        kind="image",
        dtype="uint8",
        scale=1 / 255,
        fit="letterbox",
    )
    rows = place.folder / "pictures.npz"
    np.savez(rows, X=x)  # no classes: the cloud has learnt some of them by heart
    proposal = propose({"": edge}, ModelFile("cloud.onnx", cloud), wishes)
    made = place.folder / "person.hedge"
    init(made, proposal, data=rows, escalate=_ESCALATED)
    bundle = load_bundle(made)
    assert bundle.input == _SPEC, bundle.input
    return made


def _serve(film: Path, place: Place) -> str:
    """Start a real RTSP server, and return where the film is."""
    command = [_PYTHON, str(_SERVER), str(film)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    place.stack.callback(server.wait)
    place.stack.callback(server.kill)
    assert server.stdout is not None
    place.stack.callback(server.stdout.close)
    port = server.stdout.readline().strip()
    if not port:
        raise SystemExit("the RTSP server does not start: has the system python3-gi?")
    return f"rtsp://127.0.0.1:{port}/film"


def _pictures(clip: Path) -> Iterator[NDArray[np.uint8]]:
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def _visits(path: Path) -> list[tuple[int, int]]:
    """Return the first and the last picture of everybody who is seen."""
    rows = (line.split("\t") for line in path.read_text("utf-8").splitlines())
    return [(int(row[1]), int(row[2])) for row in rows if row[0] == _CLIP]


def _cut(clip: Path, out: Path, *, begin: int, end: int) -> None:
    """Copy the pictures from ``begin`` to ``end`` as they are compressed."""
    with av.open(str(clip)) as source, av.open(str(out), "w") as target:
        (video,) = source.streams.video
        copy = target.add_stream_from_template(video)
        number, first = 0, None
        for packet in source.demux(video):
            if packet.dts is None:
                continue
            if begin <= number < end:
                first = packet.dts if first is None else first
                packet.pts, packet.dts = (packet.pts or 0) - first, packet.dts - first
                packet.stream = copy
                target.mux(packet)
            number += 1


def _seen(events: list[dict[str, Any]], visits: list[tuple[int, int]]) -> dict[str, Any]:
    """Say which visits were told as events, and how long after they began, in pictures."""
    opened = {
        one["id"]: number_of(one["samples"][-1]) for one in events if one["state"] == "opened"
    }
    closed = {
        one["id"]: number_of(one["samples"][-1]) for one in events if one["state"] == "closed"
    }
    spans = [(begin, closed.get(name, begin)) for name, begin in opened.items()]
    found = [
        next((a for a, b in spans if a <= last and b >= first), None) for first, last in visits
    ]
    false = [one for one in spans if all(one[0] > b or one[1] < a for a, b in visits)]
    return {
        "visits": len(visits),
        "events": len(spans),
        "visits_told": sum(one is not None for one in found),
        "false_events": len(false),
        "told_after_s": [
            None if at is None else round(max(0, at - first) / _RATE_HZ, 1)
            for at, (first, _) in zip(found, visits, strict=True)
        ],
        "clips": sum(1 for one in events if one["state"] == "clip" and one["clip"].get("path")),
    }
