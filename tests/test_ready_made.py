"""Models that none of us trained, wrapped by `hedge bundle init` and run through the runtime.

What the runtime makes of every row has to be what the bare interpreter makes of it. Two of
the files keep the state of a recurrent net from one call to the next: both ways of taking
them are tried.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.bundle import Bundle, load_bundle
from hedge.models.errors import ModelError
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.runtime import bundle_init
from hedge.runtime.backends import open_part
from hedge.runtime.backends.warm_up import warm_up

interpreter = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="ai-edge-litert is not installed"
)
if not os.environ.get("HEDGE_DATA"):
    pytest.skip("HEDGE_DATA does not say where the models are", allow_module_level=True)

DATA = Path(os.environ["HEDGE_DATA"])
MODELS = DATA / "models"
KEYWORDS_SCALE, KEYWORDS_ZERO = 0.5847029089927673, 83
Rows = NDArray[Any]


class Samples(NamedTuple):
    """Rows (N, *shape) as a bundle takes them, with their classes, if these are known."""

    x: Rows
    y: NDArray[np.int64] | None
    labels: tuple[str, ...]

    def every(self, step: int) -> Samples:
        """Return each ``step``-th row."""
        return Samples(self.x[::step], None if self.y is None else self.y[::step], self.labels)


@cache
def cifar() -> Samples:
    image = pytest.importorskip("PIL.Image", reason="Pillow, which reads JPEG, is not installed")
    with np.load(DATA / "cifar10_jpeg" / "cifar10_test_half.npz") as found:
        data, ends = found["jpeg"].tobytes(), found["offset"].tolist()
        y, labels = found["y"].astype(np.int64), tuple(found["label_names"].tolist())
    pictures = (data[begin:end] for begin, end in pairwise(ends))
    x = np.stack([np.asarray(image.open(io.BytesIO(one)).convert("RGB")) for one in pictures])
    return Samples(x, y, labels)


@cache
def mnist() -> Samples:
    with np.load(DATA / "mnist" / "mnist_test.npz") as found:
        return Samples(found["X"], found["y"].astype(np.int64), tuple("0123456789"))


@cache
def keywords() -> Samples:
    with np.load(DATA / "kws12" / "kws12_mfcc_int8.npz") as found:
        labels = tuple(found["label_names"].tolist())
        return Samples(found["X"][..., None], found["y"].astype(np.int64), labels)


@cache
def people() -> Samples:
    """Return the two grey pictures that come with the models, as RGB, and noise."""
    image = pytest.importorskip("PIL.Image", reason="Pillow, which reads BMP, is not installed")
    names = ("no_person.bmp", "person.bmp")
    shown = [np.asarray(image.open(MODELS / "test_inputs" / one).convert("RGB")) for one in names]
    noise = np.random.default_rng(2).integers(0, 256, (30, 96, 96, 3), np.uint8)
    return Samples(np.concatenate([np.stack(shown), noise]), None, ("nobody", "person"))


def features() -> Samples:
    """Return numbers that pass for the features of a sound."""
    x = np.random.default_rng(3).integers(-128, 128, (300, 1960)).astype(np.int8)
    return Samples(x, None, ("silence", "unknown", "yes", "no"))


class Case(NamedTuple):
    """A ready-made classifier: its rows, what init has to be told, what it has to reach."""

    samples: Callable[[], Samples]
    words: tuple[str, ...] = ()
    step: int = 1
    resets: bool = False
    least: float | None = None


_BYTES = ("--input-dtype", "uint8", "--scale", "1")
_UNIT = ("--input-dtype", "uint8", "--scale", "1/255")
CASES: Mapping[str, Case] = {
    "mlperf_tiny_ic_resnet8_float": Case(cifar, _BYTES, least=0.75),
    "mlperf_tiny_ic_resnet8_int8": Case(cifar, _BYTES, least=0.75),
    "mlperf_tiny_ic_resnet_large_float": Case(cifar, _BYTES, step=20, least=0.75),
    "mlperf_tiny_ic_resnet_large_int8": Case(cifar, step=10, least=0.78),
    "mlperf_tiny_kws_dscnn_float": Case(
        keywords,
        ("--input-dtype", "int8", f"--scale={KEYWORDS_SCALE}", f"--offset={KEYWORDS_ZERO}"),
        least=0.90,
    ),
    "mlperf_tiny_kws_dscnn_int8": Case(keywords, least=0.90),
    "mlperf_tiny_vww_mobilenet96_float": Case(people, _UNIT),
    "mlperf_tiny_vww_mobilenet96_int8": Case(people),
    "tflm_micro_speech_int8": Case(features),
    "tflm_mnist_lstm_float": Case(mnist, _UNIT, least=0.92),
    "tflm_mnist_lstm_float, reset": Case(
        mnist, (*_UNIT, "--state", "reset"), step=5, resets=True, least=0.98
    ),
    "tflm_mnist_lstm_int8": Case(mnist, least=0.92),
    "tflm_mnist_lstm_int8, reset": Case(
        mnist, ("--state", "reset"), step=10, resets=True, least=0.98
    ),
}


def wrapped(name: str, out: Path, *words: str | Path, labels: tuple[str, ...]) -> Bundle:
    """Return the bundle that `hedge bundle init` makes of a ready-made model."""
    verbs = argparse.ArgumentParser(prog="hedge bundle")
    bundle_init.add_parser(verbs.add_subparsers())
    given = [str(MODELS / f"{name}.tflite"), "--labels", ",".join(labels), "--out", str(out)]
    options = verbs.parse_args(["init", *given, *map(str, words)])
    assert options.run(options) == 0
    return load_bundle(out)


def bare(name: str, real: NDArray[np.float64], stored: Rows, *, resets: bool) -> Rows:
    """Return the probabilities (N, K) that the bare interpreter gives, row by row.

    A graph of floats is fed ``real``, one of integers ``stored``, brought to its own.
    """
    model = interpreter.Interpreter(model_path=str(MODELS / f"{name}.tflite"), num_threads=1)
    model.allocate_tensors()
    (source,), (target,) = model.get_input_details(), model.get_output_details()
    rows = stored if source["dtype"] == np.int8 else real.astype(np.float32)
    scale, zero = target["quantization"]
    outputs = []
    for row in rows:
        if resets:
            model.reset_all_variables()
        model.set_tensor(source["index"], row[None])
        model.invoke()
        given = model.get_tensor(target["index"])[0]
        outputs.append((given.astype(np.float32) - zero) * np.float32(scale) if scale else given)
    return np.stack(outputs)


def through_the_runtime(bundle: Bundle, x: Rows) -> tuple[Rows, NDArray[np.int64]]:
    """Return the outputs (N, K), and the classes (N,) of the opinions on them, row by row."""
    (edge,) = bundle.manifest.edge
    assessor = Assessor.of(edge, classes=len(bundle.labels))
    with closing(open_part(bundle, edge)) as model:
        warm_up(model)
        prepare = preparer(bundle.input, model.spec.inputs[0])
        outputs = np.stack([model.infer(prepare(row[None]))[0] for row in x])
    opinions = [assessor.assess(row) for row in outputs]
    return outputs, np.array([int(one.probs.argmax()) for one in opinions])


def _fed(name: str, x: Rows) -> tuple[NDArray[np.float64], Rows]:
    """Return samples as real numbers, and as the integers of a quantised graph, by hand."""
    if "kws" in name:
        return (x.astype(np.float64) - KEYWORDS_ZERO) * np.float32(KEYWORDS_SCALE), x
    if x.dtype == np.int8:
        return x.astype(np.float64), x
    real = x.astype(np.float64) / (1 if "_ic_" in name else 255)
    return real, (x.astype(np.int16) - 128).astype(np.int8)


@pytest.mark.parametrize("name", CASES)
def test_predictions_are_those_of_the_bare_interpreter_and_as_good_as_promised(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    case = CASES[name]
    name = name.partition(",")[0]
    x, y, labels = case.samples().every(case.step)
    bundle = wrapped(name, tmp_path / "bundle", *case.words, labels=labels)
    expected = bare(name, *_fed(name, x), resets=case.resets)
    outputs, classes = through_the_runtime(bundle, x)
    np.testing.assert_array_equal(classes, expected.argmax(axis=1))
    if "float" in name:  # 1/255 is not the same in float32 and float64
        np.testing.assert_allclose(outputs, expected, atol=1e-4)
    else:
        np.testing.assert_array_equal(outputs, expected)
    if y is not None and case.least is not None:
        accuracy = float(np.mean(classes == y))
        record_property("accuracy", f"{accuracy:.4f} on {len(x)} rows")
        assert round(accuracy, 2) >= case.least


def test_the_opinion_of_a_net_that_is_reset_depends_on_no_other_sample(
    tmp_path: Path,
) -> None:
    x, _, labels = mnist()
    words = ("--state", "reset")
    bundle = wrapped("tflm_mnist_lstm_int8", tmp_path / "bundle", *words, labels=labels)
    first, _ = through_the_runtime(bundle, x[:20])
    last, _ = through_the_runtime(bundle, x[:20][::-1])
    np.testing.assert_array_equal(first, last[::-1])


def test_the_threshold_of_a_net_that_is_reset_is_found_with_resets(tmp_path: Path) -> None:
    x, _, labels = mnist()
    np.savez(tmp_path / "rows.npz", X=x[:500])
    words = ("--state", "reset", "--calibrate", tmp_path / "rows.npz", "--escalate", "0.2")
    bundle = wrapped("tflm_mnist_lstm_float", tmp_path / "b", *_UNIT, *words, labels=labels)
    outputs, _ = through_the_runtime(bundle, x[:500])
    calibration = bundle.manifest.calibration
    assert calibration is not None
    assert 0.15 < np.mean(1 - outputs.max(axis=1) > calibration.total) <= 0.2


def test_a_batch_gives_what_its_rows_give(tmp_path: Path) -> None:
    for name, samples in (
        ("mlperf_tiny_kws_dscnn_int8", keywords),
        ("tflm_mnist_lstm_int8", mnist),
    ):
        x, _, labels = samples()
        bundle = wrapped(name, tmp_path / name, labels=labels)
        (edge,) = bundle.manifest.edge
        expected, _ = through_the_runtime(bundle, x[:7])
        with closing(open_part(bundle, edge)) as model:
            prepare = preparer(bundle.input, model.spec.inputs[0])
            np.testing.assert_array_equal(model.infer(prepare(x[:7])), expected)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mlperf_tiny_ad_autoencoder_float", "has 640 classes, but there are 2 labels"),
        ("mlperf_tiny_ad_autoencoder_int8", "has 640 classes, but there are 2 labels"),
        ("tflm_hello_world_int8", "is one number for each sample: no classifier of 2 or more"),
        ("tflm_dtln_noise_suppression_int8", r"is \(1, 1, 257\), not \(B, K\)"),
    ],
)
def test_what_is_no_classifier_is_refused_in_one_line(name: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=line) as caught:
        wrapped(name, tmp_path / "bundle", labels=("a", "b"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_every_model_that_is_there_was_tried() -> None:
    tried = {name.partition(",")[0] for name in CASES}
    tried |= {"mlperf_tiny_ad_autoencoder_float", "mlperf_tiny_ad_autoencoder_int8"}
    tried |= {"tflm_hello_world_int8", "tflm_dtln_noise_suppression_int8"}
    assert {path.stem for path in MODELS.glob("*.tflite")} == tried


def test_hedge_run_serves_a_ready_made_model_from_end_to_end(tmp_path: Path) -> None:
    x, y, labels = keywords()
    assert y is not None
    np.savez(tmp_path / "calibration.npz", X=x[:200], y=y[:200])
    np.savez(tmp_path / "data.npz", X=x[200:])
    words = ("--calibrate", tmp_path / "calibration.npz", "--escalate", "0.2")
    bundle = wrapped("mlperf_tiny_kws_dscnn_int8", tmp_path / "kws", *words, labels=labels)
    (tmp_path / "device.toml").write_text(
        """
        [device]
        name = "porch"
        state_dir = "state"
        [[stream]]
        name = "words"
        bundle = "kws"
        source = { kind = "replay", path = "data.npz" }
        [[sink]]
        kind = "jsonl"
        path = "outcomes.jsonl"
        """
    )
    command = [sys.executable, "-m", "hedge", "run", "device.toml", "--json", "report.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (stream,) = json.loads((tmp_path / "report.json").read_text())["streams"]
    assert stream["read"] == 300
    assert 0 < stream["routes"]["escalated"] < 120
    lines = (tmp_path / "outcomes.jsonl").read_text().splitlines()
    final = [one for one in map(json.loads, lines) if one["final"]]
    final.sort(key=lambda one: int(one["id"].rpartition("-")[2]))
    _, expected = through_the_runtime(bundle, x[200:])
    assert [one["label"] for one in final] == [labels[number] for number in expected]
