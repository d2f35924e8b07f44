"""What a bundle says of its filters has to fit their graphs, and a bare model is no bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from hedge.models.bundle import load_bundle, write_bundle
from hedge.models.errors import BundleError, ModelError
from hedge.models.manifest import Filter, Manifest
from hedge.runtime.cli import main

Linear = Callable[..., bytes]
CONFIG = """
[device]
name = "d"
state_dir = "state"

[[stream]]
name = "s"
bundle = "steps"
source = { kind = "replay", path = "rows.npz" }
"""


def test_a_filter_has_a_threshold_for_each_of_its_outputs(
    tmp_path: Path, manifest: Manifest, bundle_files: Mapping[str, bytes], linear_onnx: Linear
) -> None:
    three = Filter(kind="skip", file="skip.onnx", thresholds=(0.1, 0.2, 0.3), redundant=("rest",))
    said = replace(manifest, filter=(three,))
    with pytest.raises(ModelError, match=r"\(B, 1\), but the 3 thresholds .* asks for \(B, 3\)"):
        write_bundle(tmp_path / "wrong", said, bundle_files)
    files = {**bundle_files, "skip.onnx": linear_onnx(3, seed=2)}
    (found,) = write_bundle(tmp_path / "right", said, files).manifest.filter
    assert found == three


def test_thresholds_that_do_not_fit_are_named_by_verify_and_by_check(
    tmp_path: Path, bundle_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle_dir / "manifest.toml"
    text = path.read_text("utf-8")
    assert "threshold = 0.25" in text
    path.write_text(text.replace("threshold = 0.25", "threshold = 0.25\nthresholds = [0.25, 0.5]"))
    (tmp_path / "device.toml").write_text(CONFIG, "utf-8")
    for line in (
        ["bundle", "verify", str(bundle_dir)],
        ["check", str(bundle_dir)],
        ["check", str(tmp_path / "device.toml")],
    ):
        assert main(line) != 0
        said = "".join(capsys.readouterr())
        assert "the 2 thresholds ($.filter.thresholds)" in said, line


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "MODEL.ONNX"])
def test_a_bare_model_in_place_of_a_bundle_is_told_apart_from_a_broken_zip(
    tmp_path: Path, linear_onnx: Linear, name: str
) -> None:
    bare = tmp_path / name
    bare.write_bytes(linear_onnx(3))
    with pytest.raises(BundleError) as caught:
        load_bundle(bare)
    assert (
        str(caught.value)
        == f"{bare}: is a bare model, and a bundle is needed (hedge bundle init makes one of it)"
    )


def test_commands_that_take_a_bundle_say_that_they_need_one(
    tmp_path: Path, linear_onnx: Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, out = tmp_path / "model.onnx", str(tmp_path / "out")
    bare.write_bytes(linear_onnx(3))
    for line in (
        ["filter", "tune", str(bare), "rows.npz", "--out", out],
        ["filter", "update", str(bare), "labels", "--data", "rows.npz", "--out", out],
        ["calibrate", str(bare), "rows.npz", "--rate", "0.1", "--out", out],
        ["bundle", "verify", str(bare)],
        ["bundle", "offload", str(bare), "--out", out],
    ):
        assert main(line) == 2, line
        assert "is a bare model, and a bundle is needed" in capsys.readouterr().err, line
