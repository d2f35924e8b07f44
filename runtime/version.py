"""Which version of hedge is installed."""

from __future__ import annotations

import importlib.metadata


def installed() -> str:
    """Return the version of the installed distribution, "unknown" where there is none."""
    try:
        return importlib.metadata.version("hedge-runtime")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
