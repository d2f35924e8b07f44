"""Training: splits, losses, export, the recipes, and the bundle that ships."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import dirichlet

from hedge.models.bundle import Bundle, load_bundle
from hedge.models.dataset import Dataset, is_seen, load_dataset, read_seen, row_digests
from hedge.models.errors import BundleError, DataError, MissingExtraError
from hedge.models.onnx_graph import check_graph
from hedge.models.training import RECIPES
from hedge.models.training.measuring import Outputs, measure
from hedge.models.training.skipping import matters, place_threshold
from hedge.models.training.splits import Shares, by_group, by_row
from hedge.models.training.trained import Trained
from hedge.runtime.backends.onnx import OnnxModel
from hedge.runtime.shipped import bundle_path

Array = NDArray[Any]
SHARES = Shares(train=0.5, calibration=0.2)
HAR_LABELS = ("WALKING", "SITTING", "LAYING")


def training(module: str) -> ModuleType:
    """Import a module of the recipes, which needs torch."""
    pytest.importorskip("torch", reason="torch, which trains, is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn, which brings the digits, is missing")
    return importlib.import_module(f"hedge.models.training.{module}")


class Quick(NamedTuple):
    """A bundle that was trained for a few epochs, and what was said meanwhile."""

    bundle: Bundle
    unseen: Dataset
    trained: Trained
    lines: list[str]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Quick:
    lines: list[str] = []
    out = tmp_path_factory.mktemp("trained") / "quick"
    trained = training("digits").train(out, seed=3, say=lines.append, effort=0.1)
    unseen = load_dataset(Path(trained.unseen_file))
    return Quick(load_bundle(out), unseen, trained, lines)


def outputs(bundle: Bundle, data: Dataset) -> Outputs:
    """Return what ONNX Runtime makes of a bundle's models, one row at a time as a device does."""
    files = ("edge.onnx", "cloud.onnx", "skip.onnx")
    edge, cloud, skip = (
        np.concatenate([model.infer(row[None]) for row in data.x])
        for model in (OnnxModel(bundle.read(file), where=file) for file in files)
    )
    probability = 1.0 / (1.0 + np.exp(-skip[:, 0].astype(np.float64)))
    return Outputs(edge, cloud, probability > bundle.manifest.filter[0].threshold)


def windows(*, people: int, each: int, seed: int) -> dict[str, Array]:
    """Return motion that is easy to tell apart: strides, stillness, and a phone on its side."""
    random = np.random.default_rng(seed)
    y = np.tile(np.arange(3), people * each)
    subject = np.repeat(np.arange(people) + 11, 3 * each)
    pace = random.uniform(1.5, 2.5, len(y))[:, None, None] * np.arange(128) / 50
    stride = np.sin(2 * np.pi * (pace + random.random((len(y), 6, 1))))
    moving = np.where(y == 0, 0.4, 0.01)[:, None, None] * stride
    moving += random.normal(size=moving.shape) * 0.01
    gravity = np.zeros((len(y), 3, 1))
    gravity[np.arange(len(y)), np.where(y == 2, 1, 0)] = 1.0
    x = np.concatenate((moving, gravity + moving[:, :3]), axis=1).astype(np.float32)
    return {"X": x, "y": y, "subject": subject, "label_names": np.array(HAR_LABELS)}


# Splits


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_a_split_by_rows_shares_no_row_and_keeps_equal_rows_together(
    seed: int, repeats: int
) -> None:
    random = np.random.default_rng(7)
    x = random.integers(0, 255, (100, 5)).astype(np.uint8)
    x, y = np.concatenate((x, x[:repeats])), np.arange(100) % 3
    y = np.concatenate((y, y[:repeats]))
    split = by_row(x, y, shares=SHARES, seed=seed)
    assert sorted(np.concatenate(split).tolist()) == list(range(100 + repeats))
    digests = [set(row_digests(x[rows]).tolist()) for rows in split]
    assert not digests[0] & digests[1]
    assert not digests[2] & (digests[0] | digests[1])


def test_a_split_by_rows_gives_each_class_the_same_shares_and_another_seed_other_rows() -> None:
    x = np.arange(500, dtype=np.int16)[:, None]
    y = np.repeat([0, 1, 2], [300, 150, 50])
    split = by_row(x, y, shares=SHARES, seed=1)
    counts = [[Counter(y[rows].tolist())[label] for label in range(3)] for rows in split]
    assert counts == [[150, 75, 25], [60, 30, 10], [90, 45, 15]]
    again, other = (by_row(x, y, shares=SHARES, seed=seed) for seed in (1, 2))
    assert np.array_equal(split.unseen, again.unseen)
    assert not np.array_equal(split.unseen, other.unseen)


