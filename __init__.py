"""hedge: an edge runtime that knows when to ask the cloud.

The public names, resolved on first use so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.bundle import Bundle, load_bundle
    from .models.errors import (
        BundleError,
        ConfigError,
        DataError,
        HedgeError,
        MissingExtraError,
        ModelError,
        UplinkError,
        WireError,
    )
    from .models.records import Decision, Opinion, Outcome, Sample
    from .runtime.config import load_config
    from .runtime.daemon import serve

__all__ = [
    "Bundle",
    "BundleError",
    "ConfigError",
    "DataError",
    "Decision",
    "HedgeError",
    "MissingExtraError",
    "ModelError",
    "Opinion",
    "Outcome",
    "Sample",
    "UplinkError",
    "WireError",
    "load_bundle",
    "load_config",
    "serve",
]

_PLACES = {
    "Bundle": "models.bundle",
    "BundleError": "models.errors",
    "ConfigError": "models.errors",
    "DataError": "models.errors",
    "Decision": "models.records",
    "HedgeError": "models.errors",
    "MissingExtraError": "models.errors",
    "ModelError": "models.errors",
    "Opinion": "models.records",
    "Outcome": "models.records",
    "Sample": "models.records",
    "UplinkError": "models.errors",
    "WireError": "models.errors",
    "load_bundle": "models.bundle",
    "load_config": "runtime.config",
    "serve": "runtime.daemon",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- whatever the name stands for
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{place}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
