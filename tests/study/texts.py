"""Texts: whether a film review, or a tweet, is against something, neutral, or for it.

The edge has a few figures for each frequent piece of a word and takes their mean; the cloud is
MiniLM with a head that is learnt on its figures of a text. Both read the pieces of its tokenizer.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hedge.models.dataset import Dataset, row_digests
from hedge.models.manifest import Edge, Input, TextInput
from hedge.models.training.fitting import Course, epochs, fit, repeatable
from hedge.models.training.fitting import Material as Lessons
from hedge.models.training.losses import evidential
from hedge.models.training.sampling import samples
from hedge.models.training.sentiment import LABELS, as_captured

from . import minilm
from .sealed import only, tsv_files
from .task import EVIDENTIAL, SOFTMAX, Material, Place, Taught
from .teaching import CLOUD_MODEL, cross_entropy, dropping, graph, manifest

TOKENS = 64
_TOKENIZER = "tokenizer.json"
INPUT = Input(
    kind="text",
    shape=(TOKENS,),
    dtype="int32",
    tokenizer=_TOKENIZER,
    text=TextInput(pad_id=minilm.PAD, special=True),
)
_UNKNOWN = 100  # the tokenizer's own number for it
_NUMBERS = 30522
_PIECES = 700  # that the edge knows
_FORGOTTEN = 0.1  # of the pieces of a text, while the edge learns
_THREE = (0, 0, 1, 2, 2)  # the classes of SST-5 as three
_EDGES = (
    Edge(name=EVIDENTIAL, file=f"{EVIDENTIAL}.onnx", head="evidential"),
    Edge(name=SOFTMAX, file=f"{SOFTMAX}.onnx"),
)


class Table(NamedTuple):
    """Texts as samples: x (n, `TOKENS`) int32 and y (n,) from 0 to 2."""

    x: NDArray[np.int32]
    y: NDArray[np.int64]

    def rows(self, which: NDArray[np.intp]) -> Table:
        """Return the rows that are listed."""
        return Table(self.x[which], self.y[which])

    def without(self, *others: Table) -> Table:
        """Return the rows whose samples are in none of the others."""
        known = np.concatenate([row_digests(other.x) for other in others])
        return self.rows(np.flatnonzero(~np.isin(row_digests(self.x), known)))

    def data(self) -> Dataset:
        """Return it as a data set."""
        return Dataset(x=self.x, y=self.y, labels=LABELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """A task of texts: `Maker`'s.

    ``train`` and, if there are any, ``held`` and ``test`` are files in ``folder``; without the
    last two, ``calibrated`` and ``tested`` rows of the first are held out. The cloud's head is
    taught those of its first ``most`` rows that are left.
    """

    NAME: str
    folder: str
    train: str
    test: str | None = None
    held: str | None = None
    calibrated: int = 0
    tested: int = 0
    most: int
    sealed: bool = False
    edge_epochs: int
    width: int
    VERSION: str = "2"
    EDGE: str = "the mean of figures of pieces of words"
    CLOUD: str = "MiniLM, pretrained, with a head"

    def material(self, place: Place) -> Material:
        """Return the rows; which are held out for calibration depends on the seed."""
        train, held, test = self._parts(place)
        source = f"{len(test.y)} other rows of {self.train}" if self.test is None else self.test
        if place.acceptance is not None and self.sealed:
            file = only(tsv_files(place.acceptance), what=self.NAME, folder=place.acceptance)
            test, source = table(file, keep=place.keep), file.name
        new = test.without(train, held)
        left = len(test.y) - len(new.y)
        return Material(
            train=train.data,
            calibration=held.data(),
            test=new.data(),
            test_from=source + (f" less {left} that were known" if left else ""),
        )

    def teach(self, place: Place, material: Material) -> Taught:
        """Teach the edge in both ways, and the cloud's head."""
        train = material.train()
        course = Course(
            net=lambda: Mean(_frequent(train.x), width=self.width),
            loss=evidential,
            epochs=epochs(self.edge_epochs, place.effort),
            batch=256,
            rate=5e-3,
            decay=0.1,
            augment=forget,
        )
        lessons = Lessons(*_tensors(train), *_tensors(material.calibration))
        courses = {
            EVIDENTIAL: course,
            SOFTMAX: dataclasses.replace(course, loss=cross_entropy),
        }
        with repeatable(place.seed):
            nets = {
                what: fit(one, lessons, name=f"{self.NAME}: {what}", say=place.say)
                for what, one in courses.items()
            }
        cloud = self._cloud(place, train, material.calibration)
        return Taught(
            manifest=manifest(self.NAME, spec=INPUT, data=train, edges=_EDGES),
            files={
                **{f"{what}.onnx": graph(net, train) for what, net in nets.items()},
                CLOUD_MODEL.file: graph(cloud, train),
                _TOKENIZER: minilm.tokenizer(),
            },
            seen=row_digests(train.x),
            dropout={f"{what}.onnx": graph(dropping(net), train) for what, net in nets.items()},
        )

    def _parts(self, place: Place) -> tuple[Table, Table, Table]:
        """Return the rows to train on, to calibrate on and to test on."""
        pool = self._pool(place)
        drawn = np.random.default_rng(place.seed).permutation(len(pool.y))
        held, test = (
            pool.rows(np.sort(rows))
            if file is None
            else table(place.data / self.folder / file, keep=place.keep)
            for file, rows in (
                (self.held, drawn[: self.calibrated]),
                (self.test, drawn[self.calibrated : self.calibrated + self.tested]),
            )
        )
        return pool.without(held, test), held, test

    def _pool(self, place: Place) -> Table:
        """Return all that may be trained on, in an order that is the same for all seeds."""
        train = table(place.data / self.folder / self.train, keep=place.keep)
        return train.rows(np.random.default_rng(0).permutation(len(train.y)))

    def _cloud(self, place: Place, train: Dataset, held: Dataset) -> nn.Module:
        """Return MiniLM with a head taught on the first rows that may be trained on."""
        first = self._pool(place)
        first = first.rows(np.arange(min(self.most, len(first.y))))
        seen = minilm.figures(first.x, keep=place.keep, say=place.say)
        taught, checked = (
            np.isin(row_digests(first.x), row_digests(one.x)) for one in (train, held)
        )
        if self.held is not None:  # calibration has a file of its own; a few rows are looked at
            checked = taught & (np.arange(len(first.y)) % 20 == 0)
            taught &= ~checked
        x, y = torch.from_numpy(seen.astype(np.float32)), torch.from_numpy(first.y)
        these, those = torch.from_numpy(taught), torch.from_numpy(checked)
        course = Course(
            net=lambda: Head(x[these]),
            loss=cross_entropy,
            epochs=epochs(_HEAD_EPOCHS, place.effort),
            batch=128,
            rate=1e-3,
            decay=0.1,
        )
        lessons = Lessons(x[these], y[these], x[those], y[those])
        with repeatable(place.seed):
            head = fit(course, lessons, name=f"{self.NAME}: cloud", say=place.say)
        return nn.Sequential(minilm.Trunk(), head).eval()


