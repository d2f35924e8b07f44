"""Tests of the device as a whole: a configuration in, outcomes out."""

from __future__ import annotations

import json
import logging
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedge.models.bundle import write_bundle
from hedge.models.errors import ConfigError
from hedge.models.manifest import Edge, Input, Manifest
from hedge.runtime.config import load_config
from hedge.runtime.daemon import serve

on_gpu = runpy.run_path(str(Path(__file__).with_name("gpu_machine.py")))["machine"]
_ROWS = np.array([[200, 10, 90, 255], [0, 250, 3, 17], [128, 129, 1, 60]], np.uint8)


@pytest.fixture
def scaled(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: Mapping[str, bytes],
    linear_tflite: Callable[..., bytes],
) -> Path:
    """Give a bundle of bytes that are scaled, with variants in ONNX and int8 TFLite."""
    assert manifest.calibration is not None
    changed = msgspec.structs.replace(
        manifest,
        input=Input(kind="tensor", shape=(4,), dtype="uint8", scale=1 / 128, offset=100.0),
        edge=(
            Edge(name="onnx", file="edge.onnx", head="softmax"),
            Edge(
                name="int8",
                file="edge.tflite",
                format="tflite",
                output="probabilities",
                precision="int8",
            ),
        ),
        calibration=msgspec.structs.replace(manifest.calibration, score="max_prob", total=2.0),
        training=None,
    )
    files = {**bundle_files, "edge.tflite": linear_tflite(3, int8=True)}
    del files["seen.npy"]
    return write_bundle(tmp_path / "scaled", changed, files).path


def run(
    folder: Path,
    bundle: Path,
    more: str = "",
    *,
    times: int = 1,
    rate: str = "1e6",
    board: str = "generic-x86",
) -> list[dict[str, Any]]:
    """Serve `_ROWS` through a bundle, several times, and return the outcomes."""
    rows = np.concatenate([_ROWS] * times)
    np.savez(folder / "rows.npz", X=rows, y=np.zeros(len(rows), np.int64))
    (folder / "out.jsonl").unlink(missing_ok=True)
    (folder / "device.toml").write_text(
        f'[device]\nname = "d"\nstate_dir = "state"\nboard = "{board}"\n'
        f'[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n'
        f'[[stream]]\nname = "s"\nbundle = "{bundle}"\n{more}\n'
        f'source = {{ kind = "replay", path = "rows.npz", rate_hz = {rate} }}\n'
    )
    report = serve(load_config(folder / "device.toml", environ={}), base=folder)
    (folder / "counts.json").write_text(json.dumps(report.counts))
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("variant", ["onnx", "int8"])
def test_filter_and_model_both_get_the_scaled_sample(
    tmp_path: Path, scaled: Path, variant: str
) -> None:
    fed = (_ROWS.astype(np.float64) - 100) / 128
    logits = fed @ np.random.default_rng(2).normal(size=(4, 1)).astype(np.float32)  # the filter's
    kept = 1 / (1 + np.exp(-logits[:, 0])) > 0.25
    assert kept.any()
    assert not kept.all()
    found = run(tmp_path, scaled, f'variant = "{variant}"')
    assert [one["route"] for one in found] == ["edge" if one else "dropped" for one in kept]
    seed, shape = (1, (4, 3)) if variant == "onnx" else (1, (3, 4))
    weights = np.random.default_rng(seed).normal(size=shape)
    scores = fed @ (weights if variant == "onnx" else weights.T)
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    for one, wanted in zip(found, expected, strict=True):
        if one["route"] == "edge":
            np.testing.assert_allclose(one["probs"], wanted, atol=0.03)


def test_a_backend_that_does_not_fit_the_variant_is_named(tmp_path: Path, scaled: Path) -> None:
    with pytest.raises(ConfigError, match=r"^backend\.use = 'tflite': .* a onnx file"):
        run(tmp_path, scaled, 'variant = "onnx"\nbackend = { use = "tflite" }')


def test_a_board_that_cannot_run_what_it_is_made_for_says_so(
    tmp_path: Path, scaled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = run(tmp_path, scaled, 'variant = "onnx"', board="jetson-agx-orin")
    assert found
    assert "could run tensorrt, but its system is too old or not known, so onnx" in caplog.text


def test_an_unknown_option_of_the_backend_is_refused_by_its_key(
    tmp_path: Path, scaled: Path
) -> None:
    with pytest.raises(ConfigError, match=r"\$\.stream\[0\]\.backend\.delegat: unknown key"):
        run(tmp_path, scaled, 'backend = { delegat = "/x.so" }')


def test_onnx_runtime_serves_until_the_engine_is_built_and_the_next_start_finds_it(
    tmp_path: Path,
    scaled: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    how = 'variant = "onnx"\nfilter = false\nbackend = { use = "tensorrt", precision = "fp32" }'
    plain = run(tmp_path, scaled, 'variant = "onnx"\nfilter = false')
    with on_gpu("fake", tmp_path, monkeypatch):
        first = run(tmp_path, scaled, how, times=60, rate="20.0")
        assert "served by its engine from now on" in caplog.text
        assert '"engines_built": 1' in (tmp_path / "counts.json").read_text()
        caplog.clear()
        second = run(tmp_path, scaled, how)
        assert "building" not in caplog.text
        assert '"engines_cached": 1' in (tmp_path / "counts.json").read_text()
    assert len(first) == 180
    for found, wanted in zip((*first[:3], *first[-3:], *second), plain * 3, strict=True):
        np.testing.assert_allclose(found["probs"], wanted["probs"], rtol=1e-4)
    (engine,) = (tmp_path / "state" / "engines").glob("*.engine")
    assert engine.stat().st_mode & 0o777 == 0o600
