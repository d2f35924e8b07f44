"""The nets of filters: what they see, what they compute, and how they are taught."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch, which trains, is not installed")

from hedge.models.dataset import Dataset  # noqa: E402  after the skip
from hedge.models.errors import ConfigError, DataError  # noqa: E402
from hedge.models.manifest import Input, Reuse  # noqa: E402
from hedge.models.training.export import to_onnx  # noqa: E402
from hedge.models.training.infi.nets import ReuseHead, SkipHead, Standard  # noqa: E402
from hedge.models.training.infi.replaying import distances, place_reuse, replay  # noqa: E402
from hedge.models.training.infi.rows import divide  # noqa: E402
from hedge.models.training.infi.teaching import (  # noqa: E402
    Lesson,
    Part,
    contrastive,
    features,
    run,
    teach_reuse,
    teach_skip,
)
from hedge.models.training.infi.view import Modality, View, views  # noqa: E402
from hedge.runtime.backends import open_model  # noqa: E402

TENSOR = Input(kind="tensor", shape=(6, 40), dtype="float32", layout="CT")
VIEWS = (
    View("text", (12,)),
    View("image", (20, 24, 3), "HWC"),
    View("image", (3, 20, 24), "CHW"),
    View("image", (21, 17)),
    View("video", (3, 16, 18, 3)),
    View("audio", (1, 30, 16), "TF"),
    View("audio", (15, 33), "FT"),
    View("vector", (10,)),
    View("vector", (1, 40), "CT"),
    View("vector", (6, 40), "CT"),
    View("feature", (8, 5, 5)),
)


def silent(line: str) -> None:
    """Hear how far training is, and say nothing."""


def drawn(view: View, rows: int, *, seed: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    if view.modality == "text":
        return random.integers(0, 30, (rows, *view.shape)).astype(np.float32)
    return (3 + 2 * random.normal(size=(rows, *view.shape))).astype(np.float32)


@pytest.mark.parametrize("whose", ["ours", "authors"])
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_the_graph_of_each_net_computes_what_the_net_does(view: View, whose: str) -> None:
    x = drawn(view, 5)
    torch.manual_seed(3)
    net = SkipHead(features((view,), vocabulary=30, whose=whose), tasks=2)  # type: ignore[arg-type]
    net.features.begin(torch.from_numpy(x))
    model = open_model(to_onnx(net, shape=view.shape, dtype="float32"), format="onnx", where="net")
    expected = run(net, x)
    assert expected.shape == (5, 2)
    assert np.ptp(expected, axis=0).min() > 0
    np.testing.assert_allclose(model.infer(x), expected, atol=1e-5)
    np.testing.assert_allclose(model.infer(x[:1]), expected[:1], atol=1e-5)


def test_the_authors_image_net_has_the_parameters_that_theirs_has() -> None:
    view = View("image", (224, 224, 3), "HWC")
    net = SkipHead(features((view,), whose="authors"))
    assert sum(one.numel() for one in net.parameters()) == 24_687


def test_the_authors_vector_net_has_the_layers_of_the_thesis() -> None:
    net = SkipHead(features((View("vector", (128,)),), whose="authors"))
    sizes = [tuple(one.shape) for one in net.parameters() if one.dim() == 2]
    assert sizes == [(128, 128), (200, 128), (1, 200)]


def test_standardised_columns_have_mean_0_and_spread_1_and_what_never_moves_stays_finite() -> None:
    x = drawn(View("vector", (4,)), 500)
    x[:, 2] = 7.0
    standard = Standard(4, 1)
    standard.begin(torch.from_numpy(x))
    found = standard(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=0), [1, 1, 0, 1], atol=1e-4)


def test_integer_samples_are_cast_inside_the_graph() -> None:
    view = View("image", (20, 24, 3), "HWC")
    x = np.random.default_rng(1).integers(0, 256, (3, *view.shape)).astype(np.uint8)
    net = SkipHead(features((view,)))
    net.features.begin(torch.from_numpy(x).float())
    model = open_model(to_onnx(net, shape=view.shape, dtype="uint8"), format="onnx", where="net")
    assert model.spec.inputs[0].dtype == np.uint8
    np.testing.assert_allclose(model.infer(x), run(net, x), atol=1e-5)


def test_a_token_that_nobody_was_taught_is_as_any_other_such() -> None:
    view = View("text", (3,))
    net = SkipHead(features((view,), vocabulary=9)).eval()
    net.features.begin(torch.tensor([[0.0, 1.0, 2.0]]))
    told = run(net, np.array([[1, 2, 7], [1, 2, 8], [1, 2, 999], [1, 2, 0]], np.float32))[:, 0]
    assert told[0] == told[1] == told[2] != told[3]


def test_keys_are_as_far_apart_as_weights_times_differences() -> None:
    view = View("vector", (10,))
    net = ReuseHead(features((view,))).eval()
    with torch.no_grad():
        net.root.copy_(torch.linspace(-1, 2, 64))
    x = torch.from_numpy(drawn(view, 2))
    e = net.features(x)
    weights = torch.linspace(-1, 2, 64).square()
    keys = net(x)
    expected = (weights * (e[0] - e[1]).abs()).sum()
    assert expected > 0
    torch.testing.assert_close((keys[0] - keys[1]).abs().sum(), expected)


def test_the_contrastive_loss_is_that_of_the_formula() -> None:
    keys = torch.tensor([[0.0, 1.0], [2.0, 0.5], [0.3, 0.1]])
    b, labels = torch.tensor(-1.5), torch.tensor([4, 4, 7])

    def d(one: int, other: int) -> float:
        away = sum(abs(float(p - q)) for p, q in zip(keys[one], keys[other], strict=True))
        return 1 / (1 + math.exp(-(away - 1.5)))

    different = ((1 - d(0, 2)) ** 2 + (1 - d(1, 2)) ** 2) / 2
    expected = (d(0, 1) ** 2 + different) / 2
    assert contrastive(keys, b, labels).item() == pytest.approx(expected)


def test_a_skip_filter_learns_several_tasks_and_the_same_seed_gives_the_same() -> None:
    x = drawn(View("vector", (10,)), 600)
    target = np.stack([x[:, 0] > 3, x[:, 1] + x[:, 2] > 6], axis=1)
    taught, held = Part(x[:400], target[:400]), Part(x[400:], target[400:])
    seen = (View("vector", (10,)),)
    lesson = Lesson(epochs=15)
    one, other = (
        teach_skip(lambda: features(seen), taught, held, lesson=lesson, seed=4, say=silent)
        for _ in range(2)
    )
    right = (run(one.net, held.x) > 0) == held.target
    assert right.mean(axis=0).min() > 0.85
    assert np.array_equal(run(one.net, held.x), run(other.net, held.x))


def test_training_stops_where_held_out_rows_get_no_better() -> None:
    x = drawn(View("vector", (10,)), 200)
    noise = np.random.default_rng(2).random((200, 1)) > 0.5
    lines: list[str] = []
    found = teach_skip(
        lambda: features((View("vector", (10,)),)),
        Part(x[:150], noise[:150]),
        Part(x[150:], noise[150:]),
        lesson=Lesson(epochs=60, patience=3),
        say=lines.append,
    )
    assert found.epochs < 60
    assert found.loss < 0.8  # that of the best epoch, not of the last
    assert f"of {found.epochs} was the best" in lines[-1]


def test_a_part_of_the_sample_is_all_that_its_net_sees() -> None:
    seen = views(("vector[0:2]", "vector[4:6, 0:10]"), TENSOR)
    assert [one.shape for one in seen] == [(2, 40), (2, 10)]
    net = SkipHead(features(seen)).eval()
    x = drawn(seen[0]._replace(shape=(6, 40)), 2)
    before = run(net, x)
    x[:, 2:4] += 5
    x[:, 4:6, 10:] -= 5
    assert np.array_equal(run(net, x), before)
    x[:, 4, 3] += 5
    assert not np.array_equal(run(net, x), before)


@pytest.mark.parametrize(
    ("spec", "modality"),
    [
        (Input(kind="image", shape=(8, 9, 3), dtype="uint8"), "image"),
        (Input(kind="text", shape=(8,), dtype="int32"), "text"),
        (Input(kind="audio", shape=(8, 9), dtype="float32"), "audio"),
        (Input(kind="audio", shape=(800,), dtype="float32"), "vector"),
        (Input(kind="tensor", shape=(4, 16, 16, 3), dtype="uint8"), "video"),
        (Input(kind="tensor", shape=(64, 4, 4), dtype="float32"), "feature"),
        (Input(kind="tensor", shape=(49, 10, 1), dtype="int8"), "audio"),
        (TENSOR, "vector"),
    ],
)
def test_a_bundles_input_says_its_modality(spec: Input, modality: Modality) -> None:
    assert [one.modality for one in views((), spec)] == [modality]


@pytest.mark.parametrize(
    "text", ["smell", "image[0:2", "vector[1]", "vector[3:3]", "vector[:,:,0:1]", "text", "video"]
)
def test_a_modality_that_the_samples_do_not_have_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--modality"):
        views((text,), TENSOR)


def test_rows_of_a_group_stay_together_and_what_the_model_saw_does_not_judge() -> None:
    group = np.repeat(np.arange(10), 30)
    data = Dataset(x=np.arange(900.0).reshape(300, 3), group=group)
    seen = group < 7
    found = divide(data, seen=seen, seed=5)
    assert found.by == "group"
    parts = [set(group[part]) for part in found[:3]]
    assert sum(map(len, parts)) == 10
    assert len(parts[0] | parts[1] | parts[2]) == 10
    assert len(found.judged) == 60
    assert not seen[found.judged].any()


def test_between_blocks_of_time_there_are_gaps() -> None:
    random = np.random.default_rng(0)
    time = random.permutation(400)
    found = divide(
        Dataset(x=random.normal(size=(400, 3)), time=time), seen=np.zeros(400, bool), seed=1
    )
    part = np.full(400, -1)
    for number, rows in enumerate(found[:3]):
        part[time[rows]] = number
    changes = np.flatnonzero((part[1:] != part[:-1]) & (part[1:] >= 0) & (part[:-1] >= 0))
    assert found.by == "time"
    assert len(changes) == 0
    assert set(part) == {-1, 0, 1, 2}


def test_rows_that_are_equal_stay_together() -> None:
    x = np.tile(np.random.default_rng(0).normal(size=(50, 3)), (4, 1))
    found = divide(Dataset(x=x), seen=np.zeros(200, bool))
    assert not set(found.judged % 50) & set(found.taught % 50)


def test_too_few_rows_are_refused_with_how_many_it_takes() -> None:
    with pytest.raises(DataError, match="20 rows, at least 60"):
        divide(Dataset(x=np.zeros((20, 3))), seen=np.zeros(20, bool))


def test_reuse_asks_for_what_is_far_from_all_keys_and_answers_the_rest() -> None:
    keys = np.array([[0.0], [0.1], [5.0], [0.05], [5.1], [9.0]], np.float32)
    answers = np.array([1, 1, 2, 1, 3, 2])
    found = replay(keys, answers, Reuse(width=1, neighbours=1, distance=0.5))
    assert found.reused.tolist() == [False, True, False, True, True, False]
    assert found.labels.tolist() == [1, 1, 2, 1, 2, 2]
    assert found.rate() == 0.5
    assert found.accuracy(answers) == pytest.approx(5 / 6)
    known = replay(keys, answers, Reuse(width=1, neighbours=1, distance=0.5), far=distances(keys))
    assert np.array_equal(known.labels, found.labels)


def test_a_full_cache_forgets_the_oldest_key() -> None:
    width = 2048  # half of what the cache may take
    keys = np.repeat(np.array([0.0, 1.0, 2.0, 0.0], np.float32), width).reshape(4, width)
    small = Reuse(width=width, neighbours=1, distance=0.5, capacity_bytes=4 * width * 2)
    assert replay(keys, np.arange(4), small).reused.tolist() == [False] * 4
    large = Reuse(width=width, neighbours=1, distance=0.5, capacity_bytes=4 * width * 3)
    assert replay(keys, np.arange(4), large).reused.tolist() == [False, False, False, True]


def test_a_reuse_filter_learns_what_is_alike_and_is_placed_where_it_is_accurate() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, 600)
    x = random.normal(size=(600, 10)).astype(np.float32) * 0.5
    x[:, 4] += 3 * labels
    seen = (View("vector", (10,)),)
    found = teach_reuse(
        lambda: features(seen),
        Part(x[:400], labels[:400]),
        Part(x[400:], labels[400:]),
        lesson=Lesson(epochs=15),
        say=silent,
    )
    assert isinstance(found.net, ReuseHead)
    keys = run(found.net, x[400:])
    placed = place_reuse(keys[:100], labels[400:500], apart=found.net.apart, accuracy=0.95)
    told = replay(keys[100:], labels[500:], placed)
    assert told.rate() > 0.6
    assert told.accuracy(labels[500:]) > 0.9


def test_numbers_that_are_no_tokens_cannot_be_seen_as_text() -> None:
    spec = Input(kind="tensor", shape=(5,), dtype="float32")
    with pytest.raises(ConfigError, match=r"samples of float32 cannot be seen as text"):
        views(("text",), spec)
    assert views(("text",), replace(spec, dtype="int32"))[0].modality == "text"
