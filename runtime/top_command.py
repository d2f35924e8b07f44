"""`hedge top`: watch a running device, on this machine or by what it publishes."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import sys
import threading
import time
from pathlib import Path

from msgspec import Struct

from ..models.errors import ConfigError
from ..telemetry.snapshot import Snapshot
from ..uplink.link.link import Link
from ..uplink.topics import Device
from .both_ends import link_to
from .config import load_config
from .report import check_place, write_json
from .signals import stopped_by_signals
from .top import devices, view
from .top.devices import DeviceList, Listing
from .top.feed import Feed
from .top.feed_mqtt import MqttFeed
from .top.feed_socket import SOCKET, SocketFeed
from .top.lines import Line, Span, coloured, ends, plain, uncoloured
from .top.seen import Seen
from .top.status import statuses
from .top.terminal import Terminal, on_terminal, takes_colours, write

_LOOK_S = 0.1  # between two looks at the keys
_QUIET_S = 1.0  # what is retained has come by then
_SITE = "default"


class TopReport(Struct, frozen=True, kw_only=True):
    """What was known of a device at the end; ``age_s`` is how old the snapshot is."""

    device: str | None
    site: str | None
    state: str | None
    trouble: str | None
    stale: bool
    age_s: float | None
    malformed: int
    oversized: int
    snapshot: Snapshot | None


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "top",
        help="watch a running device",
        description="Show how a running device fares: what each stream does and costs now. Give "
        "its configuration on the device itself, or a broker, and which device. Without --device "
        "the devices that the broker knows are listed. q quits.",
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a TOML file")
    parser.add_argument("--broker", metavar="URL", help="watch by what the device publishes")
    parser.add_argument(
        "--site", metavar="S", help=f"the device's (default: {_SITE}; of a list: every site)"
    )
    parser.add_argument("--device", metavar="D", help="its name")
    for name, about in (
        ("--password-file", "the broker's password"),
        ("--ca-file", "whom mqtts:// trusts"),
        ("--cert-file", "our own certificate"),
        ("--key-file", "the certificate's key"),
    ):
        parser.add_argument(name, type=Path, metavar="PATH", help=about)
    parser.add_argument(
        "--every", type=_seconds, default=1.0, metavar="S", help="draw, and ask, every S seconds"
    )
    parser.add_argument(
        "--once", action="store_true", help="print one screen; exit 1 if nothing comes in time"
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="how long --once waits (default: 10)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write what was known at the end there too"
    )
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.1 <= float(text) <= 86_400:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0.1 and 86400")


def run(options: argparse.Namespace) -> int:
    """Watch until told to stop; return the exit code."""
    if (options.config is None) == (options.broker is None):
        raise ConfigError("what to watch is not clear", hint="give CONFIG.toml or --broker URL")
    check_place(options.json)
    stop = threading.Event()
    with stopped_by_signals(stop.set):
        if options.broker is not None and options.device is None:
            return _choose(options, stop)
        return _watch(_feed(options), options, stop)


def _feed(options: argparse.Namespace) -> Feed:
    if options.broker is not None:
        device = Device(options.site or _SITE, options.device)
        return MqttFeed(_link(options), device=device)
    if options.device is not None or options.site is not None:
        raise ConfigError("--site and --device go with --broker")
    config = load_config(options.config, environ=os.environ)
    return SocketFeed(
        options.config.resolve().parent / config.device.state_dir / SOCKET,
        every_s=options.every,
        device=config.device.name,
        site=config.device.site,
    )


def _link(options: argparse.Namespace) -> Link:
    return link_to(
        options.broker,
        client_id=f"hedge-top-{secrets.token_hex(6)}",
        password_file=options.password_file,
        ca_file=options.ca_file,
        cert_file=options.cert_file,
        key_file=options.key_file,
    )


# ---- One device.


def _watch(feed: Feed, options: argparse.Namespace, stop: threading.Event) -> int:
    with contextlib.closing(feed):
        if options.once:
            code = _once(feed, options, stop)
        elif sys.stdout.isatty():
            with on_terminal(sys.stdout, sys.stdin, environ=os.environ) as terminal:
                code = _live(feed, terminal, options, stop)
        else:
            code = _plainly(feed, options, stop)
        write_json(options.json, _report(feed.seen()))
    return code


def _once(feed: Feed, options: argparse.Namespace, stop: threading.Event) -> int:
    """Print one screen as soon as two snapshots say how fast it goes, or after a while."""
    until_s = time.monotonic() + options.wait
    while time.monotonic() < until_s and not stop.is_set():
        feed.poll(_LOOK_S)
        seen = feed.seen()
        patient_s = max(2.0, 2 * options.every)
        if seen.before is not None or (seen.age_s is not None and seen.age_s > patient_s):
            break
    seen = feed.seen()
    if seen.now is None:
        why = f" ({seen.trouble})" if seen.trouble else ""
        print(plain(f"hedge: no snapshot within {options.wait:g} s{why}"), file=sys.stderr)
        return 1
    _print(view.screen(seen, columns=_columns()))
    return 0


def _live(
    feed: Feed, terminal: Terminal, options: argparse.Namespace, stop: threading.Event
) -> int:
    drawn: tuple[object, ...] = ()
    while not stop.is_set():
        feed.poll(_LOOK_S)
        if "quit" in terminal.pressed():
            break
        seen, (columns, rows) = feed.seen(), terminal.size
        due = (seen.now and seen.now.uptime_s, columns, rows, time.monotonic() // options.every)
        if due != drawn:
            drawn = due
            lines = view.screen(seen, columns=columns, rows=rows - 1)
            terminal.draw(_footed(lines, "q quit", columns, rows))
    return 0


def _plainly(feed: Feed, options: argparse.Namespace, stop: threading.Event) -> int:
    """Print a line now and then, where there is no terminal."""
    due_s = time.monotonic() + options.every
    while not stop.is_set():
        feed.poll(min(_LOOK_S, options.every))
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + options.every
            write(sys.stdout, f"{plain(view.summary(feed.seen()))}\n")
    return 0


def _footed(lines: list[Line], keys: str, columns: int, rows: int) -> list[Line]:
    """Return the lines of a whole terminal, the last of which says what the keys do."""
    blank: Line = ()
    missing = max(0, rows - 1 - len(lines))
    return [*lines, *[blank] * missing, ends((), (Span(keys, "dim"),), columns)][:rows]


def _print(lines: list[Line]) -> None:
    text = coloured if takes_colours(sys.stdout, os.environ) else uncoloured
    write(sys.stdout, "".join(f"{text(line)}\n" for line in lines))


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _report(seen: Seen) -> TopReport:
    return TopReport(
        device=seen.device,
        site=seen.site,
        state=seen.state,
        trouble=seen.trouble,
        stale=seen.stale,
        age_s=seen.age_s,
        malformed=seen.malformed,
        oversized=seen.oversized,
        snapshot=seen.now,
    )


# ---- Which device.


def _choose(options: argparse.Namespace, stop: threading.Event) -> int:
    """List the devices; on a terminal let one be chosen, and watch that."""
    wanted = statuses(options.site)
    with contextlib.closing(DeviceList(_link(options), wanted)) as found:
        if options.once or not sys.stdout.isatty():
            return _list(found, options, stop)
        with on_terminal(sys.stdout, sys.stdin, environ=os.environ) as terminal:
            chosen = _chosen(found, terminal, stop)
        write_json(options.json, found.listing())
    if chosen is None:
        return 0
    return _watch(MqttFeed(_link(options), device=chosen), options, stop)


def _list(found: DeviceList, options: argparse.Namespace, stop: threading.Event) -> int:
    until_s = time.monotonic() + options.wait
    while time.monotonic() < until_s and not stop.is_set():
        found.poll(_LOOK_S)
        if found.quiet_s is not None and found.quiet_s > _QUIET_S:
            break
    listing = found.listing()
    write_json(options.json, listing)
    _print(devices.screen(listing, chosen=-1, columns=_columns()))
    if listing.devices:
        print("watch one with --device D (and --site S)", file=sys.stderr)
    return 0 if listing.devices else 1


def _chosen(found: DeviceList, terminal: Terminal, stop: threading.Event) -> Device | None:
    place = 0
    while not stop.is_set():
        found.poll(_LOOK_S)
        listing = found.listing()
        for key in terminal.pressed():
            match key:
                case "quit":
                    return None
                case "up":
                    place -= 1
                case "down":
                    place += 1
                case "enter" if listing.devices:
                    one = listing.devices[_within(place, listing)]
                    return Device(one.site, one.device)
                case _:
                    pass
        place = _within(place, listing)
        columns, rows = terminal.size
        lines = devices.screen(listing, chosen=place, columns=columns, rows=rows - 1)
        terminal.draw(_footed(lines, "up, down: choose   enter: watch   q: quit", columns, rows))
    return None


def _within(place: int, listing: Listing) -> int:
    return max(0, min(place, len(listing.devices) - 1))