@given(st.integers(0, 2**32 - 1), st.integers(3, 30))
def test_a_split_by_group_shares_no_group_and_leaves_no_part_empty(seed: int, groups: int) -> None:
    names = np.array([f"p{number % groups}" for number in range(4 * groups)])
    split = by_group(names, shares=Shares(train=13 / 21, calibration=4 / 21), seed=seed)
    found = [set(names[rows].tolist()) for rows in split]
    assert all(found)
    assert sum(len(one) for one in found) == len(found[0] | found[1] | found[2]) == groups
    assert sum(len(rows) for rows in split) == len(names)


def test_two_groups_cannot_be_split() -> None:
    with pytest.raises(DataError, match="2 groups cannot be split into three parts"):
        by_group(np.array([4, 4, 9]), shares=SHARES, seed=0)


# The filter


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 300), st.floats(-3, 3))
def test_a_threshold_loses_at_most_four_in_a_thousand_of_what_matters(
    seed: int, kept: int, redundant: int, between: float
) -> None:
    random = np.random.default_rng(seed)
    keep = np.repeat([True, False], [kept, redundant])
    logits = random.normal(size=kept + redundant) + np.where(keep, between, 0.0)
    passes = 1.0 / (1.0 + np.exp(-logits)) > place_threshold(logits, keep)
    assert np.sum(~passes & keep) <= 0.004 * kept


def test_a_threshold_stands_in_the_middle_of_a_gap() -> None:
    logits = np.array([-7.0, 4.0, -3.0, 1.0])
    keep = np.array([False, True, False, True])
    assert place_threshold(logits, keep) == pytest.approx(1 / (1 + np.exp(1.0)))


def test_what_matters_is_what_the_edge_says() -> None:
    logits = np.array([[0.1, 2.0, 0.3], [3.0, 0.0, 0.0], [0.0, 0.1, 0.2]])
    assert matters(logits, redundant=np.array([1, 2])).tolist() == [False, True, False]


# Losses


def test_the_evidential_loss_is_the_papers_with_a_growing_kl_term() -> None:
    losses, torch = training("losses"), importlib.import_module("torch")
    logits = np.random.default_rng(5).normal(scale=3.0, size=(7, 4))
    y = np.array([0, 3, 1, 1, 2, 0, 3])
    expected = {}
    for weight in (0.0, 0.3, 1.0):
        rows = []
        for row, label in zip(logits, y, strict=True):
            alpha = np.log1p(np.exp(row)) + 1
            wrong = np.where(np.arange(4) == label, 1.0, alpha)
            # the uniform Dirichlet's density is Γ(K), so its cross-entropy is -ln Γ(4)
            divergence = -dirichlet(wrong).entropy() - np.log(6.0)
            rows.append(np.log(alpha.sum()) - np.log(alpha[label]) + weight * divergence)
        expected[weight] = np.mean(rows)
    for weight, value in expected.items():
        loss = losses.evidential(torch.tensor(logits), torch.tensor(y), weight)
        assert loss.item() == pytest.approx(value, rel=1e-9)
    assert expected[1.0] > expected[0.3] > expected[0.0]


def test_evidence_for_the_true_class_is_not_punished() -> None:
    losses, torch = training("losses"), importlib.import_module("torch")
    logits = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True)
    with_term = losses.evidential(logits, torch.tensor([0]), 1.0)
    without = losses.evidential(logits, torch.tensor([0]), 0.0)
    (gradient,) = torch.autograd.grad(with_term - without, logits)
    assert gradient[0, 0] == 0
    assert gradient[0, 1] > 0
    assert gradient[0, 2] > 0


# Augmentation


