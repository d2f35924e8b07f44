"""The reader of a device whose power nothing measures, or nobody wants to know."""

from __future__ import annotations

from .reader import PowerSource


class NullReader:
    """Has no rails and reads nothing."""

    source = PowerSource(name="none", kind="power", rails=(), total=(), scope="none")

    def read(self) -> tuple[float | None, ...]:
        """Return nothing: there are no rails."""
        return ()

    def close(self) -> None:
        """Nothing is open."""
