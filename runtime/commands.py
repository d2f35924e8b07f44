"""Every command, and the parser of the whole command line."""

from __future__ import annotations

import argparse

from . import (
    bench_command,
    boards_command,
    broker_command,
    bundle_command,
    check_command,
    demo,
    energy_command,
    init_command,
    outbox_command,
    quantize_command,
    run_command,
    service_command,
    top_command,
    train_command,
    version,
    worker_command,
)

_COMMANDS = (
    *(init_command, run_command, check_command, top_command, service_command, worker_command, demo),
    *(outbox_command, energy_command, bundle_command, train_command, quantize_command),
    *(bench_command, boards_command, broker_command),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="hedge", description="An edge runtime that knows when to ask the cloud."
    )
    top.add_argument("--version", action="version", version=f"hedge {version.installed()}")
    top.add_argument(
        "-v", "--verbose", action="store_true", help="log what happens, not only trouble"
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return top
