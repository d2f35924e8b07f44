"""`hedge worker`: answer devices with the cloud models of bundles."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import sys
from pathlib import Path

from ..models.errors import ConfigError
from ..telemetry.clock import boottime_ns
from ..uplink.far_end.probe import Verdict
from ..uplink.far_end.worker import Worker
from ..uplink.link.link import KEEPALIVE_S
from .both_ends import link_to
from .local_server.server import LocalServer, tcp_listener
from .local_server.worker_pages import WorkerPages
from .notify import Notifier
from .open_inference.address import Address
from .signals import stopped_by_signals
from .tracing.opening import open_traces
from .tracing.options import TracesOptions
from .version import installed
from .worker_models import Keeping, Servers, open_responders

_SERVER = re.compile(r"(?:(.+?)=)?((?:https?|grpcs?)://.*)")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "worker",
        help="answer devices with the cloud models of bundles",
        description="Answer what devices ask over MQTT with the cloud models of one or more "
        "bundles, until SIGTERM or Ctrl-C. Workers of one group share the load.",
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
    parser.add_argument(
        "--broker", default="mqtt://127.0.0.1:1883", metavar="URL", help="the MQTT broker"
    )
    parser.add_argument(
        "--group", default="workers", type=_name, help="the group that shares the load"
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="where the broker has no shared subscriptions: be worker I (from 0) of N",
    )
    parser.add_argument(
        "--name", type=_name, default=_own_name(), help="its own (default: host and process)"
    )
    parser.add_argument("--password-file", type=Path, metavar="PATH")
    parser.add_argument("--ca-file", type=Path, metavar="PATH", help="whom mqtts:// trusts")
    parser.add_argument("--cert-file", type=Path, metavar="PATH", help="its own certificate")
    parser.add_argument("--key-file", type=Path, metavar="PATH", help="the certificate's key")
    parser.add_argument(
        "--keepalive-s",
        type=_seconds,
        default=KEEPALIVE_S,
        metavar="S",
        help="after as long without a word the broker is asked whether it is there",
    )
    parser.add_argument(
        "--max-packet-bytes",
        type=_packet,
        metavar="N",
        help="what an MQTT 3.1.1 broker takes, which cannot say so itself",
    )
    parser.add_argument("--threads", type=_threads, default=1, help="threads of the model library")
    _add_serving(parser)
    _add_models(parser)
    _add_pairs(parser)
    _add_labels(parser)
    _add_traces(parser)
    parser.set_defaults(run=run)


def _add_serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch", type=_batch, default=32, metavar="N", help="asks that are answered at once"
    )
    parser.add_argument(
        "--batch-wait-ms",
        type=_milliseconds,
        default=0,
        metavar="MS",
        help="how long the first ask of a batch waits for others (default: not at all)",
    )
    parser.add_argument(
        "--drain-s",
        type=_seconds,
        default=5,
        metavar="S",
        help="for how long asks in hand are still answered after SIGTERM",
    )
    parser.add_argument(
        "--health",
        type=_place,
        metavar="[HOST:]PORT",
        help="serve /healthz, /readyz and /metrics there (host: loopback)",
    )


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-server",
        type=_server,
        action="append",
        default=[],
        metavar="[BUNDLE=]URL",
        help="an Open Inference Protocol server that runs the bundle's cloud model: "
        "http://host:port/MODEL or grpc://host:port/MODEL, https or grpcs for TLS; "
        "once for each bundle that it is for",
    )
    parser.add_argument(
        "--model-timeout-s",
        type=_seconds,
        default=5,
        metavar="S",
        help="after as long without an answer a model's server counts as away; "
        "shorter than --keepalive-s, since the broker waits meanwhile",
    )
    parser.add_argument(
        "--model-ca-file", type=Path, metavar="PATH", help="whom https:// and grpcs:// trust"
    )


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="DIR",
        help="keep there what the edge was unsure of and the cloud sure, for hedge adapt",
    )
    parser.add_argument(
        "--pairs-mb",
        type=_megabytes,
        default=64,
        metavar="N",
        help="at most N MB of them for each bundle (64)",
    )
    parser.add_argument(
        "--pairs-doubt",
        type=_doubt,
        default=0.5,
        metavar="U",
        help="the cloud is sure where its vacuity, without evidence its entropy over ln K, is "
        "below U (0.5)",
    )


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="DIR",
        help="keep there what filters were unsure of, with the answers, for hedge filter update",
    )
    parser.add_argument(
        "--labels-mb",
        type=_megabytes,
        default=64,
        metavar="N",
        help="at most N MB of them for each bundle (64)",
    )


def _add_traces(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traces",
        metavar="URL",
        help="continue the traces of devices, and send the spans to this collector: "
        "OTLP over HTTP, as in http://host:4318",
    )
    parser.add_argument(
        "--traces-headers-file",
        metavar="PATH",
        help="lines NAME: VALUE that go to the collector with every request, as its key",
    )
    parser.add_argument("--traces-ca-file", metavar="PATH", help="whom https:// of --traces trusts")


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{1,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of a-z, 0-9, _ and -")
    return text


def _shard(text: str) -> tuple[int, int]:
    place, _, count = text.partition("/")
    if not (place.isdigit() and count.isdigit() and int(place) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N-1")
    return int(place), int(count)


def run(options: argparse.Namespace) -> int:
    """Serve until stopped; return the exit code."""
    with contextlib.ExitStack() as stack:
        notifier = Notifier()
        stack.callback(notifier.close)
        servers = Servers.parse(
            options.model_server,
            bundles=options.bundles,
            timeout_s=options.model_timeout_s,
            ca_file=options.model_ca_file,
        )
        responders = open_responders(
            options.bundles,
            servers=servers,
            threads=options.threads,
            stack=stack,
            keeping=_keeping(options),
        )
        traces = open_traces(_traces(options), worker=options.name, version=installed())
        stack.callback(traces.close)
        link = link_to(
            options.broker,
            client_id=f"hedge-worker-{options.name}",
            password_file=options.password_file,
            ca_file=options.ca_file,
            cert_file=options.cert_file,
            key_file=options.key_file,
            max_packet_bytes=options.max_packet_bytes,
            keepalive_s=options.keepalive_s,
        )
        worker = Worker(
            link,
            name=options.name,
            responders=responders,
            group=options.group,
            shard=options.shard,
            max_batch=options.batch,
            batch_wait_s=options.batch_wait_ms / 1000,
            on_serving=lambda how: _serving(notifier, how, options.shard),
            on_turn=lambda: notifier.feed(boottime_ns()),
            on_waiting=lambda why: notifier.send(f"STATUS=waiting: {why}"),
            traces=traces,
        )
        if options.health is not None:
            host, port = options.health
            stuck_s = max(60.0, 4.0 * options.model_timeout_s)  # of the calls of one check
            pages = WorkerPages(worker.figures, stuck_s=stuck_s)
            stack.callback(LocalServer(tcp_listener(host, port), pages).close)
        stack.enter_context(stopped_by_signals(worker.stop))
        notifier.send("READY=1")
        worker.run(drain_s=options.drain_s)
    return 0


def _keeping(options: argparse.Namespace) -> list[Keeping]:
    found, pairs, labels = [], options.pairs, options.labels
    if pairs is not None and labels is not None and pairs.resolve() == labels.resolve():
        raise ConfigError("is the folder of the pairs, too", where=f"--labels {labels}")
    if pairs is not None:
        most = options.pairs_mb << 20
        found.append(Keeping(folder=pairs, max_bytes=most, limit=options.pairs_doubt))
    if labels is not None:
        found.append(Keeping(folder=labels, max_bytes=options.labels_mb << 20))
    return found


def _traces(options: argparse.Namespace) -> TracesOptions | None:
    if options.traces is None:
        if options.traces_headers_file or options.traces_ca_file:
            raise ConfigError("files for traces without a collector", hint="give --traces, too")
        return None
    return TracesOptions(
        endpoint=options.traces,
        headers_file=options.traces_headers_file,
        ca_file=options.traces_ca_file,
    )


def _serving(notifier: Notifier, how: Verdict, shard: tuple[int, int]) -> None:
    """Say that asks can come, and how."""
    notifier.send(f"STATUS=serving, {how} subscription")
    print(f"serving, {how} subscription", file=sys.stderr, flush=True)
    if how == "plain" and shard[1] == 1:
        print(
            "this broker shares no subscriptions: of several workers each needs its --shard I/N",
            file=sys.stderr,
            flush=True,
        )


def _threads(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 256):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 256")
    return int(text)


def _seconds(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 65535")
    return int(text)


def _megabytes(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 1_000_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000000")
    return int(text)


def _doubt(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, 1 at most")


def _batch(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 1024):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1024")
    return int(text)


def _milliseconds(text: str) -> int:
    if not (text.isdigit() and int(text) <= 10_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 10000")
    return int(text)


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isdigit() and 1 <= int(port) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT or HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def _server(text: str) -> tuple[str | None, Address]:
    found = _SERVER.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not URL or BUNDLE=URL")
    try:
        return found[1], Address.parse(found[2])
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _packet(text: str) -> int:
    if not (text.isdigit() and 1024 <= int(text) <= 268_435_455):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1024 to 268435455")
    return int(text)


def _own_name() -> str:
    """Return a name for this process: a worker's must be its own, or the broker parts the two."""
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower())[:40]
    return f"{host}-{os.getpid()}"
