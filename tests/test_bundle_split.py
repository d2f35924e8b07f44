"""`hedge bundle split` and `offload`: new versions of a bundle whose halves run at two ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.dataset import Dataset
from hedge.models.errors import BundleError, ConfigError, ModelError
from hedge.models.manifest import Edge, Filter, Input, Manifest
from hedge.runtime.backends import open_model
from hedge.runtime.both_models import features_of, outputs_of, part_outputs
from hedge.runtime.bundle_command import verify
from hedge.runtime.cli import main
from hedge.runtime.splitting.split_bundle import (
    SplitOrder,
    find_places,
    of_bundle,
    of_file,
    split,
    without_edge,
)

changed = msgspec.structs.replace


def _two_layers(seed: int, *, width: int = 5) -> bytes:
    """Return y = relu(x A) B, x (B, 4), with the names "inner" and "hidden" between."""
    rng = np.random.default_rng(seed)
    weights = {"A": rng.normal(size=(4, width)), "B": rng.normal(size=(width, 3))}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "A"], ["inner"]),
            helper.make_node("Relu", ["inner"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "B"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])],
        [numpy_helper.from_array(one.astype(np.float32), name) for name, one in weights.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def bundle(tmp_path: Path, manifest: Manifest, bundle_files: Mapping[str, bytes]) -> Bundle:
    """Give a bundle whose edge and cloud can be cut."""
    files = {**bundle_files, "edge.onnx": _two_layers(8), "cloud.onnx": _two_layers(9, width=7)}
    return write_bundle(tmp_path / "whole", manifest, files)


def _rows(count: int = 6) -> Dataset:
    return Dataset(x=np.random.default_rng(4).normal(size=(count, 4)).astype(np.float32))


def test_a_split_is_a_new_version_whose_halves_give_what_its_cloud_gives(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "cut", tmp_path / "report.json"
    words = ["bundle", "split", str(bundle.path), "--at", "hidden", "--out", str(out)]
    assert main([*words, "--json", str(report)]) == 0
    said = capsys.readouterr().out
    assert "7 float16, 14 bytes; a sample takes 16" in said
    assert "version 1.1" in said
    found = load_bundle(out)
    assert (found.manifest.version, found.contract) == ("1.1", bundle.contract)
    assert found.manifest.edge == bundle.manifest.edge
    assert found.manifest.cloud == bundle.manifest.cloud
    made = found.manifest.split
    assert made is not None
    assert (made.width, made.dtype, made.output_name) == (7, "float16", "hidden")
    data = _rows()
    assert bundle.manifest.cloud is not None
    expected = part_outputs(bundle, bundle.manifest.cloud, data)
    features = features_of(found, data)
    assert features.x.shape == (6, 7)
    tail = Edge(name="t", file=made.cloud.file, attach="feature")
    assert part_outputs(found, tail, data) == pytest.approx(expected, abs=1e-5)
    told = json.loads(report.read_bytes())
    assert (told["head_macs"], told["macs"], told["seed"]) == (28, 49, 0)
    assert told["agreement"]["difference"] < 1e-5
    assert told["machine"]["cpus"] >= 1
    roles = {one.role: one.output for one in verify(out).models}
    assert (roles["split"], roles["split's cloud"]) == ((1, 7), (1, 3))
    assert main(["bundle", "show", str(out)]) == 0
    assert "split       split-head.onnx: 7 float16 to split-tail.onnx" in capsys.readouterr().out


def test_without_a_place_all_places_are_listed_and_without_out_nothing_is_written(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "split", str(bundle.path), "--model", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "steps 1.0: tiny: 35 MACs; a sample takes 16 B"
    assert [line.split()[0] for line in lines[2:]] == ["inner", "hidden"]
    before = sorted(tmp_path.rglob("*"))
    assert main(["bundle", "split", str(bundle.path), "--at", "inner"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_second_split_takes_the_place_of_the_first(tmp_path: Path, bundle: Bundle) -> None:
    split(of_bundle(bundle, None), SplitOrder(at="hidden"), out=tmp_path / "one")
    first = load_bundle(tmp_path / "one")
    split(of_bundle(first, "tiny"), SplitOrder(at="inner", dtype="float32"), out=tmp_path / "two")
    second = load_bundle(tmp_path / "two").manifest
    assert second.split is not None
    assert (second.version, second.split.width, second.split.dtype) == ("1.2", 5, "float32")
    assert second.split.cloud.head == "evidential"


def test_an_edge_in_halves_gives_what_it_gave_whole(tmp_path: Path, bundle: Bundle) -> None:
    order = SplitOrder(at="hidden", edge="tail")
    split(of_bundle(bundle, "tiny"), order, out=tmp_path / "cut")
    cut = load_bundle(tmp_path / "cut")
    (edge,) = cut.manifest.edge
    assert (edge.name, edge.attach, edge.file) == ("tiny", "feature", "split-tail.onnx")
    assert "edge.onnx" not in cut.manifest.files
    before, after = outputs_of(bundle, _rows()), outputs_of(cut, _rows())
    assert after.edge == pytest.approx(before.edge, abs=1e-5)
    assert np.array_equal(after.passes, before.passes)
    with pytest.raises(BundleError, match=r"split-tail\.onnx takes the features of the \[split\]"):
        split(of_bundle(cut, "cloud"), SplitOrder(at="hidden"), out=tmp_path / "again")


def test_the_far_end_alone_is_left_where_that_is_asked_for(tmp_path: Path, bundle: Bundle) -> None:
    split(of_bundle(bundle, None), SplitOrder(at="hidden", edge="none"), out=tmp_path / "cut")
    manifest = load_bundle(tmp_path / "cut").manifest
    assert (manifest.edge, manifest.calibration) == ((), None)
    assert manifest.filter == bundle.manifest.filter
    assert "edge.onnx" not in manifest.files
    assert "seen.npy" in manifest.files


def test_offload_leaves_filters_and_cloud(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "off.hedge"
    assert main(["bundle", "offload", str(bundle.path), "--out", str(out)]) == 0
    found = load_bundle(out)
    assert capsys.readouterr().out == f"{out}: version 1.1, digest {found.digest}\n"
    assert (found.manifest.edge, found.manifest.calibration) == ((), None)
    assert found.manifest.filter == bundle.manifest.filter
    assert found.contract == bundle.contract


def test_a_bundle_without_a_far_end_cannot_be_offloaded(tmp_path: Path, bundle: Bundle) -> None:
    files = {name: bundle.read(name) for name in bundle.manifest.files if name != "cloud.onnx"}
    alone = write_bundle(tmp_path / "alone", changed(bundle.manifest, cloud=None), files)
    with pytest.raises(BundleError, match="has no model for the far end"):
        without_edge(alone, out=tmp_path / "off")


def test_a_bare_file_becomes_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "net.onnx", tmp_path / "halves"
    path.write_bytes(_two_layers(2))
    words = ["bundle", "split", str(path), "--at", "inner", "--out", str(out)]
    assert main(words) == 0
    assert sorted(one.name for one in out.iterdir()) == ["head.onnx", "tail.onnx"]
    assert "head.onnx and tail.onnx" in capsys.readouterr().out
    assert main(words) == 2
    assert "head.onnx: is there already" in capsys.readouterr().err
    assert find_places(of_file(path)).sample_bytes is None


def test_a_bare_file_whose_samples_have_no_fixed_shape_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(one, TensorProto.FLOAT, ["B", "n"]) for one in "xy"]
    graph = helper.make_graph([node], "free", ends[:1], ends[1:])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    (tmp_path / "free.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="has extents that are free"):
        of_file(tmp_path / "free.onnx")


def test_what_was_asked_for_and_makes_no_sense_is_refused(
    tmp_path: Path, bundle: Bundle, linear_tflite: Callable[..., bytes]
) -> None:
    with pytest.raises(ConfigError, match=r"no model 'big' \(it has cloud, tiny\)"):
        of_bundle(bundle, "big")
    with pytest.raises(ConfigError, match="--edge tail: is for a variant of the edge"):
        split(of_bundle(bundle, "cloud"), SplitOrder(at="hidden", edge="tail"))
    assert bundle.manifest.cloud is not None
    lite = changed(bundle.manifest.cloud, file="cloud.tflite", format="tflite")
    files = {name: bundle.read(name) for name in bundle.manifest.files if name != "cloud.onnx"}
    files["cloud.tflite"] = linear_tflite(3)
    other = write_bundle(tmp_path / "lite", changed(bundle.manifest, cloud=lite), files)
    with pytest.raises(ModelError, match="is a tflite file, and only ONNX graphs are cut"):
        of_bundle(other, "cloud")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--out", "x"], "--out: nothing says where to cut (--at TENSOR does)"),
        (["--edge", "none"], "--edge: nothing says where to cut"),
        (["--seed", "-1"], "--seed: -1 is below 0"),
        (["--at", "hiden"], "has no tensor 'hiden' (near it are 'hidden'"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert main(["bundle", "split", str(bundle.path), *more]) == 2
    assert says in capsys.readouterr().err


def _picture_net(seed: int = 4) -> bytes:
    """Return a net for pictures (B, 2, 9, 9): a convolution to (B, 5, 7, 7), and three labels."""
    rng = np.random.default_rng(seed)
    weights = {"K": rng.normal(size=(5, 2, 3, 3)), "W": rng.normal(size=(245, 3))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "K"], ["map"]),
            helper.make_node("Flatten", ["map"], ["flat"]),
            helper.make_node("MatMul", ["flat", "W"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 2, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])],
        [numpy_helper.from_array(one.astype(np.float32), name) for name, one in weights.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


def test_a_split_keeps_the_shape_of_its_map_and_a_filter_pools_it(
    tmp_path: Path, manifest: Manifest
) -> None:
    pytest.importorskip("torch", reason="torch, which trains, is not installed")
    plain = changed(
        manifest,
        input=Input(kind="image", shape=(2, 9, 9), dtype="float32", layout="CHW"),
        edge=(),
        filter=(),
        calibration=None,
        training=None,
    )
    whole = write_bundle(tmp_path / "whole", plain, {"cloud.onnx": _picture_net()})
    split(of_bundle(whole, "cloud"), SplitOrder(at="map"), out=tmp_path / "halves")
    found = load_bundle(tmp_path / "halves").manifest.split
    assert found is not None
    assert (found.width, found.shape) == (245, (5, 7, 7))
    x = np.random.default_rng(5).normal(size=(400, 2, 9, 9)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=x)
    line = ["filter", "train", str(tmp_path / "halves"), str(tmp_path / "rows.npz")]
    rule = ["--redundant", "labels rest", "--epochs", "1"]
    assert main([*line, *rule, "--out", str(tmp_path / "pooled")]) == 0
    (pooled,) = load_bundle(tmp_path / "pooled").manifest.filter
    assert pooled.attach == "feature"

    before = load_bundle(tmp_path / "halves")
    flat = changed(before.manifest, split=changed(found, shape=()))
    files = {name: before.read(name) for name in before.manifest.files}
    write_bundle(tmp_path / "flat", flat, files)
    line[2] = str(tmp_path / "flat")
    assert main([*line, *rule, "--out", str(tmp_path / "unpooled")]) == 0
    sizes = [len(load_bundle(tmp_path / name).read(pooled.file)) for name in ("pooled", "unpooled")]
    assert sizes[0] < sizes[1], "17 numbers for each of 5 channels in place of 49"
    data = Dataset(x=x)
    given = part_outputs(load_bundle(tmp_path / "pooled"), pooled, data)
    features = features_of(load_bundle(tmp_path / "pooled"), data).x
    swapped = features.reshape(-1, 5, 7, 7).copy()
    swapped[..., [0, 1]] = swapped[..., [1, 0]]  # within the cells of the first two columns
    swapped = swapped.reshape(len(x), 245)
    part = pooled.file
    with closing(
        open_model(load_bundle(tmp_path / "pooled").read(part), format="onnx", where=part)
    ) as model:
        assert np.allclose(model.infer(np.ascontiguousarray(swapped[:64])), given[:64], atol=1e-4)


def test_a_map_of_another_size_than_the_features_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    split(of_bundle(bundle, "cloud"), SplitOrder(at="hidden"), out=tmp_path / "halves")
    halves = load_bundle(tmp_path / "halves")
    assert halves.manifest.split is not None
    assert halves.manifest.split.shape == ()
    wrong = changed(halves.manifest, split=changed(halves.manifest.split, shape=(2, 2, 2)))
    files = {name: halves.read(name) for name in halves.manifest.files}
    with pytest.raises(BundleError, match=r"split.shape: 2x2x2 are 8 values, not the 7"):
        write_bundle(tmp_path / "wrong", wrong, files)


def test_a_tflite_file_is_not_cut_and_what_can_be_is_said(
    tmp_path: Path, linear_tflite: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "model.tflite"
    bare.write_bytes(linear_tflite(3))
    assert main(["bundle", "split", str(bare)]) == 2
    said = capsys.readouterr().err
    assert f"{bare}: is a tflite file, and only ONNX graphs are cut (cut the ONNX graph" in said


def test_a_filter_on_the_features_sees_just_them_when_a_bundle_is_run_on_data(
    tmp_path: Path, bundle: Bundle, linear_onnx: Callable[..., bytes]
) -> None:
    split(of_bundle(bundle, None), SplitOrder(at="hidden"), out=tmp_path / "cut")
    cut = load_bundle(tmp_path / "cut")
    skip = Filter(kind="skip", file="f.onnx", redundant=("rest",), attach="feature")
    files = {name: cut.read(name) for name in cut.manifest.files if name != "skip.onnx"}
    files["f.onnx"] = linear_onnx(1, shape=(7,), seed=6)
    with_filter = write_bundle(tmp_path / "f", changed(cut.manifest, filter=(skip,)), files)
    data = _rows(40)
    logits = features_of(cut, data).x @ np.random.default_rng(6).normal(size=(7, 1))
    passes = outputs_of(with_filter, data).passes
    assert np.array_equal(passes, logits[:, 0] > 0)
    assert 0 < passes.sum() < 40


def test_rows_of_a_data_set_try_the_halves_if_they_are_given(
    tmp_path: Path, bundle: Bundle
) -> None:
    np.savez(tmp_path / "rows.npz", X=_rows(9).x)
    order = SplitOrder(at="hidden", data=tmp_path / "rows.npz")
    report = split(of_bundle(bundle, None), order)
    assert (report.seed, report.agreement.rows) == (None, 9)
    assert "on 9 rows, given:" in str(report)


def test_what_needs_an_edge_says_what_to_take_instead(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cut"
    split(of_bundle(bundle, None), SplitOrder(at="hidden", edge="none"), out=out)
    np.savez(tmp_path / "rows.npz", X=_rows().x, y=np.zeros(6, int), labels=["rest", "walk", "run"])
    rows = str(tmp_path / "rows.npz")
    assert main(["calibrate", str(out), rows, "--out", str(tmp_path / "o"), "--rate", "0.1"]) == 2
    assert "take the bundle as it was before split or offload" in capsys.readouterr().err
    init = ["init", str(tmp_path / "d.toml"), "--yes", "--bundle", str(out), "--path", rows]
    assert main(init) == 2
    assert "written by hand, with an [uplink], as in docs/split.md" in capsys.readouterr().err
    cut = load_bundle(out)
    bare = write_bundle(
        tmp_path / "bare",
        changed(cut.manifest, cloud=None),
        {
            name: cut.read(name)
            for name in cut.manifest.files
            if name != (cut.manifest.cloud.file if cut.manifest.cloud else "")
        },
    )
    assert main(["bundle", "split", str(bare.path)]) == 2
    assert "no model that takes samples, so there is none to cut" in capsys.readouterr().err
