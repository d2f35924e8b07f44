"""Tests of `hedge bundle verify|show|pack`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

from hedge.models.bundle import load_bundle, write_bundle
from hedge.models.errors import BundleError, ConfigError, ModelError
from hedge.models.manifest import Manifest
from hedge.runtime import bundle_command
from hedge.runtime.bundle_command import show, verify

Linear = Callable[..., bytes]


def command(*words: str | Path) -> int:
    """Run `hedge bundle …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    bundle_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["bundle", *map(str, words)])
    code: int = options.run(options)
    return code


def with_edge(folder: Path, manifest: Manifest, files: dict[str, bytes], edge: bytes) -> Path:
    return write_bundle(folder, manifest, {**files, "edge.onnx": edge}).path


def test_verify_runs_every_model_and_says_what_it_gave(
    bundle_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("verify", bundle_dir) == 0
    text = capsys.readouterr().out
    bundle = load_bundle(bundle_dir)
    assert text.startswith("steps 1.0 is sound\n")
    assert bundle.digest in text
    assert bundle.contract in text
    lines = [line.split() for line in text.splitlines() if "gives" in line]
    assert [(line[-2], line[-1]) for line in lines] == [("(1,", "3)"), ("(1,", "1)"), ("(1,", "3)")]


def test_verify_writes_json(bundle_dir: Path, tmp_path: Path) -> None:
    command("verify", bundle_dir, "--json", tmp_path / "v.json")
    found = json.loads((tmp_path / "v.json").read_text())
    assert found["digest"] == load_bundle(bundle_dir).digest
    assert found["pinned"] is False
    assert found["files"]["edge.onnx"] == (bundle_dir / "edge.onnx").stat().st_size
    assert [(one["role"], one["opened"], one["output"]) for one in found["models"]] == [
        ("edge tiny", True, [1, 3]),
        ("skip filter", True, [1, 1]),
        ("cloud", True, [1, 3]),
    ]


def test_verify_takes_a_pin(bundle_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", bundle_dir, "--pin", load_bundle(bundle_dir).digest) == 0
    assert "is sound, and the pinned one" in capsys.readouterr().out
    with pytest.raises(BundleError, match="is pinned"):
        command("verify", bundle_dir, "--pin", "0" * 64)


def test_verify_feeds_scaled_samples(
    tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes]
) -> None:
    sample = msgspec.structs.replace(manifest.input, dtype="uint8", scale=1 / 255)
    scaled = msgspec.structs.replace(manifest, input=sample)
    found = verify(write_bundle(tmp_path / "b.hedge", scaled, bundle_files).path)
    assert [model.output for model in found.models] == [(1, 3), (1, 1), (1, 3)]


def test_verify_finds_an_operator_that_the_library_does_not_know(
    tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes], linear_onnx: Linear
) -> None:
    edge = linear_onnx(3, operator=("", "NoSuchOperator"))
    path = with_edge(tmp_path / "b", manifest, bundle_files, edge)
    with pytest.raises(ModelError, match=r"b/edge\.onnx: ONNX Runtime refuses it"):
        verify(path)


def test_verify_finds_a_graph_that_lies_about_its_output(
    tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes], linear_onnx: Linear
) -> None:
    # five outputs behind a declared free width: only running it shows them
    model = onnx.load_from_string(linear_onnx(5))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "K"
    path = with_edge(tmp_path / "b", manifest, bundle_files, model.SerializeToString())
    with pytest.raises(
        ModelError, match=r"b/edge\.onnx: gives \(1, 5\) for one sample, not \(1, 3\)"
    ):
        verify(path)


def test_verify_goes_as_far_as_it_can_without_the_library(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hedge.runtime.backends.find_spec", lambda name: None)  # noqa: ARG005
    assert command("verify", bundle_dir) == 0
    assert capsys.readouterr().out.count("not opened: no onnx backend installed") == 3


def test_a_model_of_a_format_without_backend_is_sound_but_not_opened(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: dict[str, bytes],
    linear_tflite: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "hedge.runtime.backends.find_spec",
        lambda name: None if "lite" in name else found(name),
    )
    edge = msgspec.structs.replace(manifest.edge[0], file="edge.tflite", format="tflite")
    files = {**bundle_files, "edge.tflite": linear_tflite(3)}
    del files["edge.onnx"]
    path = write_bundle(tmp_path / "b", msgspec.structs.replace(manifest, edge=(edge,)), files).path
    assert [(one.opened, one.output) for one in verify(path).models] == [
        (False, None),
        (True, (1, 1)),
        (True, (1, 3)),
    ]


def test_show_says_what_the_bundle_says(
    bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("show", bundle_dir, "--json", tmp_path / "s.json") == 0
    text = capsys.readouterr().out
    for words in (
        "steps 1.0: classification",
        "3: rest, walk, run",
        "tensor (4,) float32",
        "tiny: edge.onnx, float, evidential",
        "skip at 0.25: skip.onnx, drops rest",
        "asks where vacuity above 0.4; by hand on 10 rows; fusion off",
        "Apache-2.0",
        "Nobody, 2025",
    ):
        assert words in text
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["manifest"]["edge"][0]["head"] == "evidential"
    assert found["contract"] == show(bundle_dir).contract


def test_show_of_a_bundle_without_extras(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bare = msgspec.structs.replace(manifest, edge=(), filter=(), calibration=None, training=None)
    write_bundle(tmp_path / "b", bare, {"cloud.onnx": bundle_files["cloud.onnx"]})
    assert command("show", tmp_path / "b") == 0
    assert "cloud.onnx" in capsys.readouterr().out


def test_pack_writes_one_file_of_the_same_digest(
    bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "steps.hedge"
    assert command("pack", bundle_dir, out) == 0
    digest = load_bundle(bundle_dir).digest
    assert load_bundle(out).digest == digest
    assert f"{out}: {out.stat().st_size} bytes, digest {digest}" in capsys.readouterr().out


def test_pack_replaces_another_bundle_only_when_told(
    bundle_dir: Path, tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes]
) -> None:
    out = tmp_path / "o.hedge"
    write_bundle(out, msgspec.structs.replace(manifest, version="0"), bundle_files)
    with pytest.raises(BundleError, match="is there already"):
        command("pack", bundle_dir, out)
    assert command("pack", bundle_dir, out, "--replace") == 0
    assert load_bundle(out).manifest.version == "1.0"


@pytest.mark.parametrize("verb", ["verify", "show"])
def test_json_that_cannot_be_written_is_named(bundle_dir: Path, verb: str) -> None:
    with pytest.raises(ConfigError, match=r"absent/x\.json: cannot be written"):
        command(verb, bundle_dir, "--json", bundle_dir.parent / "absent" / "x.json")


@pytest.mark.parametrize("words", [["verify"], ["show"], ["pack", "out"]])
def test_a_bundle_that_is_not_there_is_named(tmp_path: Path, words: list[str]) -> None:
    verb, *rest = words
    more = [tmp_path / "o.hedge" for _ in rest]
    with pytest.raises(BundleError, match=r"gone\.hedge: no such bundle"):
        command(verb, tmp_path / "gone.hedge", *more)


def test_the_command_line_says_in_one_line_what_and_where(bundle_dir: Path) -> None:
    (bundle_dir / "run.py").write_text("")
    code = "import sys; from hedge.runtime.cli import main; sys.exit(main())"
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, "bundle", "verify", str(bundle_dir)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=bundle_dir.parent,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"hedge: {bundle_dir}: 'run.py' is not listed in manifest.toml\n"
