"""The tasks of the study of filters: rows, what a model says of them, and which are for what.

Which rows matter is what the model's *outputs* say, never a label. A model that is taught here, or
for the study's other parts, has seen rows that teach the filter, and none of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hedge.models.bundle import load_bundle
from hedge.models.dataset import Dataset
from hedge.models.evidence import Array, softmax
from hedge.models.filtering.rules import rule_of
from hedge.models.measures import Flags, Labels
from hedge.models.model import Model
from hedge.models.prepare import preparer
from hedge.models.training import bearing, sentiment, spoken_digits
from hedge.models.training.export import to_onnx
from hedge.models.training.fitting import Course, Material, fit, repeatable, run
from hedge.models.training.infi.rows import divide
from hedge.models.training.infi.view import View
from hedge.models.training.recordings import bounds, load_arrays, windows
from hedge.models.training.sampling import samples
from hedge.models.training.splits import Shares, Split, by_group, by_row
from hedge.runtime.backends import open_model, open_part
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.both_models import model_outputs

from . import minilm, people, texts
from .kept import tasks
from .makers import maker
from .task import Place
from .teaching import cross_entropy

ONE_THREAD = BackendOptions(threads=1)
_VERSION = "1"
_TIMED = 200

Rows = NDArray[np.intp]


class Facts(NamedTuple):
    """What a task is: in words, the rule of what is redundant, and how a filter sees a sample."""

    data: str
    model: str
    rule: str
    labels: tuple[str, ...]
    seen: View
    streams: bool = True


class Told(NamedTuple):
    """Rows of a task and seed, as graphs are fed them, and what the model says of them.

    ``x`` (N, *shape), ``probs`` (N, K); ``stream`` (N,) tells what came in one piece. ``taught``
    rows teach, ``held`` ones stop that and place the threshold, ``judged`` ones judge, in the
    order in which they come. ``model_us`` is the time of one sample in one thread.
    """

    x: NDArray[Any]
    probs: Array
    stream: NDArray[Any]
    taught: Rows
    held: Rows
    judged: Rows
    model_us: float

    def labels(self) -> Labels:
        """Return the model's labels (N,)."""
        found: Labels = self.probs.argmax(axis=1).astype(np.int64)
        return found


_ACTIVITIES = (
    "WALKING",
    "WALKING_UPSTAIRS",
    "WALKING_DOWNSTAIRS",
    "SITTING",
    "STANDING",
    "LAYING",
)
_WORDS = "down go left no off on right stop up yes silence unknown"
_DIGITS = "zero one two three four five six seven eight nine"
_SOUNDS = "dog rain sea baby clock sneeze helicopter chainsaw rooster fire"
_BEARINGS = "normal IR007 B007 OR007 IR014 B014 OR014 IR021 B021 OR021"
_REVIEW = View("text", (texts.TOKENS,))

FACTS = {
    "har": Facts(
        "HAR: 11 people teach, 5 calibrate, 5 judge",
        "the study's cloud, a convolutional net",
        "labels " + ",".join(_ACTIVITIES[:5]),
        _ACTIVITIES,
        View("vector", (9, 128), "CT"),
    ),
    "fsdd": Facts(
        "FSDD: 2 speakers teach, 1 calibrates, 1 judges",
        "the cloud of the recipe `spoken_digits`",
        "labels zero,one,two,three,four",
        tuple(_DIGITS.split()),
        View("audio", (61, 40), "TF"),
        streams=False,
    ),
    "person": Facts(
        "one video, 1,394 frames at 10 Hz, blocks of 7 s with gaps",
        "MobileNet of MLPerf Tiny, 96 x 96",
        "labels none",
        ("none", "person"),
        View("image", (96, 96, 3), "HWC"),
    ),
    "keywords": Facts(
        "500 clips of keywords, 3/5 teach, 1/5 calibrates, 1/5 judges",
        "DS-CNN of MLPerf Tiny",
        "labels silence,unknown",
        tuple(_WORDS.split()),
        View("audio", (49, 10), "TF"),
        streams=False,
    ),
    "bearing": Facts(
        "CWRU: one load teaches, one calibrates, one judges",
        "the cloud of the recipe `bearing`",
        "labels normal",
        tuple(_BEARINGS.split()),
        View("vector", (1, bearing.ROWS), "CT"),
    ),
    "reviews": Facts(
        "SST-5 as three classes: half of train teaches, dev calibrates, test judges",
        "MiniLM with a head, taught the other half of train",
        "confidence below 0.9",
        sentiment.LABELS,
        _REVIEW,
        streams=False,
    ),
    "esc10": Facts(
        "ESC-10: 2 folds teach, 1 calibrates, 1 judges",
        "a convolutional net, taught here",
        "labels rain,sea,clock,sneeze,helicopter,chainsaw,rooster",
        tuple(_SOUNDS.split()),
        View("audio", (249, 64), "TF"),
        streams=False,
    ),
}


