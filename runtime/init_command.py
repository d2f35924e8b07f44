"""`hedge init`: find out what a device has and is for, and write its configuration."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ..models.errors import ConfigError
from .checks.device import check_device
from .checks.finding import Finding
from .checks.report import CheckReport, lines
from .config import load_config
from .init.asking import Ask, Terminal, unasked
from .init.draft import Wishes, draft
from .init.hardware import Hardware, find_hardware, hardware_lines
from .init.kinds import SINK_KINDS, SOURCE_KINDS
from .init.writing import beside, put, there_already
from .report import check_place, write_json
from .top.terminal import takes_colours
from .version import installed

_FILE = Path("device.toml")


class Initialised(Struct, frozen=True, kw_only=True):
    """What `hedge init` has found and done; without ``file`` nothing was written."""

    file: str | None
    hardware: Hardware
    findings: tuple[Finding, ...] = ()


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "init",
        help="write a configuration for this device",
        description="Look for cameras, sound cards and serial ports, ask what the flags do not "
        "say, and write a configuration in which every key is explained. It is checked first, "
        "and not written where `hedge check` would find an error. Without a terminal nothing is "
        "asked.",
    )
    parser.add_argument(
        "file", type=Path, nargs="?", default=_FILE, metavar="FILE", help=f"else {_FILE}"
    )
    parser.add_argument("--list", action="store_true", help="only list what was found")
    parser.add_argument("--yes", action="store_true", help="ask nothing, take what is suggested")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    parser.add_argument(
        "--unchecked", action="store_true", help="write it for another machine: check nothing here"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what was found there too")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="PATH",
        help="look for hardware below this folder",
    )
    _add_device(parser)
    _add_source(parser)
    parser.set_defaults(run=run)


def _add_device(parser: argparse.ArgumentParser) -> None:
    device = parser.add_argument_group("the device")
    device.add_argument("--name", help="who it is; else this machine's name")
    device.add_argument("--site", help="where it is; else default")
    device.add_argument("--state-dir", metavar="FOLDER", help="where it keeps its state")
    device.add_argument("--bundle", metavar="BUNDLE", help="the model")
    device.add_argument("--broker", metavar="URL", help='its MQTT broker; "" for none')
    device.add_argument("--password-file", metavar="FILE", help="the password for the broker")
    device.add_argument(
        "--sink",
        action="append",
        default=[],
        metavar="KIND[=PLACE]",
        help=f"where outcomes go: {', '.join(SINK_KINDS)}; may be given again",
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("its source of samples")
    source.add_argument("--source", metavar="KIND", help=", ".join(SOURCE_KINDS))
    source.add_argument("--stream", metavar="NAME", help="what the stream is called")
    source.add_argument("--url", help="video: a camera, an rtsp:// address or a film")
    source.add_argument("--pipeline", metavar="TEXT", help="video: a GStreamer pipeline")
    source.add_argument("--device", metavar="NAME", help="audio, video: the device")
    source.add_argument("--port", metavar="DEVICE", help="serial: the port")
    source.add_argument("--topic", metavar="FILTER", help="mqtt: the topic")
    source.add_argument("--path", help="replay, folder, images, audio, socket: the file or folder")
    source.add_argument("--format", help="serial, mqtt, socket, stdin: what comes")
    source.add_argument(
        "--fields", type=_words, metavar="A,B,…", help="which keys or columns are the channels"
    )
    source.add_argument("--baud", type=int, metavar="N", help="serial: its speed")
    source.add_argument("--rate-hz", type=float, metavar="R", help="replay, folder, video")
    source.add_argument("--source-password-file", metavar="FILE", help="video: for rtsp://user@…")


def run(options: argparse.Namespace) -> int:
    """List what there is, or write the configuration; return the exit code."""
    check_place(options.json)
    if not options.root.is_dir():
        raise ConfigError("is no folder", where=f"--root {options.root}")
    hardware = find_hardware(options.root)
    if options.list:
        print("\n".join(hardware_lines(hardware)))
        write_json(options.json, Initialised(file=None, hardware=hardware))
        return 0
    _check_file(options.file, force=options.force)
    return _write(options, hardware)


def _write(options: argparse.Namespace, hardware: Hardware) -> int:
    ask = _ask(options)
    if ask is not unasked:
        print("\n".join(hardware_lines(hardware)), file=sys.stderr)
    file: Path = options.file
    made = draft(_wishes(options), hardware, ask, base=file.parent)
    with beside(file, made.text.encode()) as fresh:
        _parsed(fresh, file)
        findings = [] if options.unchecked else _checked(fresh, file, root=options.root)
        report = CheckReport.of(findings, version=installed(), target=str(file), kind="config")
        if findings:
            print("\n".join(lines(report, colours=takes_colours(sys.stdout, os.environ))))
        if report.errors:
            print("nothing was written; --unchecked writes it as it is", file=sys.stderr)
        else:
            put(fresh, file, replace=options.force)
            print(f"wrote {file}: see what it sees with `hedge run --dry {file}`")
    written = None if report.errors else str(file)
    done = Initialised(file=written, hardware=hardware, findings=tuple(findings))
    write_json(options.json, done)
    return 1 if report.errors else 0


def _ask(options: argparse.Namespace) -> Ask:
    """Return who answers: the user, where one sits at a terminal and wants to."""
    if options.yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return unasked
    return Terminal(sys.stdin, sys.stderr)


def _wishes(options: argparse.Namespace) -> Wishes:
    given = {name: getattr(options, name) for name in Wishes.__struct_fields__}
    return Wishes(**{**given, "sink": tuple(options.sink)})


def _parsed(fresh: Path, file: Path) -> None:
    """Read the file as the daemon will.

    Raises:
        ConfigError: parts of it do not go together.
    """
    try:
        load_config(fresh, environ={})
    except ConfigError as error:
        where = str(error.where).replace(fresh.name, file.name)
        raise ConfigError(error.what, where=where, hint=error.hint) from error


def _checked(fresh: Path, file: Path, *, root: Path) -> list[Finding]:
    """Return what `hedge check` will find of the file, but for the network's other end."""
    found = check_device(fresh, environ={}, root=root, offline=True)
    return [replace(one, subject=file.name) if one.subject == fresh.name else one for one in found]


def _check_file(file: Path, *, force: bool) -> None:
    """Refuse at once what could not be written after all questions."""
    check_place(file)
    if os.path.lexists(file) and not force:
        raise there_already(file)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))
