"""What may leave the device: pictures without details, features, or nothing; held at one place."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.errors import BundleError, ConfigError, ModelError
from hedge.models.manifest import Calibration, Cloud, Edge, Input, Manifest, Split
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.models.records import Outcome
from hedge.runtime.backends.null import NullModel
from hedge.runtime.both_ends import contract_of
from hedge.runtime.config import load_config
from hedge.runtime.daemon import serve
from hedge.runtime.lane import Lane
from hedge.runtime.loop import Loop
from hedge.runtime.policy import Policy
from hedge.runtime.privacy import Blurred, Cropped, Features, Nothing, Privacy, Share, sharing
from hedge.runtime.sources.replay import Replay
from hedge.telemetry.clock import boottime_ns
from hedge.telemetry.ledger import Ledger
from hedge.uplink import wire
from hedge.uplink.absent import Absent
from hedge.uplink.asks import Ask

_HWC = Input(kind="image", shape=(7, 10, 3), dtype="uint8", scale=1 / 255)
_PICTURE = np.random.default_rng(5).integers(0, 256, (7, 10, 3)).astype(np.uint8)


def _block_means(picture: NDArray[np.uint8], block: int) -> NDArray[np.uint8]:
    """Return what the docstring says, a block at a time."""
    found: NDArray[np.uint8] = picture.copy()
    for top in range(0, picture.shape[0], block):
        for left in range(0, picture.shape[1], block):
            part = picture[top : top + block, left : left + block].reshape(-1, 3)
            mean = [int(np.floor(part[:, c].mean() + 0.5)) for c in range(3)]
            found[top : top + block, left : left + block] = mean
    return found


def test_a_blurred_picture_is_the_means_of_its_blocks() -> None:
    shared = Blurred(_HWC, Privacy(share="blurred", blur=0.3))(_PICTURE)
    assert np.array_equal(shared, _block_means(_PICTURE, 3))
    assert (shared.dtype, shared.shape) == (_PICTURE.dtype, _PICTURE.shape)


def test_pictures_that_differ_in_detail_alone_are_the_same_once_blurred() -> None:
    blur = Blurred(_HWC, Privacy(share="blurred", blur=0.5))
    other = _PICTURE.copy()
    other[:2, :2] = other[:2, :2][::-1, ::-1]
    assert not np.array_equal(other, _PICTURE)
    assert np.array_equal(blur(other), blur(_PICTURE))


def test_within_a_region_only_that_is_blurred_and_the_sample_itself_stays() -> None:
    before = _PICTURE.copy()
    privacy = Privacy(share="blurred", blur=0.4, region=(0.2, 0.0, 0.5, 0.5))
    shared = Blurred(_HWC, privacy)(_PICTURE)
    rows, columns = slice(0, 4), slice(2, 7)  # 3.5 rows: the fourth is partly in it
    expected = _PICTURE.copy()
    expected[rows, columns] = _block_means(_PICTURE[rows, columns], 4)
    assert np.array_equal(shared, expected)
    assert np.array_equal(_PICTURE, before)


def test_a_cropped_picture_is_grey_but_for_its_region() -> None:
    shared = Cropped(_HWC, Privacy(share="cropped", region=(0.25, 0.0, 0.5, 0.5)))(_PICTURE)
    expected = np.full_like(_PICTURE, 128)
    expected[:3, 3:7] = _PICTURE[:3, 3:7]  # 2.5 and 7.5 columns: half a pixel is not shown
    assert np.array_equal(shared, expected)


@pytest.mark.parametrize(
    "privacy",
    [
        Privacy(share="blurred", blur=0.4, region=(0.2, 0.0, 0.5, 0.5)),
        Privacy(share="cropped", region=(0.2, 0.1, 0.5, 0.5)),
    ],
)
def test_the_layout_changes_nothing_of_it(privacy: Privacy) -> None:
    make: type[Blurred | Cropped] = Blurred if privacy.share == "blurred" else Cropped
    by_rows = make(_HWC, privacy)(_PICTURE)
    planes = Input(kind="image", shape=(3, 7, 10), dtype="uint8", layout="CHW")
    shared = make(planes, privacy)(np.ascontiguousarray(_PICTURE.transpose(2, 0, 1)))
    assert np.array_equal(shared.transpose(1, 2, 0), by_rows)
    grey = Input(kind="image", shape=(7, 10), dtype="uint8", layout="HW")
    shared = make(grey, privacy)(np.ascontiguousarray(_PICTURE[:, :, 1]))
    assert np.array_equal(shared, by_rows[:, :, 1])


class _Asked(Absent):
    """Keeps what is offered to it."""

    def __init__(self) -> None:
        super().__init__()
        self.asks: list[Ask] = []

    def offer(self, ask: Ask) -> bool:
        self.asks.append(ask)
        return True


class _Kept:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def emit(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def close(self) -> None: ...


def _escalated(share: Share) -> tuple[list[Ask], list[Outcome], Ledger, Loop]:
    """Return what a loop does with one picture of which its model knows nothing."""
    calibration = Calibration(
        score="vacuity", total=0.5, method="test", rows=1, data_sha256="0" * 64
    )
    ledger, uplink, kept = Ledger("door"), _Asked(), _Kept()
    lane = Lane(
        name="door",
        source=Replay(_PICTURE[None]),
        input=_HWC,
        filters=[],
        model=NullModel(np.array([[-5.0, -5.0]]), shape=_HWC.shape),
        prepare=preparer(_HWC),
        assessor=Assessor(output="logits", head="evidential", classes=2),
        policy=Policy.of(calibration),
        ledger=ledger,
        clock=boottime_ns,
        answer_within_ns=1,
        share=share,
    )
    loop = Loop(
        [lane],
        ids=iter(["1-0"]),
        sinks=[kept],
        uplink=uplink,
        bell=threading.Event(),
        clock=boottime_ns,
        feeds=[],
    )
    loop.run()
    assert ledger.imbalance() is None
    return uplink.asks, kept.outcomes, ledger, loop


def test_what_is_offered_to_the_uplink_is_what_may_be_shared() -> None:
    share = Blurred(_HWC, Privacy(share="blurred", blur=0.3))
    (ask,), outcomes, _, _ = _escalated(share)
    assert np.array_equal(ask.body, share(_PICTURE))
    assert ask.entry == "input"
    assert [one.final for one in outcomes] == [False, True]


def test_where_nothing_may_leave_the_edge_has_the_last_word_at_once() -> None:
    asks, (first, final), ledger, _ = _escalated(Nothing())
    assert asks == []
    assert (first.final, final.final, final.route, final.degraded) == (
        *(False, True, "edge"),
        "not_shared",
    )
    assert ledger.ends["refused"] == 1


def test_what_cannot_be_made_shareable_stays_and_the_loop_goes_on() -> None:
    class Broken:
        entry = "input"

        def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
            raise ModelError("has failed", where=str(sample.shape))

    asks, outcomes, _, loop = _escalated(Broken())  # type: ignore[arg-type]  # fails before
    assert asks == []
    assert outcomes[-1].degraded == "not_shared"
    assert loop.counts["share_errors"] == 1


def _bundle(folder: Path, spec: Input, linear: Callable[..., bytes]) -> Bundle:
    manifest = Manifest(
        format=1,
        name="door",
        version="1.0",
        task="classification",
        labels=("no", "yes"),
        licence="Apache-2.0",
        input=spec,
        edge=(Edge(name="small", file="edge.onnx"),),
        files={},
    )
    data = linear(2, shape=spec.shape, dtype=spec.dtype)
    return write_bundle(folder / "door", manifest, {"edge.onnx": data})


@pytest.mark.parametrize(
    ("privacy", "kind", "says"),
    [
        (Privacy(share="blurred"), "tensor", "is for pictures"),
        (Privacy(share="cropped"), "image", "no region"),
        (Privacy(share="cropped", region=(0.5, 0, 0.6, 1)), "image", "no part of the picture"),
        (Privacy(share="blurred", region=(0, 0, 0, 1)), "image", "no part of the picture"),
        (Privacy(share="cropped", region=(0.1, 0.1, 0.1, 0.5)), "image", "no whole pixel of 5x4"),
        (Privacy(share="features"), "image", r"no \[split\]"),
    ],
)
def test_what_the_samples_do_not_have_is_refused_before_anything_starts(
    tmp_path: Path,
    linear_onnx: Callable[..., bytes],
    privacy: Privacy,
    kind: str,
    says: str,
) -> None:
    spec = msgspec.convert({"kind": kind, "shape": [4, 5, 3], "dtype": "float32"}, Input)
    if kind == "image":
        spec = msgspec.structs.replace(spec, dtype="uint8", scale=1 / 255)
    bundle = _bundle(tmp_path, spec, lambda *a, **k: linear_onnx(*a, **{**k, "dtype": "float32"}))

    def features() -> Features:
        raise AssertionError("is not to be opened")

    with pytest.raises(ConfigError, match=says) as caught:
        sharing(privacy, bundle, where="stream door: privacy", features=features)
    assert str(caught.value).startswith("stream door: privacy")


@pytest.fixture
def halves(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: Mapping[str, bytes],
    linear_onnx: Callable[..., bytes],
) -> Bundle:
    """Give a bundle whose edge is never sure, with a [split] and no other cloud model."""
    assert manifest.calibration is not None
    changed = msgspec.structs.replace(
        manifest,
        filter=(),
        cloud=None,
        split=Split(file="here.onnx", width=2, cloud=Cloud(file="there.onnx")),
        calibration=msgspec.structs.replace(manifest.calibration, total=0.0),
    )
    files = {name: bundle_files[name] for name in ("edge.onnx", "seen.npy")}
    files["here.onnx"] = linear_onnx(2, seed=11)
    files["there.onnx"] = linear_onnx(3, seed=12, shape=(2,))
    return write_bundle(tmp_path / "halves", changed, files)


def test_only_features_reach_the_broker_and_the_other_half_answers_from_them(
    tmp_path: Path, halves: Bundle, free_port: int, start_broker: Callable[..., object]
) -> None:
    start_broker("mosquitto", free_port)
    broker = f"mqtt://127.0.0.1:{free_port}"
    x = np.random.default_rng(7).normal(size=(5, 4)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=x)
    (tmp_path / "device.toml").write_text(
        f'[device]\nname = "d"\nstate_dir = "state"\n[uplink]\nbroker = "{broker}"\n'
        f'[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n[[stream]]\nname = "s"\n'
        f'bundle = "{halves.path}"\nanswer_within_ms = 20000\n'
        'privacy = { share = "features" }\nsource = { kind = "replay", path = "rows.npz" }\n'
    )
    heard: list[bytes] = []
    listener = Client(CallbackAPIVersion.VERSION2)
    listener.on_message = lambda _client, _data, message: heard.append(bytes(message.payload))
    listener.connect("127.0.0.1", free_port)
    listener.subscribe("hedge/1/+/+/ask/#")
    listener.loop_start()
    worker = subprocess.Popen(
        [sys.executable, "-m", "hedge", "worker", str(halves.path), "--broker", broker],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        report = serve(load_config(tmp_path / "device.toml", environ={}), base=tmp_path)
    finally:
        worker.kill()
        worker.wait()
        listener.loop_stop()
        listener.disconnect()
    assert report.streams[0].ends["answered"] == 5, report.streams[0]
    normal = [np.random.default_rng(seed).normal for seed in (11, 12)]
    here, there = normal[0](size=(4, 2)), normal[1](size=(2, 3))
    features = (x @ here.astype(np.float32)).astype(np.float16)
    asks = {ask.id: ask for ask in map(wire.decode_request, heard)}
    assert len(asks) == 5
    for number, ask in enumerate(sorted(asks.values(), key=lambda one: one.id)):
        assert (ask.entry, ask.dtype, ask.shape) == ("features", "float16", (2,))
        sent = np.frombuffer(ask.body, np.float16)
        assert sent == pytest.approx(features[number], rel=2e-3)
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    finals = [one for one in map(msgspec.json.decode, lines) if one["final"]]
    logits = features.astype(np.float64) @ there
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = [one["probs"] for one in sorted(finals, key=lambda one: str(one["id"]))]
    assert np.array(found) == pytest.approx(probs, rel=5e-3)


def test_samples_and_features_are_asked_by_different_contracts(halves: Bundle) -> None:
    whole, features = contract_of(halves), contract_of(halves, features=True)
    assert whole.digest != features.digest
    assert (features.shape, features.dtype) == ((2,), "float16")


def test_a_half_of_another_width_is_refused(
    tmp_path: Path, halves: Bundle, linear_onnx: Callable[..., bytes]
) -> None:
    files = {name: halves.read(name) for name in halves.manifest.files}
    with pytest.raises(ModelError, match="features"):
        write_bundle(
            tmp_path / "wrong", halves.manifest, {**files, "here.onnx": linear_onnx(4, seed=11)}
        )
    with pytest.raises((ModelError, BundleError), match="input"):
        write_bundle(
            tmp_path / "wrong",
            halves.manifest,
            {**files, "there.onnx": linear_onnx(3, seed=12, shape=(5,))},
        )
    assert load_bundle(halves.path).digest == halves.digest
