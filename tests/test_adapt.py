"""`hedge adapt run`: an edge that learns from released pairs, written only if it is better."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch is not installed, so nothing is taught")

import onnx
import torch
from onnx import helper, numpy_helper

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.dataset import Dataset, is_seen, read_seen, row_digests, save_seen
from hedge.models.errors import BundleError, ConfigError, DataError, ModelError
from hedge.models.manifest import Calibration, Cloud, Edge, Input, Manifest, Training
from hedge.models.opinion import Assessor
from hedge.runtime import adapt_command
from hedge.runtime.adapt.division import divide
from hedge.runtime.adapt.judging import Side, judge
from hedge.runtime.adapt.pair_keeper import PairKeeper, PairTerms
from hedge.runtime.adapt.pair_store import PairStore, stores_in
from hedge.runtime.adapt.training import teaching
from hedge.runtime.adapt.training.edge_graph import (
    find_head,
    read_model,
    with_features,
    with_weights,
)
from hedge.runtime.adapt.training.torch_graph import TorchGraph
from hedge.runtime.backends import open_model
from hedge.runtime.both_ends import contract_of
from hedge.runtime.worker_models import Keeping, Servers, open_responders
from hedge.uplink import wire
from hedge.uplink.asks import Answer, Ask
from hedge.uplink.far_end.responder import Answered
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.outbox.outbox import MemoryOutbox
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

SHAPE, LABELS = (4,), ("rest", "walk", "run")
TRUE = np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)
HIDDEN = np.random.default_rng(6).normal(size=(4, 8)).astype(np.float32)


def _graph(
    nodes: Sequence[onnx.NodeProto], weights: Mapping[str, NDArray[Any]], output: str = "y"
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", *SHAPE])],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["B", 3])],
        [numpy_helper.from_array(one, name) for name, one in weights.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


def _edge(form: str = "gemm") -> bytes:
    """Return relu(x HIDDEN) @ W + b, W taught where the first feature is positive only."""
    x, y = _rows(300, seed=1, half=True)
    features = np.maximum(x @ HIDDEN, 0)
    wanted = 4.0 * np.eye(3)[y]
    weight = np.linalg.lstsq(features, wanted, rcond=None)[0].astype(np.float32)
    held: dict[str, NDArray[Any]] = {"H": HIDDEN, "b": np.zeros(3, np.float32)}
    first = [
        helper.make_node("MatMul", ["x", "H"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["f"]),
    ]
    match form:
        case "gemm":
            held["W"] = weight.T.copy()
            last = [helper.make_node("Gemm", ["f", "W", "b"], ["y"], transB=1)]
        case "matmul and add":
            held["W"] = weight
            last = [
                helper.make_node("MatMul", ["f", "W"], ["product"]),
                helper.make_node("Add", ["b", "product"], ["y"]),
            ]
        case "softmax":
            held["W"] = weight
            last = [
                helper.make_node("Gemm", ["f", "W", "b"], ["z"]),
                helper.make_node("Softmax", ["z"], ["y"], axis=-1),
            ]
        case _:
            held["W"] = weight
            last = [
                helper.make_node("MatMul", ["f", "W"], ["product"]),
                helper.make_node("Sin", ["f"], ["odd"]),
                helper.make_node("MatMul", ["odd", "W"], ["beside"]),
                helper.make_node("Add", ["product", "beside"], ["y"]),
            ]
    return _graph([*first, *last], held)


def _rows(
    count: int, *, seed: int, half: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return rows and their classes; of the half of the world that the edge knows if ``half``."""
    x = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    if half:
        x[:, 0] = np.abs(x[:, 0])
    return x, (x @ TRUE).argmax(1)


