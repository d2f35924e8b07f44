"""What is fuzzed: something that takes bytes and must not be harmed by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .mutator import Mutator


class Target(Protocol):
    """One entrance for strangers' bytes.

    ``seeds`` are real inputs.
    """

    name: str
    seeds: Sequence[bytes]

    def draw(self, mutator: Mutator) -> bytes:
        """Make an input."""

    def __call__(self, data: bytes) -> None:
        """Read one input.

        Raises:
            AssertionError: something happened that must not.
            Exception: so did this: what is refused is refused within.
        """

    def finish(self) -> None:
        """See whether what is real is still taken, and nothing was kept."""
