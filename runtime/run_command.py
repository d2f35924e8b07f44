"""`hedge run`: the device daemon."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path

from ..models.errors import ConfigError, UplinkError
from ..telemetry.ledger import StreamReport
from .config import Config, load_config
from .daemon import serve
from .dry.dry_run import dry_run
from .logs import complain
from .report import check_place, write_json

_MOST_SAMPLES, _LONGEST_S = 1000, 86_400


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
    _add_dry(parser)
    parser.set_defaults(run=run)


def _add_dry(parser: argparse.ArgumentParser) -> None:
    dry = parser.add_argument_group("to look first: no sink, no uplink, nothing leaves the device")
    dry.add_argument(
        "--dry", action="store_true", help="show the first samples and what would be done"
    )
    dry.add_argument("--samples", type=int, default=10, metavar="N", help="of each stream: 10")
    dry.add_argument(
        "--for", dest="seconds", type=float, default=30.0, metavar="SECONDS", help="at most: 30"
    )
    dry.add_argument(
        "--folder",
        type=Path,
        default=Path("hedge-dry"),
        metavar="DIR",
        help="where files go that show the samples: hedge-dry",
    )


def run(options: argparse.Namespace) -> int:
    """Run the daemon; return the exit code."""
    config = load_config(options.config, environ=os.environ)
    if options.dry:
        return _look(options, config)
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


def _look(options: argparse.Namespace, config: Config) -> int:
    """Show what the streams see; return the exit code: 1 where one gave nothing."""
    check_place(options.json)
    if not 1 <= options.samples <= _MOST_SAMPLES:
        raise ConfigError(f"is not within 1 and {_MOST_SAMPLES}", where="--samples")
    if not 0 < options.seconds <= _LONGEST_S:
        raise ConfigError(f"is not within 0 and {_LONGEST_S}", where="--for")
    found = dry_run(
        config,
        base=options.config.resolve().parent,
        samples=options.samples,
        seconds=options.seconds,
        folder=options.folder,
        say=functools.partial(print, flush=True),
    )
    write_json(options.json, found)
    return 0 if found.is_whole else 1


def summary(stream: StreamReport) -> str:
    """Return in one line where a stream's samples went."""
    ways = [f"{count} {way}" for way, count in stream.routes.items() if count]
    ends = [f"{count} {end}" for end, count in stream.ends.items() if count]
    line = f"{stream.stream}: {stream.read} samples: {', '.join(ways) or 'none'}"
    return f"{line} ({', '.join(ends)})" if ends else line
