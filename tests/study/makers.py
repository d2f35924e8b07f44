"""The tasks of the study, and what is shown with their models, by name."""

from __future__ import annotations

import importlib
from typing import Any, cast

from .task import Maker

TASKS = ("digits", "har", "cifar10", "sst3", "tweets")
PARTS = ("promises", "shift", "adaptation", "costs", "filters", "active_update")


def maker(name: str) -> Maker:
    """Return the task's module; only then is imported what it needs."""
    match name:
        case "digits" | "cifar10":
            return cast("Maker", _module(name))
        case "har":
            return cast("Maker", _module("people"))
        case "sst3" | "tweets":
            return cast("Maker", getattr(_module("texts"), name.upper()))
        case _:
            raise SystemExit(f"no task {name!r}: {', '.join((*TASKS, *PARTS))}")


def part(name: str) -> Any:  # noqa: ANN401  a module
    """Return the module of one of `PARTS`.

    It has ``study(place)``, whose result is of the type ``FOUND``, and ``page(found)``, which
    returns that as a page shows it.
    """
    return _module(name)


def _module(name: str) -> Any:  # noqa: ANN401  a module
    return importlib.import_module(f".{name}", __package__)
