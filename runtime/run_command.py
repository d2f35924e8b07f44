"""`hedge run`: the device daemon."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .config import load_config
from .daemon import serve
from .report import check_place


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "run",
        help="serve the streams of a configuration",
        description="Serve the streams of a configuration until their sources end, or until "
        "SIGTERM or Ctrl-C.",
    )
    parser.add_argument("config", type=Path, help="the configuration, a TOML file")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the run's report there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the daemon; return the exit code."""
    check_place(options.json)
    config = load_config(options.config, environ=os.environ)
    serve(config, base=options.config.resolve().parent, report=options.json)
    return 0