def test_turning_a_window_keeps_gravity_and_lengths() -> None:
    har, torch = training("har"), importlib.import_module("torch")
    x = torch.tensor(windows(people=3, each=2, seed=1)["X"])
    with training("fitting").repeatable(4):
        turned = har.augment(x)
    gravity, turned_gravity = x[:, 6:] - x[:, :3], turned[:, 6:] - turned[:, :3]
    assert torch.allclose(gravity.norm(dim=1), turned_gravity.norm(dim=1), atol=1e-5)
    factor = turned[:, 3:6].norm(dim=1) / x[:, 3:6].norm(dim=1)
    assert torch.allclose(factor, factor[:, :1].expand_as(factor), rtol=1e-3)
    assert (turned[:, :3].norm(dim=1) / x[:, :3].norm(dim=1)).sub(factor).abs().max() < 1e-3
    assert factor[:, 0].std() > 0.01


def test_digits_are_moved_by_less_than_a_pixel_or_two() -> None:
    digits, torch = training("digits"), importlib.import_module("torch")
    x = torch.zeros(200, 8, 8)
    x[:, 2, 5] = 16.0
    with training("fitting").repeatable(4):
        moved = digits.augment(x.view(200, 64)).view(200, 8, 8)
    assert moved.min() >= 0
    assert moved.max() <= 16
    at = moved / moved.sum((1, 2), keepdim=True)
    row = (at.sum(2) * torch.arange(8.0)).sum(1)
    column = (at.sum(1) * torch.arange(8.0)).sum(1)
    assert (row - 2).abs().max() < 2
    assert (column - 5).abs().max() < 2
    assert row.std() > 0.1


# Export