_HEAD_EPOCHS = 6

SST3 = Texts(
    NAME="sst3",
    folder="sst5",
    train="train.tsv",
    held="dev.tsv",
    test="test.tsv",
    most=9_000,
    edge_epochs=8,
    width=6,
)
TWEETS = Texts(
    NAME="tweets",
    folder="tweeteval_sentiment",
    train="train_pool.tsv",
    calibrated=4000,
    tested=2000,
    most=20_480,
    sealed=True,
    edge_epochs=5,
    width=6,
)


def table(file: Path, *, keep: Path) -> Table:
    """Return the texts of a .tsv with the header label, text; five classes become three.

    Their tokens are in ``keep`` from then on.
    """
    content = file.read_bytes()
    kept = keep / f"tokens-{hashlib.sha256(content).hexdigest()[:16]}.npz"
    if not kept.exists():
        lines = [*_lines(content.decode())]
        y = np.array([label for label, _ in lines], np.int64)
        keep.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial.npz")
        np.savez(partial, x=tokens([text for _, text in lines]), y=y)
        partial.rename(kept)
    with np.load(kept, allow_pickle=False) as npz:
        x, y = npz["x"], npz["y"]
    return Table(x, np.array(_THREE)[y] if y.max() > max(_THREE) else y)


def tokens(lines: Sequence[str]) -> NDArray[np.int32]:
    """Return texts as samples (n, `TOKENS`), as a device makes them."""
    files = {_TOKENIZER: minilm.tokenizer()}
    return samples(INPUT, map(as_captured, lines), name="texts", files=files)


def _lines(content: str) -> Iterator[tuple[int, str]]:
    for line in content.removesuffix("\n").split("\n")[1:]:
        label, _, text = line.rstrip("\r").partition("\t")
        yield int(label), text


class Mean(nn.Module):
    """The mean of what is learnt of each piece of a text; of rare pieces only that they are."""

    def __init__(self, pieces: NDArray[np.intp], *, width: int) -> None:
        super().__init__()
        place = torch.full((_NUMBERS,), 1)
        place[minilm.PAD] = 0
        place[torch.from_numpy(pieces)] = torch.arange(2, len(pieces) + 2)
        self.register_buffer("place", place)
        self.pieces = nn.Embedding(len(pieces) + 2, width, padding_idx=0)
        nn.init.normal_(self.pieces.weight, std=0.1)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, len(LABELS)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 3) of ``x`` (B, tokens), the numbers of the pieces as floats."""
        ids = x.long()
        there = (ids != minilm.PAD).float()
        known = self.pieces(self.get_buffer("place")[ids]) * there[:, :, None]
        logits: Tensor = self.head(4.0 * known.sum(1) / there.sum(1, keepdim=True).clamp(min=1.0))
        return logits


class Head(nn.Module):
    """A hidden layer on a text's figures, which are scaled as they are spread over ``like``."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("middle", like.mean(0))
        self.register_buffer("spread", like.std(0) + 1e-3)
        self.layers = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(like.shape[1], 128),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(128, len(LABELS)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 3) of ``x`` (B, figures)."""
        scaled = (x - self.get_buffer("middle")) / self.get_buffer("spread")
        logits: Tensor = self.layers(scaled)
        return logits


def forget(x: Tensor) -> Tensor:
    """Return the samples ``x`` (B, tokens) with a tenth of their pieces unknown."""
    gone = (torch.rand(x.shape) < _FORGOTTEN) & (x != minilm.PAD)
    return torch.where(gone, float(_UNKNOWN), x)


def _frequent(x: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return the numbers of the pieces that are most frequent in ``x``, but for the padding."""
    often = np.bincount(x.ravel(), minlength=_NUMBERS)
    often[minilm.PAD] = 0
    found = np.argsort(-often, kind="stable")[:_PIECES]
    return found[often[found] > 0]


def _tensors(data: Dataset) -> tuple[Tensor, Tensor]:
    assert data.y is not None
    return torch.from_numpy(data.x.astype(np.float32)), torch.from_numpy(data.y)
