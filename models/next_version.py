"""The version of a bundle that comes after another: what a changed copy is called."""

from __future__ import annotations

import re

_LONGEST = 32


def next_version(version: str) -> str:
    """Return ``version`` with its last number one higher, or with one more.

    >>> next_version("1.0.9"), next_version("2.1-rc"), next_version("x" * 32)[-4:]
    ('1.0.10', '2.1-rc.1', 'xx.1')
    """
    front, last = re.fullmatch(r"(.*?)(\d*)", version).groups()  # type: ignore[union-attr]  # always
    end = str(int(last) + 1) if last else ".1"
    return front[: _LONGEST - len(end)] + end
