"""The recipes: how a bundle is made from data. To list them needs no torch; to run one does."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from ..errors import MissingExtraError
from .trained import Trained

_NAMES = ("bearing", "digits", "har", "motion", "sentiment", "spoken_digits")
_NEEDED = {"torch": "torch", "sklearn": "scikit-learn", "tomli_w": "tomli_w"}


class Recipe(Protocol):
    """Trains an edge model, a cloud model and perhaps a skip filter, and writes their bundle."""

    def __call__(
        self, out: Path, *, data: Path | None, seed: int, say: Callable[[str], None]
    ) -> Trained:
        """Write the bundle ``out`` and, beside it, NAME-unseen.npz; return what it achieves.

        ``data`` is a file, mostly an .npz, or a folder that holds one; None takes what the
        recipe brings along. The same seed gives the same files on the same machine. ``say``
        is called with lines that tell how far things are.

        Raises:
            MissingExtraError: torch, or another library of the extra, is not installed.
            DataError: the data is not what the recipe is for.
            BundleError: ``out`` cannot be written, or is something else already.
        """


def _on_first_use(name: str) -> Recipe:
    def train(out: Path, *, data: Path | None, seed: int, say: Callable[[str], None]) -> Trained:
        for module, library in _NEEDED.items():
            if find_spec(module) is None:
                raise MissingExtraError(library, extra="train")
        recipe: Recipe = importlib.import_module(f".{name}", __name__).train
        return recipe(out, data=data, seed=seed, say=say)

    return train


RECIPES: Mapping[str, Recipe] = MappingProxyType({name: _on_first_use(name) for name in _NAMES})
