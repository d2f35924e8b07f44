"""`hedge broker`: the embedded MQTT broker of the demo, in a process of its own."""

from __future__ import annotations

import argparse
import contextlib

from .broker import serve
from .notify import Notifier


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "broker",
        help="serve an MQTT broker on this machine alone, for trying things out",
        description="Serve MQTT 3.1.1 on the loopback interface, without passwords or storage.",
    )
    parser.add_argument("--port", type=_port, default=1883, help="the TCP port (default: 1883)")
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    with contextlib.closing(Notifier()) as notifier:
        serve(options.port, ready=lambda: notifier.send("READY=1"))
    return 0