@pytest.mark.parametrize("net", ["edge", "cloud", "skip"])
@pytest.mark.parametrize("recipe", ["digits", "har"])
def test_an_exported_graph_gives_what_torch_gives(recipe: str, net: str) -> None:
    module, torch = training(recipe), importlib.import_module("torch")
    if recipe == "digits":
        plan, rows = module.plan(), np.random.default_rng(2).integers(0, 17, (40, 64))
        x = rows.astype(np.uint8)
    else:
        plan, x = module.plan(3), windows(people=3, each=2, seed=2)["X"].astype(np.float16)
    with training("fitting").repeatable(6):
        made = getattr(plan, net).net()
        made.train()
        made(torch.tensor(x).float())  # moves the running figures from where they start
        made.eval()
    data = training("export").to_onnx(made, shape=x.shape[1:], dtype=x.dtype.name)
    info = check_graph(data, where="graph")
    assert info.ir_version <= 10
    assert {domain for domain, _ in info.operators} == {""}
    (given_,) = info.inputs
    assert given_.dtype == x.dtype
    assert given_.shape == (None, *x.shape[1:])
    with torch.no_grad():
        expected = made(torch.tensor(x).float()).numpy()
    model = OnnxModel(data, where="graph")
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(model.infer(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.infer(x[4:5]), expected[4:5], rtol=1e-4, atol=1e-5)


def test_the_same_net_gives_the_same_bytes_and_no_path_of_this_machine() -> None:
    export, plan = training("export"), training("digits").plan()
    with training("fitting").repeatable(1):
        net = plan.cloud.net()
    first, second = (export.to_onnx(net, shape=(64,), dtype="uint8") for _ in range(2))
    assert first == second
    assert b".py" not in first
    assert str(Path(__file__).parents[1]).encode() not in first


# Recipes


def test_listing_the_recipes_needs_no_torch() -> None:
    code = (
        "import sys; from hedge.models.training import RECIPES; "
        "print(sorted(RECIPES), {'torch', 'sklearn', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    names = ["bearing", "digits", "har", "motion", "sentiment", "spoken_digits"]
    assert done.stdout.split("\n")[0] == f"{names} set()"


def test_without_torch_a_recipe_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedge.models.training.find_spec", lambda name: name != "torch" or None)
    with pytest.raises(MissingExtraError, match=r"torch .*hedge-runtime\[train\]"):
        RECIPES["digits"](Path("out"), data=None, seed=0, say=print)


def test_the_same_seed_gives_the_same_files_and_another_seed_others(
    quick: Quick, tmp_path: Path
) -> None:
    digits = training("digits")
    again = digits.train(tmp_path / "quick", seed=3, say=str, effort=0.1)
    assert again.digest == quick.trained.digest
    for name in quick.bundle.files:
        assert (tmp_path / "quick" / name).read_bytes() == quick.bundle.read(name)
    unseen = Path(quick.trained.unseen_file).read_bytes()
    assert (tmp_path / "quick-unseen.npz").read_bytes() == unseen
    other = digits.train(tmp_path / "other.hedge", seed=4, say=str, effort=0.1)
    assert other.digest != quick.trained.digest
    assert (tmp_path / "other-unseen.npz").read_bytes() != unseen


def test_a_recipe_tells_how_far_it_is(quick: Quick) -> None:
    first, *epochs = quick.lines
    assert first == "digits: 898 rows to train, 359 to calibrate, 540 unseen"
    assert {line.split(":")[0] for line in epochs} == {"edge", "cloud", "filter"}
    assert all("loss" in line and "calibration accuracy" in line for line in epochs)
    assert "unseen rows  540" in str(quick.trained)


def test_no_unseen_row_was_seen_and_every_other_one_was(quick: Quick) -> None:
    source = importlib.import_module("sklearn.datasets").load_digits()
    manifest = quick.bundle.manifest
    assert manifest.training is not None
    seen = read_seen(quick.bundle.read(manifest.training.seen), where="seen")
    assert not is_seen(quick.unseen.x, seen).any()
    assert is_seen(source.data, seen).sum() == len(seen) == 1797 - 540
    assert quick.unseen.labels == tuple("0123456789")


def test_a_recipe_reports_what_onnx_runtime_finds(quick: Quick) -> None:
    manifest = quick.bundle.manifest
    assert manifest.calibration is not None
    assert quick.unseen.y is not None
    found = measure(
        outputs(quick.bundle, quick.unseen),
        quick.unseen.y,
        edge=manifest.edge[0],
        calibration=manifest.calibration,
        redundant=np.array([0]),
    )
    told = quick.trained.figures
    for name in found.__struct_fields__:
        # a row that lies on a threshold may fall on either side of it
        assert getattr(found, name) == pytest.approx(getattr(told, name), abs=0.01, rel=0.01)


def test_the_figures_count_what_passes_and_the_clouds_answer_where_the_edge_asks(
    quick: Quick,
) -> None:
    manifest = quick.bundle.manifest
    assert manifest.calibration is not None
    sure, unsure = [30.0, 0.0, 0.0], [1.2, 1.0, 0.9]
    edge = np.array([sure, unsure, unsure, sure, [0.0, 30.0, 0.0]])
    cloud = np.array([[0, 0, 9], [0, 9, 0], [0, 0, 9], [9, 0, 0], [9, 0, 0]], np.float64)
    passes = np.array([True, True, True, True, False])
    calibration = manifest.calibration.__class__(
        score="max_prob", total=0.5, method="by hand", rows=1, data_sha256="0" * 64
    )
    found = measure(
        Outputs(edge, cloud, passes),
        np.array([0, 1, 1, 0, 0]),
        edge=manifest.edge[0],
        calibration=calibration,
        redundant=np.array([1]),
    )
    assert (found.rows, found.passed) == (5, 4)
    assert found.edge_accuracy_all == pytest.approx(2 / 5)
    assert found.edge_accuracy == pytest.approx(2 / 4)
    assert found.cloud_accuracy == pytest.approx(2 / 4)
    assert found.accuracy == pytest.approx(3 / 4)
    assert found.gap_recovered is None
    assert found.escalated_share == pytest.approx(2 / 4)
    assert found.dropped_share == pytest.approx(1 / 5)
    assert (found.filter_agreement, found.filter_recall) == (1.0, 1.0)


def test_motion_is_split_by_person_and_its_filter_knows_who_lies(tmp_path: Path) -> None:
    arrays = windows(people=7, each=20, seed=8)
    np.savez(tmp_path / "motion.npz", allow_pickle=False, **arrays)
    out = tmp_path / "new" / "har.hedge"
    har = training("har")
    trained = har.train(out, data=tmp_path / "motion.npz", seed=2, say=str, effort=2.0)
    unseen = load_dataset(tmp_path / "new" / "har-unseen.npz")
    assert unseen.group is not None
    assert unseen.x.dtype == np.float16
    people = set(unseen.group.tolist())
    ours = np.isin(arrays["subject"], list(people))
    assert 1 <= len(people) <= 2
    bundle = load_bundle(out)
    seen = read_seen(bundle.read("seen.npy"), where="seen")
    assert np.array_equal(is_seen(arrays["X"].astype(np.float16), seen), ~ours)
    assert bundle.manifest.filter[0].redundant == ("LAYING",)
    assert trained.figures.edge_accuracy_all > 0.95
    assert trained.figures.filter_recall > 0.99
    assert trained.figures.dropped_share == pytest.approx(1 / 3, abs=0.05)


def test_motion_of_people_is_learnt_from_the_real_data(tmp_path: Path) -> None:
    place = os.environ.get("HEDGE_DATA")
    if place is None:
        pytest.skip("HEDGE_DATA does not say where the data sets are")
    with np.load(Path(place) / "har_windows" / "har_windows_train.npz") as whole:
        arrays = {name: whole[name] for name in ("X", "y", "subject", "label_names")}
    few = arrays["subject"] <= 17
    rows = {name: array[few] if len(array) == len(few) else array for name, array in arrays.items()}
    np.savez(tmp_path / "few.npz", allow_pickle=False, **rows)
    har = training("har")
    trained = har.train(tmp_path / "har", data=tmp_path, seed=0, say=str, effort=0.3)
    assert trained.figures.edge_accuracy > 0.75
    assert trained.figures.cloud_accuracy > trained.figures.edge_accuracy
    assert trained.figures.accuracy > trained.figures.edge_accuracy
    assert trained.figures.filter_recall > 0.95


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((5, 9, 64), np.float16)}, r"X \(5, 9, 64\) should be \(n, 9, 128\)"),
        ({"X": np.zeros((5, 9, 128), np.int16)}, "of floats"),
        ({"X": np.full((5, 9, 128), 2e5, np.float32)}, "X reaches 200000 .g and rad/s"),
        ({"subject": None}, "no array subject, or no label_names"),
        ({"label_names": None}, "no array subject, or no label_names"),
        ({"subject": np.repeat([1, 2], [3, 2])}, "2 groups cannot be split"),
        ({"label_names": np.array(["A", "B"])}, "no label 'LAYING'"),
        ({"y": None}, "no y or no label_names"),
    ],
)
def test_data_that_is_no_motion_is_refused(
    tmp_path: Path, arrays: dict[str, Array | None], message: str
) -> None:
    given_ = {
        "X": np.zeros((5, 9, 128), np.float16),
        "y": np.array([0, 1, 0, 1, 1]),
        "subject": np.arange(5),
        "label_names": np.array(["A", "LAYING"]),
    }
    kept = {name: array for name, array in (given_ | arrays).items() if array is not None}
    np.savez(tmp_path / "motion.npz", allow_pickle=False, **kept)
    with pytest.raises(DataError, match=message):
        training("har").train(tmp_path / "out", data=tmp_path / "motion.npz", say=str)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"digits"}))