def _write(folder: Path, *, name: str = "steps", form: str = "gemm", **edge: Any) -> Bundle:  # noqa: ANN401 -- what Edge takes
    """Write a bundle whose cloud is always right, and which has seen the rows of seed 100."""
    seen, _ = _rows(300, seed=100, half=True)
    cloud = _graph([helper.make_node("MatMul", ["x", "T"], ["y"])], {"T": 20.0 * TRUE})
    made = {"name": "tiny", "file": "edge.onnx", "head": "softmax", **edge}
    if form == "softmax":
        made["output"] = "probabilities"
    manifest = Manifest(
        format=1,
        name=name,
        version="1.0.9",
        task="classification",
        labels=LABELS,
        licence="Apache-2.0",
        input=Input(kind="tensor", shape=SHAPE, dtype="float32"),
        edge=(Edge(**made),),
        cloud=Cloud(file="cloud.onnx"),
        calibration=Calibration(
            score="max_prob",
            total=0.3,
            method="escalation rate 0.2; by hand",
            rows=10,
            data_sha256="0" * 64,
        ),
        training=Training(recipe="none", seed=3, data_sha256="0" * 64, seen="seen.npy"),
        files={},
    )
    files = {
        "edge.onnx": _edge(form),
        "cloud.onnx": cloud,
        "seen.npy": save_seen(row_digests(seen)),
    }
    return write_bundle(folder / name, manifest, files)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Give a bundle whose edge knows half of the world."""
    return _write(tmp_path)


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teach for a fifth of the steps, where how much is learnt is not what matters."""
    monkeypatch.setattr(teaching, "_STEPS", (60, 60))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Give rows that the bundle has seen, 300, and 900 that it has not, of 9 people."""
    old, old_y = _rows(300, seed=100, half=True)
    new, new_y = _rows(900, seed=200)
    path = tmp_path / "labelled.npz"
    np.savez(
        path,
        X=np.concatenate((old, new)),
        y=np.concatenate((old_y, new_y)),
        group=np.concatenate((np.full(300, 99), np.arange(900) % 9)),
        labels=np.array(LABELS),
    )
    return path


def _kept(bundle: Bundle, folder: Path, *, seed: int = 300, count: int = 600) -> Path:
    """Keep what a worker of ``bundle`` would, as its edge and cloud answer."""
    x, _ = _rows(count, seed=seed)
    assert bundle.manifest.calibration is not None
    keeper = PairKeeper(folder, PairTerms.of(bundle, limit=0.5), max_bytes=1 << 20)
    edge = _outputs(bundle, bundle.manifest.edge[0], x)
    cloud = _outputs(bundle, bundle.manifest.cloud, x)
    keeper(
        [
            Answered(
                Device("hall", f"d{row % 3}"),
                "cam",
                wire.Request(
                    *(1, f"7-{row}", 7, "decide", "steps", bundle.contract, "input", None),
                    *("float32", SHAPE, "raw"),
                    wire.WireOpinion(
                        wire.pack(edge.probs[row], "float32"),
                        float(edge.score[row]),
                        "max_prob",
                        None,
                    ),
                    b"",
                ),
                x[row],
                cloud.probs[row],
                None,
            )
            for row in range(count)
        ]
    )
    keeper.close()
    return folder


def _outputs(bundle: Bundle, part: Any, x: NDArray[Any]) -> Any:  # noqa: ANN401 -- Edge or Cloud
    with contextlib.closing(
        open_model(bundle.read(part.file), format="onnx", where=part.file)
    ) as model:
        return Assessor.of(part, classes=3, score="max_prob").assess_batch(model.infer(x))


def _release(folder: Path) -> Path:
    for store in stores_in(folder):
        with contextlib.closing(store):
            store.release([one.key for one in store.pairs()])
    return folder


def _hedge(*arguments: object) -> int:
    top = argparse.ArgumentParser()
    adapt_command.add_parser(top.add_subparsers())
    options = top.parse_args(["adapt", "run", *map(str, arguments)])
    code: int = options.run(options)
    return code


def test_an_edge_learns_what_the_cloud_knew_and_a_better_bundle_is_written(
    bundle: Bundle, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = _release(_kept(bundle, tmp_path / "pairs"))
    out, told = tmp_path / "better", tmp_path / "told.json"
    assert _hedge(bundle.path, pairs, "--data", labelled, "--out", out, "--json", told) == 0
    report = msgspec.json.decode(told.read_bytes())
    verdict = report["verdict"]
    assert verdict["by"] == "group"
    assert verdict["edge"]["change"] > 0.03
    assert verdict["cooperative"]["change"] >= 0
    assert verdict["share_needed"] < verdict["share"]
    made = load_bundle(out)
    assert made.contract == bundle.contract
    assert made.manifest.version == report["new_version"] == "1.0.10"
    assert made.digest == report["digest"]
    assert f"adapted from {bundle.digest[:16]} by" in made.manifest.training.recipe  # type: ignore[union-attr]
    assert "3 devices" in capsys.readouterr().out
    _same_operators(bundle.read("edge.onnx"), made.read("edge.onnx"), changed={"W", "b"})
    assert made.read("cloud.onnx") == bundle.read("cloud.onnx")
    seen = read_seen(made.read("seen.npy"), where="seen.npy")
    with contextlib.closing(PairStore(pairs / bundle.contract)) as store:
        whole, x = store.samples(list(store.pairs("released")))
    assert is_seen(x, seen).mean() > 0.9, "all that the edge was not sure of"
    assert len(whole) == len(x)
    fresh, y = _rows(2000, seed=999)
    before, after = (
        float(np.mean(_outputs(one, one.manifest.edge[0], fresh).probs.argmax(1) == y))
        for one in (bundle, made)
    )
    assert after > before + 0.03


@pytest.mark.usefixtures("briefly")
def test_the_same_seed_gives_the_same_bundle(
    bundle: Bundle, labelled: Path, tmp_path: Path
) -> None:
    pairs = _release(_kept(bundle, tmp_path / "pairs"))
    made = []
    for name in ("one", "two"):
        assert _hedge(bundle.path, pairs, "--data", labelled, "--out", tmp_path / name) == 0
        made.append(load_bundle(tmp_path / name).digest)
    assert made[0] == made[1]


@pytest.mark.usefixtures("briefly")
def test_all_layers_can_be_taught(bundle: Bundle, labelled: Path, tmp_path: Path) -> None:
    pairs = _release(_kept(bundle, tmp_path / "pairs"))
    out = tmp_path / "better"
    assert _hedge(bundle.path, pairs, "--data", labelled, "--out", out, "--all-layers") == 0
    made = load_bundle(out)
    _same_operators(bundle.read("edge.onnx"), made.read("edge.onnx"), changed={"H", "W", "b"})


def _same_operators(before: bytes, after: bytes, *, changed: set[str]) -> None:
    old, new = onnx.load_from_string(before).graph, onnx.load_from_string(after).graph
    assert [one.SerializeToString() for one in old.node] == [
        one.SerializeToString() for one in new.node
    ]
    moved = {
        one.name
        for one, two in zip(old.initializer, new.initializer, strict=True)
        if not np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(two))
    }
    assert moved == changed


def test_what_teaches_nothing_is_not_written_and_the_reason_is_told(
    bundle: Bundle, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = _release(_kept(bundle, tmp_path / "pairs"))
    with contextlib.closing(PairStore(pairs / bundle.contract)) as store:
        wrong = np.roll(np.eye(3, dtype=np.float32), 1, axis=0)
        whole, x = store.samples(list(store.pairs()))
        store.drop([pair.key for pair in whole])
        false = [  # as if a hostile device had led the cloud astray
            msgspec.structs.replace(pair, cloud=wrong[pair.label], state="released")
            for pair in whole
        ]
        store._pages = 1 << 16
        store.put(false, [one.tobytes() for one in x])
    out = tmp_path / "worse"
    assert _hedge(bundle.path, pairs, "--data", labelled, "--out", out) == adapt_command.WORSE
    err = capsys.readouterr().err
    assert "not better: " in err
    assert "nothing was written" in err
    assert not out.exists()


@pytest.mark.parametrize("form", ["gemm", "matmul and add", "softmax"])
def test_the_last_layer_is_found_in_every_usual_form_and_gets_its_weights_back(form: str) -> None:
    model = read_model(_edge(form), where="m")
    head = find_head(model, output=None, classes=3, where="m")
    new, bias = np.arange(24, dtype=np.float32).reshape(8, 3), np.array([1, 2, 3], np.float32)
    x, _ = _rows(5, seed=4)
    features = np.maximum(x @ HIDDEN, 0)
    with contextlib.closing(
        open_model(with_features(model, head), format="onnx", where="m", output=head.features)
    ) as opened:
        np.testing.assert_allclose(opened.infer(x), features, rtol=1e-5)
    changed = with_weights(model, head.arrays(new, bias))
    wanted = features @ new + bias
    if form == "softmax":
        wanted = np.exp(wanted - wanted.max(1, keepdims=True))
        wanted /= wanted.sum(1, keepdims=True)
    with contextlib.closing(open_model(changed, format="onnx", where="m")) as opened:
        np.testing.assert_allclose(opened.infer(x), wanted, rtol=1e-4, atol=1e-6)


def test_a_last_layer_is_the_one_that_all_comes_through() -> None:
    head = find_head(read_model(_edge("softmax"), where="m"), output=None, classes=3, where="m")
    assert (head.features, head.logits, head.weight_name, head.bias_name) == ("f", "z", "W", "b")
    assert not head.is_last
    with pytest.raises(ModelError, match="its last layer of 3 classes is not found"):
        find_head(read_model(_edge("beside"), where="m"), output=None, classes=3, where="m")
    shared = _graph(
        [
            helper.make_node("MatMul", ["x", "W"], ["z"]),
            helper.make_node("MatMul", ["z", "R"], ["f"]),
            helper.make_node("MatMul", ["f", "W"], ["y"]),
        ],
        {"W": TRUE, "R": np.ones((3, 4), np.float32)},
    )
    with pytest.raises(ModelError, match="serve elsewhere, too"):
        find_head(read_model(shared, where="m"), output=None, classes=3, where="m")


def test_a_graph_in_torch_gives_what_onnx_runtime_does() -> None:
    """Convolutions, normalisations, pools and reshapes, with odd paddings and strides."""
    random = np.random.default_rng(0)

    def some(*shape: int) -> NDArray[np.float32]:
        return random.normal(size=shape).astype(np.float32)

    held: dict[str, NDArray[Any]] = {
        "K": some(6, 3, 3),
        "k": some(6),
        "scale": some(6),
        "shift": some(6),
        "mean": some(6),
        "var": np.abs(some(6)) + 0.5,
        "D": some(6, 1, 2),
        "slope": some(6, 1),
        "shape": np.array([0, -1]),
        "W": some(18, 3),
        "axes": np.array([2]),
        "start": np.array([1]),
        "end": np.array([2**31]),
        "step": np.array([2]),
    }
    node = helper.make_node
    nodes = [
        node("Reshape", ["x", "to"], ["image"]),
        node("Conv", ["image", "K", "k"], ["a"], pads=[2, 1], strides=[1], kernel_shape=[3]),
        node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["b"], epsilon=0.01),
        node("PRelu", ["b", "slope"], ["c"]),
        node("Conv", ["c", "D"], ["d"], group=6, dilations=[2], kernel_shape=[2]),
        node("MaxPool", ["d"], ["e"], kernel_shape=[2], strides=[1], pads=[1, 0]),
        node("Slice", ["e", "start", "end", "axes", "step"], ["g"]),
        node("ReduceMean", ["e"], ["h"], axes=[2], keepdims=1),
        node("Sub", ["g", "h"], ["i"]),
        node("Clip", ["i", "low"], ["j"]),
        node("Transpose", ["j"], ["k2"], perm=[0, 2, 1]),
        node("Flatten", ["k2"], ["l"]),
        node("MatMul", ["l", "W"], ["y"]),
    ]
    held |= {"to": np.array([0, 3, 8]), "low": np.float32(-0.5).reshape(())}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", 24])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["B", 3])],
        [numpy_helper.from_array(one, name) for name, one in held.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    x = some(5, 24)
    with contextlib.closing(
        open_model(model.SerializeToString(), format="onnx", where="m")
    ) as opened:
        wanted = opened.infer(x)
    net = TorchGraph(model, target="y", where="m")
    np.testing.assert_allclose(
        net(torch.from_numpy(x)).detach().numpy(), wanted, rtol=1e-4, atol=1e-5
    )
    assert set(net.weights) == {"K", "k", "scale", "shift", "slope", "D", "W"}


def test_an_operator_that_is_not_known_is_refused_by_name() -> None:
    model = read_model(_edge("beside"), where="edge.onnx")
    with pytest.raises(ModelError, match=r"edge.onnx: .*Sin is not known here"):
        TorchGraph(model, target="y", where="edge.onnx")


# ---- What is refused


def test_nothing_is_taught_by_pairs_in_quarantine(
    bundle: Bundle, labelled: Path, tmp_path: Path
) -> None:
    pairs = _kept(bundle, tmp_path / "pairs")
    with pytest.raises(DataError, match=r"no pairs have been released .*are in quarantine"):
        _hedge(bundle.path, pairs, "--data", labelled, "--out", tmp_path / "out")


def test_pairs_of_another_contract_are_refused(
    bundle: Bundle, labelled: Path, tmp_path: Path
) -> None:
    other = _write(tmp_path, name="others")
    pairs = _release(_kept(other, tmp_path / "pairs"))
    for place in (pairs, pairs / other.contract):
        with pytest.raises(DataError, match=f"contract.*{other.contract}"):
            _hedge(bundle.path, place, "--data", labelled, "--out", tmp_path / "out")


def test_figures_are_not_written_over_what_was_given(
    bundle: Bundle, labelled: Path, tmp_path: Path
) -> None:
    pairs = _release(_kept(bundle, tmp_path / "pairs"))
    store = next(pairs.rglob("pairs.db"))
    before = store.read_bytes()
    for place in (labelled, bundle.path / "manifest.toml", store):
        with pytest.raises(ConfigError, match=r"would overwrite|lies in the bundle"):
            _hedge(bundle.path, pairs, "--data", labelled, "--out", tmp_path / "o", "--json", place)
    for out in (bundle.path, bundle.path / "new", pairs / "new"):
        with pytest.raises(ConfigError, match="would overwrite"):
            _hedge(bundle.path, pairs, "--data", labelled, "--out", out, "--replace")
    assert store.read_bytes() == before
    assert load_bundle(bundle.path).digest == bundle.digest


def test_labelled_rows_must_have_labels_and_be_new(bundle: Bundle, tmp_path: Path) -> None:
    pairs = _release(_kept(bundle, tmp_path / "pairs"))
    x, y = _rows(300, seed=100, half=True)
    bare, old, few = (tmp_path / f"{name}.npz" for name in ("bare", "old", "few"))
    np.savez(bare, X=x)
    np.savez(old, X=x, y=y)
    new, new_y = _rows(60, seed=5)
    np.savez(few, X=np.concatenate((x, new)), y=np.concatenate((y, new_y)))
    for path, says in (
        (bare, "no array y"),
        (old, "training or calibration saw all 300 labelled rows"),
        (few, "24 labelled rows that the bundle has not seen are left to calibrate on"),
    ):
        with pytest.raises(DataError, match=says):
            _hedge(bundle.path, pairs, "--data", path, "--out", tmp_path / "out")


def test_pairs_that_are_among_the_judging_rows_do_not_teach(
    bundle: Bundle, labelled: Path, tmp_path: Path
) -> None:
    pairs = _release(_kept(bundle, tmp_path / "pairs", seed=200, count=900))
    with pytest.raises(DataError, match=r"0 released pairs can teach.*among the labelled rows"):
        _hedge(bundle.path, pairs, "--data", labelled, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("precision", "variant", "says"),
    [
        ("int8", "tiny", "is int8, and cannot be taught"),
        ("float", "other", "no variant 'other'"),
    ],
)
def test_a_variant_that_cannot_be_taught_is_refused(
    tmp_path: Path, labelled: Path, precision: str, variant: str, says: str
) -> None:
    bundle = _write(tmp_path, precision=precision)
    with pytest.raises(ConfigError, match=says):
        _hedge(
            *(bundle.path, tmp_path / "pairs", "--data", labelled, "--out", tmp_path / "out"),
            *("--variant", variant),
        )


def test_a_tflite_edge_is_refused_with_what_to_do(
    tmp_path: Path, labelled: Path, linear_tflite: Callable[..., bytes]
) -> None:
    bundle = _write(tmp_path)
    files = {name: bundle.read(name) for name in bundle.manifest.files if name != "edge.onnx"}
    edge = Edge(
        name="tiny", file="edge.tflite", format="tflite", output="probabilities", head="softmax"
    )
    lite = write_bundle(
        tmp_path / "lite",
        msgspec.structs.replace(bundle.manifest, edge=(edge,)),
        {**files, "edge.tflite": linear_tflite(3)},
    )
    with pytest.raises(ConfigError, match=r"TFLite .*adapt a bundle of the ONNX model"):
        _hedge(lite.path, tmp_path / "pairs", "--data", labelled, "--out", tmp_path / "out")


@pytest.mark.usefixtures("briefly")
def test_a_bundle_that_is_there_is_not_overwritten(
    bundle: Bundle, labelled: Path, tmp_path: Path
) -> None:
    pairs = _release(_kept(bundle, tmp_path / "pairs"))
    taken = tmp_path / "taken"
    shutil.copytree(bundle.path, taken)
    with pytest.raises(BundleError, match="is there already"):
        _hedge(bundle.path, pairs, "--data", labelled, "--out", taken)
    assert load_bundle(taken).digest == bundle.digest


# ---- How it is divided and judged


def test_groups_stay_together_and_what_was_seen_is_only_learnt_from() -> None:
    x, y = _rows(600, seed=1)
    group = np.arange(600) % 10
    data, seen = Dataset(x=x, y=y, group=group), group == 3
    found = divide(data, seen=seen, seed=2, where="d")
    assert found.by == "group"
    assert found.learn.tolist() == np.flatnonzero(seen).tolist()
    sides = [set(group[rows].tolist()) for rows in (found.calibrate, found.judge)]
    assert sides[0].isdisjoint(sides[1])
    assert len(found.calibrate) + len(found.judge) == 540
    none_seen = divide(data, seen=np.zeros(600, bool), seed=2, where="d")
    assert min(map(len, none_seen[:3])) > 100


def test_a_verdict_needs_a_clear_gain_and_no_clear_loss() -> None:
    random = np.random.default_rng(0)
    cloud = np.ones(500, bool)
    right = random.random(500) < 0.8
    score = random.random(500)
    before = Side(right, score)
    better = Side(right | (random.random(500) < 0.5), score)
    found = judge(before, better, cloud_correct=cloud, share=0.1, group=None, seed=0)
    assert found.is_better
    assert found.edge.change == pytest.approx(better.correct.mean() - right.mean())
    assert found.edge.p_value is not None
    assert found.edge.p_value < 1e-6
    assert found.share_needed < 0.1
    asks = np.argsort(-score, kind="stable")[:50]
    together = right.copy()
    together[asks] = True
    assert found.cooperative.before == pytest.approx(together.mean())
    same = judge(before, before, cloud_correct=cloud, share=0.1, group=None, seed=0)
    assert [one.split(":")[0] for one in same.reasons] == ["no figure is clearly better"]
    worse = judge(better, before, cloud_correct=cloud, share=0.1, group=None, seed=0)
    assert any("edge accuracy is clearly worse" in one for one in worse.reasons)
    assert any("AUGRC is clearly worse" in one for one in worse.reasons)


# ---- From a real worker to a better edge


@pytest.mark.usefixtures("briefly")
def test_what_a_real_worker_kept_makes_a_better_edge(
    bundle: Bundle,
    labelled: Path,
    tmp_path: Path,
    free_port: int,
    start_broker: Callable[..., object],
    mqtt_link: Callable[..., Any],
    start_worker: Callable[..., Worker],
    ask: Callable[..., Ask],
    device: Device,
    collect: Callable[[Pump, threading.Event, int], dict[str, Answer]],
) -> None:
    start_broker("mosquitto", free_port)
    url, pairs = f"mqtt://127.0.0.1:{free_port}", tmp_path / "pairs"
    x, _ = _rows(500, seed=300)
    edge = _outputs(bundle, bundle.manifest.edge[0], x)
    asked = np.flatnonzero(edge.score >= 0.3)
    with contextlib.ExitStack() as stack:
        responders = open_responders(
            [str(bundle.path)],
            servers=Servers.parse([], bundles=[str(bundle.path)], timeout_s=1.0, ca_file=None),
            threads=1,
            stack=stack,
            keeping=[Keeping(folder=pairs, max_bytes=1 << 20, limit=0.5)],
        )
        worker = start_worker(mqtt_link(url, "w0"), responders=responders)
        bell = threading.Event()
        pump = Pump(
            mqtt_link(url, device.name),
            device=device,
            session=7,
            contracts={"cam": contract_of(bundle)},
            outbox=MemoryOutbox(),
            bell=bell,
        )
        pump.start()
        stack.callback(pump.close, timeout_s=1.0)
        said = ask("7-0").opinion
        assert said is not None
        for row in asked.tolist():
            opinion = msgspec.structs.replace(
                said,
                probs=edge.probs[row],
                score=float(edge.score[row]),
                score_name="max_prob",
                vacuity=None,
            )
            made = msgspec.structs.replace(ask(f"7-{row}"), body=x[row], opinion=opinion)
            assert pump.offer(made)
        answers = collect(pump, bell, len(asked))
        assert {one.status for one in answers.values()} == {"answered"}
    kept = worker.counters()["pairs_kept"]
    assert kept > 0.8 * len(asked)
    _release(pairs)
    assert _hedge(bundle.path, pairs, "--data", labelled, "--out", tmp_path / "better") == 0
