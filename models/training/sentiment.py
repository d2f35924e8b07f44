"""The recipe `sentiment`: whether a line of text is against something, neutral, or for it.

The lines are cut into the pieces of words that are frequent in the training rows. The edge takes
the mean of what it has learnt of each piece; the cloud reads the pieces in their order, by filters
over two to four of them beside the mean of wider embeddings.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..dataset import Dataset
from ..errors import DataError, MissingExtraError
from ..manifest import Input, TextInput
from .fitting import Course
from .losses import cross_entropy, evidential
from .making import Plan, make
from .recordings import the_file
from .sampling import samples
from .splits import Shares, Split, by_row
from .trained import Trained

LABELS = ("negative", "neutral", "positive")
_TOKENIZER = "tokenizer.json"
_TOKENS = 64
_PIECES = 8000
_PAD, _UNKNOWN = 0, 1
_SPEC = Input(
    kind="text",
    shape=(_TOKENS,),
    dtype="int32",
    tokenizer=_TOKENIZER,
    text=TextInput(pad_id=_PAD, special=False, max_chars=1000),
)
_SHARES = Shares(train=0.9, calibration=0.05)
_TARGET_RATE = 0.3
_FORGOTTEN = 0.1  # of the pieces of a line, while the nets learn
_LICENCE = "for evaluation only (data: tweets of SemEval-2017 task 4; Twitter's terms apply)"
_CITATION = (
    "S. Rosenthal, N. Farra, P. Nakov: SemEval-2017 Task 4: Sentiment Analysis in Twitter. "
    "SemEval 2017, 502-518. https://doi.org/10.18653/v1/S17-2088"
)


def train(
    out: Path,
    *,
    data: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None],
    effort: float = 1.0,
) -> Trained:
    """Make the bundle ``out``; see `Recipe`.

    ``data`` is a .tsv with the header label, text, or a folder with one whose name begins with
    train; labels are 0 to 2. ``effort`` scales the number of epochs; below 1, that of lines.

    Raises:
        DataError: there is no such data, or it is of another kind.
        MissingExtraError: `tokenizers` is not installed.
        BundleError: ``out`` cannot be written, or is something else already.
    """
    y, lines = read_lines(the_file(data, recipe="sentiment", pattern="train*.tsv"))
    some = slice(0, round(len(y) * min(1.0, effort)))
    y, lines = y[some], lines[some]
    split = by_row(np.arange(len(y))[:, None], y, shares=_SHARES, seed=seed)
    say(f"sentiment: learns {_PIECES} pieces of words from {len(split.train)} lines")
    files = {_TOKENIZER: _learn_pieces([lines[row] for row in split.train])}
    x = samples(_SPEC, map(as_captured, lines), name="sentiment", files=files)
    rows = Dataset(x=x, y=y, labels=LABELS)
    made = plan(effort=effort, files=files)
    return make(made, rows, _apart(x, split), out=out, seed=seed, say=say)


def plan(*, effort: float = 1.0, files: dict[str, bytes]) -> Plan:
    """Return how the bundle is made; ``effort`` scales the number of epochs."""

    def epochs(full: int) -> int:
        return round(full * max(1.0, effort))

    return Plan(
        name="sentiment",
        licence=_LICENCE,
        citations=(_CITATION,),
        input=_SPEC,
        target_rate=_TARGET_RATE,
        edge=Course(net=Edge, loss=evidential, epochs=epochs(10), batch=128, augment=forget),
        cloud=Course(
            net=Reader, loss=cross_entropy, epochs=epochs(3), batch=128, decay=1e-2, augment=forget
        ),
        files=files,
    )


def read_lines(path: Path) -> tuple[np.typing.NDArray[np.int64], list[str]]:
    """Return the labels (n,) and the texts of a .tsv with the header label, text.

    Raises:
        DataError: it cannot be read, or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            pairs = [(int(row["label"]), row["text"]) for row in table]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"no table of label and text: {error!r}", where=str(path), hint="tab-separated"
        ) from error
    y = np.array([label for label, _ in pairs], np.int64)
    if not len(y) or y.min() < 0 or y.max() >= len(LABELS):
        raise DataError(f"labels should be 0 to {len(LABELS) - 1}", where=str(path))
    return y, [text for _, text in pairs]


def as_captured(line: str) -> np.typing.NDArray[np.uint8]:
    """Return a line of text as a source gives it: (n,) uint8."""
    return np.frombuffer(line.encode(), np.uint8)


def forget(x: Tensor) -> Tensor:
    """Return the samples ``x`` (B, tokens) with a tenth of their pieces unknown."""
    gone = (torch.rand(x.shape) < _FORGOTTEN) & (x != _PAD)
    return torch.where(gone, float(_UNKNOWN), x)


class Edge(nn.Module):
    """The mean of a few figures of each piece."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.pieces = nn.Embedding(_PIECES, width, padding_idx=_PAD)
        self.head = nn.Linear(width, len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 3) of ``x`` (B, tokens), the numbers of the pieces as floats."""
        ids = x.long()
        there = (ids != _PAD).float()
        mean = self.pieces(ids).sum(1) / there.sum(1, keepdim=True).clamp(min=1.0)
        logits: Tensor = self.head(mean)
        return logits


class Reader(nn.Module):
    """The pieces in their order: filters over two, three and four, beside their mean."""

    def __init__(self, width: int = 64, filters: int = 48) -> None:
        super().__init__()
        self.pieces = nn.Embedding(_PIECES, width, padding_idx=_PAD)
        nn.init.normal_(self.pieces.weight, std=0.1)
        self.filters = nn.ModuleList(nn.Conv1d(width, filters, size) for size in (2, 3, 4))
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(3 * filters + width, len(LABELS)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 3) of ``x`` (B, tokens), the numbers of the pieces as floats."""
        ids = x.long()
        there = (ids != _PAD).float()
        known = self.pieces(ids)
        mean = known.sum(1) / there.sum(1, keepdim=True).clamp(min=1.0)
        found = [one(known.transpose(1, 2)).relu().amax(2) for one in self.filters]
        logits: Tensor = self.head(torch.cat([*found, mean], 1))
        return logits


def _apart(x: np.typing.NDArray[np.int32], split: Split) -> Split:
    """Return the split without the unseen rows whose pieces are those of a row that was seen."""
    seen = {x[row].tobytes() for row in np.concatenate((split.train, split.calibration))}
    return split._replace(
        unseen=np.array([row for row in split.unseen if x[row].tobytes() not in seen], np.intp)
    )


def _learn_pieces(lines: Sequence[str] | Iterable[str]) -> bytes:
    """Return a tokenizer of byte pairs that knows the pieces of ``lines``, as JSON."""
    try:
        import tokenizers  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise MissingExtraError("tokenizers", extra="text") from error
    made: Any = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))  # noqa: S106
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=_PIECES, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    made.train_from_iterator(lines, trainer)
    return str(made.to_str()).encode()