def test_recordings_have_to_be_named(name: str) -> None:
    training("har")
    with pytest.raises(DataError, match=r"brings no data along .*--data"):
        RECIPES[name](Path("out"), data=None, seed=0, say=print)


# Recordings: what live sources play


def bearings(*, rows: int, seed: int) -> dict[str, Array]:
    """Return a sound bearing, recorded at one load, and two damaged ones at three."""
    random = np.random.default_rng(seed)
    y, load = np.array([0, 1, 1, 1, 2, 2, 2]), np.array([0, 0, 1, 2, 0, 1, 2])
    time = np.arange(rows) / 12_000
    waves = [
        np.sin(2 * np.pi * (300 + 900 * label + 10 * weight) * time) * (1 + weight)
        + random.normal(size=rows) * 0.2
        for label, weight in zip(y, load, strict=True)
    ]
    return {
        "x": (np.concatenate(waves) * 1000).astype(np.int16),
        "offset": np.arange(len(y) + 1) * rows,
        "scale": np.linspace(0.001, 0.002, len(y)),
        "y": y.astype(np.uint8),
        "load": load.astype(np.uint8),
        "label_names": np.array(["normal", "B007", "IR007"]),
    }


def test_bearings_are_split_by_load_and_a_lone_recording_in_time(tmp_path: Path) -> None:
    arrays = bearings(rows=8 * 1024, seed=1)
    np.savez(tmp_path / "bearings.npz", allow_pickle=False, **arrays)
    out = tmp_path / "bearing.hedge"
    trained = training("bearing").train(out, data=tmp_path, seed=0, say=str, effort=0.2)
    unseen = load_dataset(Path(trained.unseen_file))
    assert unseen.group is not None
    assert np.unique(unseen.group).tolist() == [0, 3, 6]  # the lone one, and those at 2 hp
    of_it = unseen.x[unseen.group == 3].reshape(-1)
    expected = arrays["x"][3 * 8192 : 4 * 8192] * arrays["scale"][3]
    np.testing.assert_array_equal(of_it, expected.astype(np.float32))
    alone = unseen.x[unseen.group == 0].reshape(-1)
    assert len(alone) == 3 * 1024  # the last two fifths of eight windows
    begin = round(8192 * 0.6)
    whole = (arrays["x"][:8192] * arrays["scale"][0]).astype(np.float32)
    np.testing.assert_array_equal(alone, whole[begin : begin + 3 * 1024])
    assert load_bundle(out).manifest.filter == ()
    assert trained.figures.filter_recall is None
    assert "filter" not in str(trained)
    assert trained.figures.cloud_accuracy > 0.6


