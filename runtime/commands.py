"""Every command, and the parser of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from .version import installed

_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "init": "init_command",
        "run": "run_command",
        "check": "check_command",
        "top": "top_command",
        "service": "service_command",
        "worker": "worker_command",
        "demo": "demo",
        "outbox": "outbox_command",
        "energy": "energy_command",
        "bundle": "bundle_command",
        "train": "train_command",
        "quantize": "quantize_command",
        "evidence": "evidence_command",
        "calibrate": "calibrate_command",
        "filter": "filter_command",
        "adapt": "adapt_command",
        "bench": "bench_command",
        "boards": "boards_command",
        "broker": "broker_command",
    }
)
"""By a command's name the module that adds its parser."""


def parser(name: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or of the command ``name`` alone.

    A device that starts has no time, and no memory, to import what is for a workstation.
    """
    top = argparse.ArgumentParser(
        prog="hedge", description="An edge runtime that knows when to ask the cloud."
    )
    top.add_argument("--version", action="version", version=f"hedge {installed()}")
    top.add_argument(
        "-v", "--verbose", action="store_true", help="log what happens, not only trouble"
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    alone = _MODULES.get(name or "")
    for module in _MODULES.values() if alone is None else (alone,):
        import_module(f".{module}", __package__).add_parser(commands)
    return top
