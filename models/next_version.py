"""The version of a bundle that comes after another: what a changed copy is called."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from .bundle import load_bundle
from .errors import HedgeError

_LONGEST = 32


def next_version(version: str) -> str:
    """Return ``version`` with its last number one higher, or with one more.

    >>> next_version("1.0.9"), next_version("2.1-rc"), next_version("x" * 32)[-4:]
    ('1.0.10', '2.1-rc.1', 'xx.1')
    """
    front, last = re.fullmatch(r"(.*?)(\d*)", version).groups()  # type: ignore[union-attr]  # always
    end = str(int(last) + 1) if last else ".1"
    return front[: _LONGEST - len(end)] + end


def version_for(out: Path, version: str) -> str:
    """Return the next version after ``version`` that a bundle at ``out`` does not have either."""
    taken = {version}
    if os.path.lexists(out):
        with contextlib.suppress(HedgeError):  # damaged, or something else: writing it decides
            taken.add(load_bundle(out).manifest.version)
    while version in taken:
        version = next_version(version)
    return version