def streams(*, people: int, rows: int) -> dict[str, Array]:
    """Return people who stand, walk, change over, and stand again."""
    random = np.random.default_rng(3)
    label = np.repeat(np.array([5, 1, 7, 0, 5], np.uint8), rows // 5)
    stride = np.sin(np.arange(rows) / 4)[:, None] * (label == 1)[:, None] * 300
    each = [
        stride + random.normal(size=(rows, 6)) * 5 + [720, 0, 0, 0, 0, 0] for _ in range(people)
    ]
    names = ("NONE", "WALKING", "UP", "DOWN", "SITTING", "STANDING", "LAYING", "STAND_TO_SIT")
    return {
        "x": np.concatenate(each).astype(np.int16),
        "offset": np.arange(people + 1) * rows,
        "label": np.tile(label, people),
        "user": np.arange(people) + 1,
        "scale": np.array([1 / 720] * 3 + [0.0003] * 3),
        "label_names": np.array(names),
        "channels": np.array(["acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"]),
    }


def test_a_stream_is_cut_as_the_device_cuts_it_and_nobody_learns_of_transitions(
    tmp_path: Path,
) -> None:
    motion = training("motion")
    arrays = streams(people=4, rows=3200)
    np.savez(tmp_path / "stream.npz", allow_pickle=False, **arrays)
    out = tmp_path / "motion.hedge"
    trained = motion.train(out, data=tmp_path / "stream.npz", seed=0, say=str, effort=0.2)
    rows, people = motion.cut(arrays)
    assert rows.y is not None
    assert set(rows.y.tolist()) == {0, 4}  # walking and standing
    first = arrays["x"][:128].astype(np.float32) * arrays["scale"].astype(np.float32)
    np.testing.assert_array_equal(rows.x[0], first.T)
    assert len(rows.x) == len(people) < 4 * 49  # of all windows
    assert motion.majority(arrays["label"][:3200]).tolist().count(7) > 5
    spec = load_bundle(out).input
    assert spec.tensor is not None
    assert (spec.tensor.rows, spec.tensor.hop) == (128, 64)
    unseen = load_dataset(Path(trained.unseen_file))
    assert unseen.group is not None
    assert len(np.unique(unseen.group)) == 1


def clips(*, speakers: int, each: int) -> dict[str, Array]:
    """Return digits that are tones, said by voices of different height."""
    random = np.random.default_rng(4)
    y = np.tile(np.arange(10), speakers * each // 10)
    speaker = np.repeat(np.arange(speakers), each)
    lengths = random.integers(2000, 9000, len(y))
    sounds = [
        np.sin(2 * np.pi * (300 + 250 * digit + 20 * who) * np.arange(length) / 8000)
        for digit, who, length in zip(y, speaker, lengths, strict=True)
    ]
    return {
        "audio": (np.concatenate(sounds) * 9000).astype(np.int16),
        "offset": np.concatenate(([0], np.cumsum(lengths))),
        "y": y.astype(np.uint8),
        "speaker": speaker.astype(np.uint8),
        "speaker_names": np.array([f"s{number}" for number in range(speakers)]),
        "sample_rate": np.array(8000),
    }


def test_digits_are_split_by_speaker_and_lie_somewhere_in_their_second(tmp_path: Path) -> None:
    spoken = training("spoken_digits")
    arrays = clips(speakers=4, each=20)
    np.savez(tmp_path / "clips.npz", allow_pickle=False, **arrays)
    out = tmp_path / "spoken.hedge"
    trained = spoken.train(out, data=tmp_path / "clips.npz", seed=0, say=str, effort=0.05)
    unseen = load_dataset(Path(trained.unseen_file))
    assert unseen.group is not None
    (name,) = set(unseen.group.tolist())
    assert unseen.x.shape == (20, 61, 40)
    heard = spoken.heard(tmp_path / "clips.npz", seed=0, speakers={name})
    assert len(heard) == 20
    assert {len(window) for window in heard} == {8000}
    silent = [int(np.argmax(window != 0)) for window in heard]
    assert len(set(silent)) > 5, "it begins anywhere"
    bundle = load_bundle(out)
    again = training("sampling").samples(
        bundle.input, heard, name="spoken", meta={"sample_rate_hz": 8000}
    )
    np.testing.assert_array_equal(again, unseen.x)


def test_other_voices_are_like_the_one_and_not_the_same() -> None:
    spoken, torch = training("spoken_digits"), importlib.import_module("torch")
    x = torch.full((50, 61, 40), -12.0)
    x[:, 25:35, 10:14] = 3.0
    with training("fitting").repeatable(4):
        other = spoken.augment(x)
    assert other.shape == x.shape
    assert torch.isfinite(other).all()
    where = other.flatten(1).argmax(1)
    assert len(set(where.tolist())) > 10


def tweets(path: Path, *, lines: int) -> None:
    random = np.random.default_rng(5)
    words = (("awful", "sad", "bad"), ("today", "monday", "street"), ("great", "lovely", "glad"))
    rows = ["label\ttext"]
    for label in np.arange(lines) % 3:
        said = [*random.choice(words[label], 2), *random.choice(["we", "go", "and", '"it"'], 3)]
        rows.append(f"{label}\t{' '.join(random.permutation(said))}")
    path.write_text("\n".join(rows), "utf-8")


def test_lines_become_pieces_and_no_unseen_line_is_one_that_was_seen(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers, which cuts the lines, is not installed")
    tweets(tmp_path / "train.tsv", lines=1500)
    sentiment = training("sentiment")
    out = tmp_path / "sentiment.hedge"
    trained = sentiment.train(out, data=tmp_path, seed=0, say=str, effort=1.0)
    bundle = load_bundle(out)
    assert bundle.manifest.training is not None
    seen = read_seen(bundle.read(bundle.manifest.training.seen), where="seen")
    unseen = load_dataset(Path(trained.unseen_file))
    assert not is_seen(unseen.x, seen).any()
    assert unseen.x.dtype == np.int32
    assert unseen.x.shape[1:] == (64,)
    assert trained.figures.cloud_accuracy > 0.8
    assert "tokenizer.json" in bundle.files


@pytest.mark.parametrize(
    "text", ["", "text\nhello\n", "label\ttext\nno number\thello\n", "label\ttext\n3\thello\n"]
)
def test_a_file_that_is_no_table_of_lines_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.tsv").write_text(text)
    with pytest.raises(DataError, match=r"train\.tsv"):
        training("sentiment").train(tmp_path / "out", data=tmp_path, say=str)


@pytest.mark.parametrize("net", ["edge", "cloud"])
@pytest.mark.parametrize("recipe", ["bearing", "motion", "spoken_digits", "sentiment"])
def test_an_exported_net_of_an_example_gives_what_torch_gives(recipe: str, net: str) -> None:
    module, torch = training(recipe), importlib.import_module("torch")
    random = np.random.default_rng(2)
    plans = {
        "bearing": lambda: module.plan(10),
        "motion": lambda: module.plan(streams(people=1, rows=10)),
        "spoken_digits": module.plan,
        "sentiment": lambda: module.plan(files={}),
    }
    plan = plans[recipe]()
    x: Array = random.normal(size=(40, *plan.input.shape)).astype(plan.input.dtype)
    if recipe == "sentiment":
        x = random.integers(0, 8000, x.shape).astype(np.int32)
    with training("fitting").repeatable(6):
        made = getattr(plan, net).net()
        made.train()
        made(torch.tensor(x).float())
        made.eval()
    data = training("export").to_onnx(made, shape=x.shape[1:], dtype=x.dtype.name)
    assert {domain for domain, _ in check_graph(data, where="graph").operators} == {""}
    with torch.no_grad():
        expected = made(torch.tensor(x).float()).numpy()
    model = OnnxModel(data, where="graph")
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(model.infer(x), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.infer(x[4:5]), expected[4:5], rtol=1e-3, atol=1e-4)


def test_windows_begin_hop_after_hop_and_none_is_short() -> None:
    windows_of = training("recordings").windows
    rows = np.arange(14).reshape(7, 2)
    assert windows_of(rows, length=3, hop=2)[:, :, 0].tolist() == [
        [0, 2, 4],
        [4, 6, 8],
        [8, 10, 12],
    ]
    assert windows_of(rows, length=8, hop=1).shape == (0, 8, 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"offset": np.array([0, 5])}, "offset does not bound the 9 rows"),
        ({"offset": np.array([0, 8, 4, 9])}, "offset does not ascend"),
        ({"offset": None}, r"cannot be read: .*the recipe bearing takes an \.npz with x, offset"),
    ],
)
def test_recordings_without_sound_bounds_are_refused(
    tmp_path: Path, changed: dict[str, Array | None], message: str
) -> None:
    arrays = {"x": np.zeros(9), "offset": np.array([0, 9])} | changed
    kept = {name: array for name, array in arrays.items() if array is not None}
    np.savez(tmp_path / "some.npz", allow_pickle=False, **kept)
    load = training("recordings").load_arrays
    with pytest.raises(DataError, match=message):
        load(tmp_path, ("x", "offset"), recipe="bearing", suffix=".npz")


