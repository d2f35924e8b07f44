"""The command line `hedge`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from ..models.errors import HedgeError
from . import (
    broker_command,
    bundle_command,
    demo,
    run_command,
    train_command,
    version,
    worker_command,
)
from .children import die_with_parent

_COMMANDS = (run_command, worker_command, demo, bundle_command, train_command, broker_command)
_INTERRUPTED = 128 + signal.SIGINT


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    die_with_parent(os.environ)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service has handlers of its own
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        code: int = options.run(options)
    except HedgeError as error:
        print(f"hedge: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hedge: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
