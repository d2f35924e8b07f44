"""`hedge run`: the device daemon."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..models.errors import UplinkError
from ..telemetry.ledger import StreamReport
from .config import load_config
from .daemon import serve
from .logs import complain


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
    config = load_config(options.config, environ=os.environ)
    try:
        report = serve(
            config,
            base=options.config.resolve().parent,
            report=options.json,
            reread=lambda: load_config(options.config, environ=os.environ),
        )
    except UplinkError as error:  # nothing is wrong with the input: it may be tried again
        complain(f"hedge: {error}", environ=os.environ)
        return 1
    for stream in report.streams:
        print(summary(stream), file=sys.stderr)
    lost = report.counts.get("sink_errors", 0)
    if lost:
        print(f"hedge: {lost} outcomes could not be written", file=sys.stderr)
    return 1 if lost else 0


def summary(stream: StreamReport) -> str:
    """Return in one line where a stream's samples went."""
    ways = [f"{count} {way}" for way, count in stream.routes.items() if count]
    ends = [f"{count} {end}" for end, count in stream.ends.items() if count]
    line = f"{stream.stream}: {stream.read} samples: {', '.join(ways) or 'none'}"
    return f"{line} ({', '.join(ends)})" if ends else line