def test_a_folder_with_two_data_sets_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    load = training("recordings").load_arrays
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match=r"a\.npz: cannot be read"):
        load(tmp_path, ("x", "offset"), recipe="bearing", suffix=".npz")
    (tmp_path / "b.npz").touch()
    with pytest.raises(DataError, match=r"2 files \*\.npz"):
        load(tmp_path, ("x", "offset"), recipe="bearing", suffix=".npz")


@pytest.mark.parametrize(
    ("x", "message"),
    [(np.zeros((4, 32)), r"X \(4, 32\)"), (np.full((4, 64), 17), "from 0 to 16")],
)
def test_data_that_is_no_digits_is_refused(tmp_path: Path, x: Array, message: str) -> None:
    np.savez(tmp_path / "digits.npz", X=x, y=np.arange(4))
    with pytest.raises(DataError, match=message):
        training("digits").train(tmp_path / "out", data=tmp_path / "digits.npz", say=str)


def test_a_place_that_is_taken_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not a bundle")
    said: list[str] = []
    with pytest.raises(BundleError, match="notes: is there already, and is no sound bundle"):
        training("digits").train(tmp_path / "notes", say=said.append)
    with pytest.raises(BundleError, match="cannot be written"):
        training("digits").train(tmp_path / "notes" / "below", say=said.append)
    assert not said
    assert (tmp_path / "notes").read_text() == "not a bundle"