def told(name: str, place: Place) -> Told:
    """Return the rows of a task and seed; what takes long is kept."""
    kept = place.keep / "filters" / f"{name}-{place.seed}-{place.effort}-{_VERSION}.npz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        made = _MAKERS[name](place)
        partial = kept.with_suffix(".partial.npz")
        np.savez(partial, **made._asdict())
        partial.rename(kept)
    with np.load(kept, allow_pickle=False) as npz:
        arrays = {field: npz[field] for field in Told._fields[:-1]}
        return Told(**arrays, model_us=float(npz["model_us"]))


def matters(name: str, rows: Told) -> Flags:
    """Return which rows (N,) matter by the task's rule."""
    facts = FACTS[name]
    return ~rule_of(facts.rule, facts.labels).redundant(rows.probs)


def microseconds(model: Model, x: NDArray[Any]) -> float:
    """Return the median time of one sample, of ``x`` (N, *shape)."""
    took = []
    for row in range(_TIMED):
        one = x[row % len(x)][None]
        began = time.perf_counter_ns()
        model.infer(one)
        took.append(time.perf_counter_ns() - began)
    return float(np.median(took)) / 1e3


def _har(place: Place) -> Told:
    material = people.material(place)
    parts = (material.train(), material.calibration, material.test)
    task = tasks(maker("har"), place)[0]
    bundle = load_bundle(task.bundle)
    whole = Dataset(x=np.concatenate([part.x for part in parts]))
    with closing(open_part(bundle, task.cloud, options=ONE_THREAD)) as model:
        outputs = model_outputs(model, bundle.input, whole)
        fed = preparer(bundle.input)(whole.x)
        took = microseconds(model, fed)
    ends = np.cumsum([len(part.x) for part in parts])
    group = np.concatenate([part.group for part in parts if part.group is not None])
    split = Split(*np.split(np.arange(ends[-1]), ends[:-1]))
    return Told(fed, softmax(outputs), group, *split, took)


def _fsdd(place: Place) -> Told:
    arrays = load_arrays(
        place.data / "fsdd", ("audio", "offset", "y", "speaker"), recipe="fsdd", suffix=".npz"
    )
    plan = spoken_digits.plan(effort=place.effort)
    x = samples(
        plan.input,
        spoken_digits.seconds(arrays, seed=place.seed),
        name="fsdd",
        meta={"sample_rate_hz": spoken_digits.RATE_HZ},
    )
    split = by_group(arrays["speaker"], shares=Shares(train=0.5, calibration=0.25), seed=place.seed)
    return _learnt(place, plan.cloud, x, arrays["y"], split)


def _person(place: Place) -> Told:
    x = _frames(place.data / "video" / "one_by_one_person.mp4", side=96)
    division = divide(Dataset(x=x), seen=np.zeros(len(x), np.bool_), in_order=True, seed=place.seed)
    file = place.data / "models" / "mlperf_tiny_vww_mobilenet96_float.tflite"
    probs, took = _ready(file, x.astype(np.float32) / 255.0)
    block = np.arange(len(x)) * 20 // len(x)
    return Told(x, probs, block, *division[:3], took)


