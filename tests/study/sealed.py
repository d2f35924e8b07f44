"""Other rows to test on: files of the kinds that the open data has, found by what is in them."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_HEADER = ["label", "text"]


def npz_files(folder: Path, *arrays: str) -> Iterator[Path]:
    """Yield the .npz below ``folder`` that have all these arrays, in order of their names."""
    for file in sorted(folder.rglob("*.npz")):
        if not zipfile.is_zipfile(file):
            continue
        with np.load(file, allow_pickle=False) as npz:
            if set(arrays) <= set(npz.files):
                yield file


def tsv_files(folder: Path) -> Iterator[Path]:
    """Yield the tables below ``folder`` whose columns are label and text."""
    for file in sorted(folder.rglob("*.tsv")):
        with file.open(encoding="utf-8", newline="") as lines:
            header = next(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), [])
        if header == _HEADER:
            yield file


def only(found: Iterator[Path], *, what: str, folder: Path) -> Path:
    """Return the one file that was found.

    Raises:
        SystemExit: there is none, or more than one.
    """
    match [*found]:
        case [file]:
            return file
        case files:
            names = ", ".join(str(file.relative_to(folder)) for file in files) or "none"
            raise SystemExit(f"{folder}: one file of {what} is needed, found: {names}")