# The bundle that ships


@pytest.fixture(scope="module")
def shipped() -> tuple[Bundle, Dataset]:
    path = bundle_path("digits")
    return load_bundle(path), load_dataset(path.with_name("digits-unseen.npz"))


def test_the_shipped_digits_are_as_good_as_promised(shipped: tuple[Bundle, Dataset]) -> None:
    bundle, data = shipped
    manifest = bundle.manifest
    assert manifest.calibration is not None
    assert data.y is not None
    found = measure(
        outputs(bundle, data),
        data.y,
        edge=manifest.edge[0],
        calibration=manifest.calibration,
        redundant=np.array(
            [manifest.labels.index(label) for label in manifest.filter[0].redundant]
        ),
    )
    assert found.edge_accuracy_all >= 0.93
    assert found.edge_accuracy >= 0.93
    assert found.cloud_accuracy >= found.edge_accuracy + 0.03
    assert found.escalated_share <= 0.30
    assert found.gap_recovered is not None
    assert found.gap_recovered >= 0.5
    assert found.filter_recall is not None
    assert found.filter_recall >= 0.99
    assert found.dropped_share == pytest.approx(0.1, abs=0.02)


def test_the_shipped_digits_are_small_and_their_rows_unseen(
    shipped: tuple[Bundle, Dataset],
) -> None:
    bundle, data = shipped
    assert sum(bundle.files.values()) < 300_000
    assert bundle.manifest.training is not None
    seen = read_seen(bundle.read(bundle.manifest.training.seen), where="seen")
    assert not is_seen(data.x, seen).any()
    assert "CC-BY-4.0" in bundle.manifest.licence
    assert any("UCI" in citation for citation in bundle.manifest.citations)