def _keywords(place: Place) -> Told:
    with np.load(place.data / "kws12" / "kws12_mfcc_int8.npz", allow_pickle=False) as npz:
        x, y = npz["X"], npz["y"].astype(np.int64)
    file = place.data / "models" / "mlperf_tiny_kws_dscnn_float.tflite"
    fed = ((x.astype(np.float32) - 83.0) * 0.5847)[..., None]
    probs, took = _ready(file, fed)
    split = by_row(x, y, shares=Shares(train=0.6, calibration=0.2), seed=place.seed)
    return Told(x, probs, np.zeros(len(x)), *_mixed(split, place.seed), took)


def _bearing(place: Place) -> Told:
    names = ("x", "offset", "scale", "y", "load")
    arrays = load_arrays(place.data / "cwru_bearing", names, recipe="bearing", suffix=".npz")
    once = np.bincount(arrays["y"])[arrays["y"]] == 1  # recorded at one load: cut in time
    x, number, part = [], [], []
    for recording, (begin, end) in enumerate(bounds(arrays["offset"])):
        rows = (arrays["x"][begin:end] * arrays["scale"][recording]).astype(np.float32)
        load = (int(arrays["load"][recording]) - place.seed) % 3
        cuts = np.split(rows, [len(rows) * 2 // 5, len(rows) * 7 // 10])
        for which, piece in enumerate(cuts) if once[recording] else ((load, rows),):
            found = windows(piece, length=bearing.ROWS, hop=bearing.ROWS)
            x.append(found[:, None, :])
            number.append(np.full(len(found), recording))
            part.append(np.full(len(found), which))
    group, parts = np.concatenate(number), np.concatenate(part)
    split = Split(*(np.flatnonzero(parts == which) for which in range(3)))
    course = bearing.plan(len(FACTS["bearing"].labels), effort=4 * place.effort).cloud
    learnt = _learnt(place, course, np.concatenate(x), arrays["y"][group], split, mixed=False)
    return learnt._replace(stream=group)


def _reviews(place: Place) -> Told:
    train, held, test = (
        texts.table(place.data / "sst5" / f"{name}.tsv", keep=place.keep)
        for name in ("train", "dev", "test")
    )
    order = np.random.default_rng(0).permutation(len(train.y))  # whose figures are kept
    train = train.rows(order)
    figures = np.concatenate(
        [
            minilm.figures(one.x, keep=place.keep, say=place.say).astype(np.float32)
            for one in (train, held, test)
        ]
    )
    x = np.concatenate([train.x, held.x, test.x])
    y = np.concatenate([train.y, held.y, test.y])
    rows = np.random.default_rng(place.seed).permutation(len(train.y))
    models, taught = np.sort(rows[: len(rows) // 2]), np.sort(rows[len(rows) // 2 :])
    calibrates, judges = np.split(np.arange(len(train.y), len(y)), [len(held.y)])
    split = Split(taught, calibrates, judges)
    learns, y_learns = torch.from_numpy(figures[models]), torch.from_numpy(y[models])
    course = Course(
        net=lambda: texts.Head(learns),
        loss=cross_entropy,
        epochs=max(1, round(6 * place.effort)),
        batch=128,
        rate=1e-3,
        decay=0.1,
    )
    with repeatable(place.seed):
        head = fit(
            course,
            Material(learns, y_learns, learns[:200], y_learns[:200]),
            name="reviews: head",
            say=place.say,
        )
    probs = softmax(run(head, torch.from_numpy(figures)).numpy())
    whole = nn.Sequential(minilm.Trunk(), head).eval()
    graph = to_onnx(whole, shape=x.shape[1:], dtype="int32")
    with closing(open_model(graph, format="onnx", where="reviews", options=ONE_THREAD)) as model:
        took = microseconds(model, x[split.unseen])
    return Told(x, probs, np.zeros(len(x)), *_mixed(split, place.seed), took)


def _esc10(place: Place) -> Told:
    with np.load(place.data / "esc10" / "esc10_logmel.npz", allow_pickle=False) as npz:
        x, y, fold = (npz[name] for name in ("logmel", "y", "fold"))
    split = by_group(fold, shares=Shares(train=0.5, calibration=0.25), seed=place.seed)
    course = Course(
        net=_sounds,
        loss=cross_entropy,
        epochs=max(1, round(60 * place.effort)),
        batch=32,
        decay=1e-2,
        augment=_sound_of_another,
    )
    return _learnt(place, course, x.astype(np.float32), y, split)


def _sounds() -> nn.Module:
    """Return a net for spectra (B, 249, 64) in dB."""
    layers: list[nn.Module] = [spoken_digits.Levelled()]
    for before, after in ((1, 16), (16, 32), (32, 48), (48, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, spoken_digits.Peak(), nn.Dropout(0.4), nn.Linear(64 * 4, 10))


def _sound_of_another(x: Tensor) -> Tensor:
    """Return spectra ``x`` (B, T, F) from another moment, louder or not, with noise."""
    later = x.roll(int(torch.randint(x.shape[1], ()).item()), dims=1)
    return later + 5.0 * torch.randn(len(x), 1, 1) + torch.randn_like(x)


def _learnt(
    place: Place,
    course: Course,
    x: NDArray[Any],
    y: NDArray[Any],
    split: Split,
    *,
    mixed: bool = True,
) -> Told:
    """Teach a model the rows that teach the filter, and let it speak of all."""
    given = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    labels = torch.from_numpy(y.astype(np.int64))
    first, second = split.train, split.calibration
    lessons = Material(given[first], labels[first], given[second], labels[second])
    with repeatable(place.seed):
        net = fit(course, lessons, name="model", say=place.say)
    graph = to_onnx(net, shape=x.shape[1:], dtype="float32")
    with closing(open_model(graph, format="onnx", where="model", options=ONE_THREAD)) as model:
        outputs = _all(model, given.numpy())
        took = microseconds(model, given.numpy())
    parts = _mixed(split, place.seed) if mixed else split
    right = [float((outputs[part].argmax(1) == y[part]).mean()) for part in split]
    place.say(
        "model right on what teaches, places, judges: " + " ".join(f"{one:.3f}" for one in right)
    )
    return Told(given.numpy(), softmax(outputs), np.zeros(len(x)), *parts, took)


def _mixed(split: Split, seed: int) -> Split:
    """Return the split, the rows that judge in no order: clips have none of their own."""
    return split._replace(unseen=np.random.default_rng(seed).permutation(split.unseen))


def _ready(file: Path, fed: NDArray[np.float32]) -> tuple[Array, float]:
    """Return what a ready-made model says of all rows, and its time for one."""
    opened = open_model(file.read_bytes(), format="tflite", where=file.name, options=ONE_THREAD)
    with closing(opened) as model:
        probs = _all(model, fed).astype(np.float64)
        return probs / probs.sum(axis=1, keepdims=True), microseconds(model, fed)


def _all(model: Model, x: NDArray[Any]) -> Array:
    return np.concatenate([model.infer(x[at : at + 64]) for at in range(0, len(x), 64)])


def _frames(file: Path, *, side: int) -> NDArray[np.uint8]:
    """Return the middle square of every frame, (n, side, side, 3)."""
    import av  # noqa: PLC0415 -- one task only needs it
    from PIL import Image  # noqa: PLC0415

    found = []
    with av.open(str(file)) as container:
        for frame in container.decode(video=0):
            whole = frame.to_image()
            edge = (whole.width - whole.height) // 2
            middle = whole.crop((edge, 0, edge + whole.height, whole.height))
            found.append(np.asarray(middle.resize((side, side), Image.Resampling.BILINEAR)))
    return np.stack(found)


_MAKERS: dict[str, Callable[[Place], Told]] = {
    "har": _har,
    "fsdd": _fsdd,
    "person": _person,
    "keywords": _keywords,
    "bearing": _bearing,
    "reviews": _reviews,
    "esc10": _esc10,
}
